"""Trajectories to rows and back, as exact inverses; `tables.py` names the columns.

A prompt is stored as what it adds to the previous step's prompt, and a completion that comes back in a later prompt as
the index of its step, so a file grows linearly with the number of steps in conversation mode too.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from eyas.errors import DatasetError
from eyas.rollouts.tables import Row
from eyas.types import (
    ActionScores,
    Completion,
    ExecutedBy,
    ExpertMove,
    FailureReason,
    FinishReason,
    ImagePart,
    Message,
    ParsedAction,
    ParseFailure,
    ParseResult,
    RewardBreakdown,
    Step,
    StopReason,
    TextPart,
    Trajectory,
)

# Fields that are columns as they are.
_EPISODE_FIELDS = ("task", "episode", "seed", "group", "success", "progress", "first_step", "return_before",
                   "fallbacks_before", "final_value")  # fmt: skip
_STEP_FIELDS = ("value", "advantage", "learner_logprobs", "updated_logprobs", "token_advantages")
_COMPLETION_FIELDS = ("token_ids", "sampling_logprobs", "policy_version")


# ----------------------------------------------------------------------------------------------- actions


def encode_action(action: Any) -> Any:
    """JSON form of an action of any space. A number, text, None or list stays as it is; the rest is tagged."""
    if isinstance(action, np.generic | np.ndarray) and action.dtype.kind in "biufU":  # before float: float64 is one
        kind = "array" if isinstance(action, np.ndarray) else "scalar"
        return {kind: action.ravel().tolist(), "dtype": action.dtype.str, "shape": list(action.shape)}
    if action is None or isinstance(action, int | float | str):
        return action
    if type(action) is list:
        return [encode_action(a) for a in action]
    if type(action) is tuple:
        return {"tuple": [encode_action(a) for a in action]}
    if isinstance(action, Mapping):
        return {"dict": [[encode_action(k), encode_action(v)] for k, v in action.items()]}
    raise DatasetError(
        f"an action of type {type(action).__name__} cannot be recorded: use numbers, text or NumPy arrays"
    )


def decode_action(encoded: Any) -> Any:
    """The inverse of `encode_action`."""
    if isinstance(encoded, list):
        return [decode_action(a) for a in encoded]
    if not isinstance(encoded, dict):
        return encoded
    if "tuple" in encoded:
        return tuple(decode_action(a) for a in encoded["tuple"])
    if "dict" in encoded:
        return {decode_action(k): decode_action(v) for k, v in encoded["dict"]}
    dtype = np.dtype(encoded["dtype"])
    if "scalar" in encoded:
        return np.array(encoded["scalar"], dtype)[0]
    return np.array(encoded["array"], dtype).reshape(encoded["shape"])


def action_names(rows: Sequence[Row], name_of: Mapping[int, Callable[[Any], str]]) -> dict[int, dict[str, str]]:
    """How the legal actions in the rows are called, by task and by their JSON; `name_of` says it for each task."""
    names: dict[int, dict[str, str]] = {task: {} for task in name_of}
    for task, legal in {(row["task"], row.get("legal_actions")) for row in rows}:
        for encoded in json.loads(legal or "null") or () if task in names else ():
            code = json.dumps(encoded)
            if code not in names[task]:
                names[task][code] = name_of[task](decode_action(encoded))
    return names


# ----------------------------------------------------------------------------------------------- prompts


def encode_completion(completion: Completion, earlier: Sequence[Completion] = ()) -> Any:
    """JSON form: the whole of it, or the index of an earlier step that it is the completion of."""
    for index in range(len(earlier) - 1, -1, -1):
        if earlier[index] is completion:
            return index
    ids, logprobs = completion.token_ids, completion.sampling_logprobs
    return {
        "text": completion.text,
        "token_ids": None if ids is None else ids.tolist(),
        "sampling_logprobs": None if logprobs is None else logprobs.tolist(),
        "finish_reason": completion.finish_reason.value,
        "policy_version": completion.policy_version,
        "scores": _encode_scores(completion.scores),
    }


def decode_completion(encoded: Any, earlier: Sequence[Completion] = ()) -> Completion:
    """The inverse of `encode_completion`."""
    if isinstance(encoded, int):
        return earlier[encoded]
    ids, logprobs = encoded["token_ids"], encoded["sampling_logprobs"]
    return Completion(
        text=encoded["text"],
        token_ids=None if ids is None else np.array(ids, np.int32),
        sampling_logprobs=None if logprobs is None else np.array(logprobs, np.float32),
        finish_reason=FinishReason(encoded["finish_reason"]),
        policy_version=encoded["policy_version"],
        scores=_decode_scores(encoded["scores"]),
    )


def _encode_scores(scores: ActionScores | None) -> Any:
    if scores is None:
        return None
    candidates = [ids.tolist() for ids in scores.candidates]
    return {
        "start": scores.start,
        "candidates": candidates,
        "logprobs": scores.logprobs.tolist(),
        "chosen": scores.chosen,
        "is_per_token": scores.is_per_token,
    }


def _decode_scores(encoded: Any) -> ActionScores | None:
    if encoded is None:
        return None
    candidates = tuple(np.array(ids, np.int32) for ids in encoded["candidates"])
    return ActionScores(**encoded | {"candidates": candidates, "logprobs": np.array(encoded["logprobs"], np.float32)})


def _encode_message(message: Message, earlier: Sequence[Completion]) -> dict[str, Any]:
    parts = [{"image": p.image_hash} if isinstance(p, ImagePart) else {"text": p.text} for p in message.parts]
    encoded = {"role": message.role, "parts": parts}
    if message.completion is not None:
        encoded["completion"] = encode_completion(message.completion, earlier)
    return encoded


def _decode_message(encoded: Mapping[str, Any], earlier: Sequence[Completion]) -> Message:
    parts = tuple(ImagePart(p["image"]) if "image" in p else TextPart(p["text"]) for p in encoded["parts"])
    completion = decode_completion(encoded["completion"], earlier) if "completion" in encoded else None
    return Message(encoded["role"], parts, completion)


class _PromptEncoder:
    """Encodes a trajectory's prompts in order, each as its difference from the one before."""

    def __init__(self) -> None:
        self._messages: tuple[Message, ...] = ()
        self.completions: list[Completion] = []  # of the steps so far

    def encode(self, messages: tuple[Message, ...]) -> tuple[int, str]:
        """Number of leading messages shared with the last prompt, and the JSON of the rest (at least one message)."""
        prefix = 0
        limit = min(len(messages) - 1, len(self._messages))
        while prefix < limit and self._is_same(messages[prefix], self._messages[prefix]):
            prefix += 1
        self._messages = messages
        return prefix, json.dumps([_encode_message(m, self.completions) for m in messages[prefix:]])

    def _is_same(self, message: Message, other: Message) -> bool:
        # Message.__eq__ would compare NumPy arrays by truth value.
        if message is other:
            return True
        if message.role != other.role or message.parts != other.parts:
            return False
        if message.completion is other.completion:
            return True
        first, second = (_encode_message(m, self.completions) for m in (message, other))
        return first == second


