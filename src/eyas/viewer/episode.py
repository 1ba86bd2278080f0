"""One episode step by step: what the model saw, wrote and did, and what it got for it."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from tokenizers import Tokenizer

from eyas.rollouts.tables import TRAJECTORY_SCHEMA, recorded_action_names
from eyas.viewer.catalog import TrajectoryFile
from eyas.viewer.problems import BadQuestion, NotServed
from eyas.viewer.tokens import add_learning, describe_tokens, token_texts

Row = Mapping[str, Any]
_NAMED = ("action", "executed_name", "parsed_action", "action_name")


def split_key(key: str) -> tuple[str, int]:
    """The file's name and the index of the trajectory in it. Raises `BadQuestion`."""
    name, colon, index = key.rpartition(":")
    if not colon or not index.isdecimal() or len(index) > 18:
        raise BadQuestion(f"key={key[:60]!r} names no episode: it is written as FILE:INDEX, as in the list of episodes")
    return name, int(index)


def read_episode(file: TrajectoryFile, trajectory: int, tokenizer: Tokenizer | None) -> dict[str, Any]:
    """`steps` and `final_messages` of an episode. Raises `NotServed` where it is not there, or damaged."""
    try:
        rows = read_rows(file, trajectory).to_pylist()
        if not rows:
            raise NotServed(f"{file.name} has no episode {trajectory}: go back to the list of episodes")
        names = names_of_actions(file, rows[0]["task"])
        steps = [describe_step(row, names, tokenizer) for row in rows if row["step"] is not None]
        last = rows[-1]
        final = None if last["final_prompt"] is None else _messages(last["final_prompt"], last["first_step"])
        return {"steps": steps, "final_messages": final}
    except (pa.ArrowException, OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise NotServed(f"episode {trajectory} of {file.name} is damaged ({error}): copy the run again") from error


def read_rows(file: TrajectoryFile, trajectory: int) -> pa.Table:
    """The rows of one trajectory."""
    return pq.read_table(
        file.file.path,
        columns=TRAJECTORY_SCHEMA.names,
        filters=[("trajectory", "==", trajectory)],
        partitioning=None,  # pyright: ignore[reportArgumentType]  (a folder named `a=b` is no column)
    )


def names_of_actions(file: TrajectoryFile, task: int) -> dict[str, str]:
    """How the actions of a task are called, by their JSON; where the file does not say, of those that it holds."""
    with pq.ParquetFile(file.file.path) as parquet:
        recorded = recorded_action_names(parquet.schema_arrow)
        if task in recorded:
            return recorded[task]
        table = parquet.read(columns=list(_NAMED))
    names: dict[str, str] = {}
    for action, name in (_NAMED[2:], _NAMED[:2]):
        for pair in table.select([action, name]).group_by([action, name]).aggregate([]).to_pylist():
            if pair[action] is not None and pair[name] is not None:
                names[pair[action]] = pair[name]
    return names


def describe_step(row: Row, names: Mapping[str, str], tokenizer: Tokenizer | None) -> dict[str, Any]:
    """A row of a trajectories table as the page shows it; `names` are those of actions, by their JSON."""
    scores = _loads(row["scores"])
    legal = _legal(row["legal_actions"], names)
    start = scores["start"] if scores else None
    tokens = describe_tokens(tokenizer, row["token_ids"], row["sampling_logprobs"], row["action_start"], start)
    add_learning(tokens or (), row, scores)
    return {
        "step": row["step"],
        "prefix_messages": row["prompt_prefix"],
        "messages": _messages(row["prompt"], row["first_step"]),
        "completion_text": row["completion_text"],
        "thought": row["thought"],
        "action_name": row["action_name"],
        "executed_name": row["executed_name"],
        "executed_by": row["executed_by"],
        "parse": {"ok": row["parse_kind"] == "parsed", "reason": row["parse_reason"], "detail": row["parse_detail"]},
        "facts_written": _loads(row["facts_written"]) or {},
        "facts_truth": _loads(row["facts_truth"]) or {},
        "legal_actions": legal,
        "action_probabilities": _probabilities(scores, legal, row["action_name"], tokenizer) if scores else None,
        "reward": {
            "terms": _loads(row["reward_terms"]) or {},
            "environment_scale": row["environment_scale"],
            "total": row["reward_total"],
        },
        "value": row["value"],
        "advantage": row["advantage"],
        "tokens": tokens,
        "policy_version": row["policy_version"],
        "finish_reason": row["finish_reason"],
    }


def _loads(text: str | None) -> Any:
    return None if text is None else json.loads(text)


def _messages(text: str, first_step: int) -> list[dict[str, Any]]:
    """The recorded messages; `completion_of_step` is the step of this episode that wrote one, where it is here."""
    messages = []
    for message in json.loads(text):
        index = message.get("completion")
        step = first_step + index if isinstance(index, int) else None
        parts = [{"image": p["image"]} if "image" in p else {"text": p["text"]} for p in message["parts"]]
        messages.append({"role": message["role"], "parts": parts, "completion_of_step": step})
    return messages


def _legal(text: str | None, names: Mapping[str, str]) -> list[str] | None:
    """The legal actions by name where the file names them, else as they are recorded."""
    legal = _loads(text)
    if legal is None:
        return None
    encoded = [json.dumps(action) for action in legal]
    return [names.get(code, action if isinstance(action, str) else code) for code, action in zip(encoded, legal)]


def _probabilities(
    scores: Mapping[str, Any], legal: Sequence[str] | None, chosen_name: str | None, tokenizer: Tokenizer | None
) -> list[dict[str, Any]]:
    """Of each scored action its name, probability and whether it was chosen; candidates stand in the order of `legal`."""
    count, chosen = len(scores["candidates"]), scores["chosen"]
    if legal is not None and len(legal) == count:
        names = list(legal)
    elif tokenizer is not None:
        names = ["".join(token_texts(tokenizer, ids)) for ids in scores["candidates"]]
    else:
        names = [f"action {index}" for index in range(count)]
    if chosen_name is not None and 0 <= chosen < count:
        names[chosen] = chosen_name
    probabilities = [math.exp(min(0.0, logprob)) for logprob in scores["logprobs"]]
    return [
        {"name": name, "probability": probability, "is_chosen": index == chosen}
        for index, (name, probability) in enumerate(zip(names, probabilities, strict=True))
    ]