def _decode_prompt(
    previous: tuple[Message, ...], prefix: int, rest: str, earlier: Sequence[Completion]
) -> tuple[Message, ...]:
    return previous[:prefix] + tuple(_decode_message(m, earlier) for m in json.loads(rest))


def image_hashes(messages: Sequence[Message]) -> list[str]:
    """The pictures in the messages, in order."""
    return [p.image_hash for m in messages for p in m.parts if isinstance(p, ImagePart)]


# ----------------------------------------------------------------------------------------------- trajectories


def encode_trajectory(trajectory: Trajectory) -> list[Row]:
    """The rows of a trajectory: one a step, or a single one without a step index where there are no steps."""
    encoder = _PromptEncoder()
    rows = [_encode_step(step, encoder) for step in trajectory.steps] or [{}]
    episode = {field: getattr(trajectory, field) for field in _EPISODE_FIELDS}
    episode |= {"stop_reason": trajectory.stop_reason.value, "total_return": trajectory.total_return}
    for index, row in enumerate(rows):
        row |= episode | {"step": trajectory.first_step + index if trajectory.steps else None}
    if trajectory.final_messages is not None:
        rows[-1]["final_prompt_prefix"], rows[-1]["final_prompt"] = encoder.encode(trajectory.final_messages)
    return rows


def decode_trajectory(rows: Sequence[Row]) -> Trajectory:
    """The inverse of `encode_trajectory`."""
    steps: list[Step] = []
    messages: tuple[Message, ...] = ()
    completions: list[Completion] = []
    for row in rows:
        if row["step"] is not None:
            messages = _decode_prompt(messages, row["prompt_prefix"], row["prompt"], completions)
            steps.append(_decode_step(row, messages))
            completions.append(steps[-1].completion)
    last = rows[-1]
    final = None
    if last["final_prompt"] is not None:
        final = _decode_prompt(messages, last["final_prompt_prefix"], last["final_prompt"], completions)
    return Trajectory(
        **{name: last[name] for name in _EPISODE_FIELDS},
        steps=steps,
        stop_reason=StopReason(last["stop_reason"]),
        final_messages=final,
    )


def _encode_step(step: Step, encoder: _PromptEncoder) -> Row:
    prefix, prompt = encoder.encode(step.messages)
    encoder.completions.append(step.completion)
    completion = step.completion
    return {
        "prompt_prefix": prefix,
        "prompt": prompt,
        "image_hashes": image_hashes(step.messages[prefix:]),
        "completion_text": completion.text,
        **{field: getattr(completion, field) for field in _COMPLETION_FIELDS},
        "finish_reason": completion.finish_reason.value,
        "scores": None if completion.scores is None else json.dumps(_encode_scores(completion.scores)),
        **_encode_parse(step),
        "action": json.dumps(encode_action(step.action)),
        "executed_name": step.action_name,
        "executed_by": step.executed_by.value,
        "reward_terms": json.dumps({name: float(term) for name, term in step.reward.terms.items()}),
        "environment_scale": step.reward.environment_scale,
        "reward_total": step.reward.total,
        "facts_truth": json.dumps(dict(step.facts)),
        "legal_actions": json.dumps(
            None if step.legal_actions is None else [encode_action(a) for a in step.legal_actions]
        ),
        "expert_move": _encode_move(step.expert_move),
        **{field: getattr(step, field) for field in _STEP_FIELDS},
    }


def _decode_step(row: Row, messages: tuple[Message, ...]) -> Step:
    return Step(
        messages=messages,
        completion=Completion(
            text=row["completion_text"],
            **{field: row[field] for field in _COMPLETION_FIELDS},
            finish_reason=FinishReason(row["finish_reason"]),
            scores=None if row["scores"] is None else _decode_scores(json.loads(row["scores"])),
        ),
        parse=_decode_parse(row),
        action=decode_action(json.loads(row["action"])),
        action_name=row["executed_name"],
        executed_by=ExecutedBy(row["executed_by"]),
        reward=RewardBreakdown(json.loads(row["reward_terms"]), row["environment_scale"]),
        facts=json.loads(row["facts_truth"]),
        legal_actions=_decode_legal(row["legal_actions"]),
        expert_move=_decode_move(row["expert_move"]),
        **{field: row[field] for field in _STEP_FIELDS},
    )


def _decode_legal(encoded: str) -> tuple[Any, ...] | None:
    legal = json.loads(encoded)
    return None if legal is None else tuple(decode_action(a) for a in legal)


def _encode_move(move: ExpertMove | None) -> str | None:
    if move is None:
        return None
    told = {"facts": dict(move.facts), "thought": move.thought, "is_lost": move.is_lost}
    return json.dumps({"action": encode_action(move.action), **told})


def _decode_move(encoded: str | None) -> ExpertMove | None:
    if encoded is None:
        return None
    told = json.loads(encoded)
    return ExpertMove(**{**told, "action": decode_action(told["action"])})


def _encode_parse(step: Step) -> Row:
    parse = step.parse
    if isinstance(parse, ParseFailure):
        told = {"parse_kind": "failure", "parse_reason": parse.reason.value, "parse_detail": parse.detail}
        return told | {"action_start": parse.action_start}
    return {
        "parse_kind": "parsed",
        "action_name": parse.name,
        "parsed_action": json.dumps(encode_action(parse.action)),
        "thought": parse.thought,
        "facts_written": json.dumps(dict(parse.facts)),
        "action_start": parse.action_start,
    }


def _decode_parse(row: Row) -> ParseResult:
    if row["parse_kind"] == "failure":
        return ParseFailure(FailureReason(row["parse_reason"]), row["parse_detail"], row["action_start"])
    action = decode_action(json.loads(row["parsed_action"]))
    facts = json.loads(row["facts_written"])
    return ParsedAction(action, row["action_name"], row["thought"], facts, row["action_start"])
