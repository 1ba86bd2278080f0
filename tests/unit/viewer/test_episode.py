"""One episode against the trajectory that was recorded."""

import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient

from eyas.rollouts.datasets import load_trajectories
from eyas.rollouts.images import MemoryImageStore
from eyas.rollouts.recorder import TrajectoryRecorder
from eyas.types import (
    ActionScores,
    Completion,
    ExecutedBy,
    FailureReason,
    Message,
    ParsedAction,
    ParseFailure,
    RewardBreakdown,
    Step,
    StopReason,
    TextPart,
    Trajectory,
)
from eyas.viewer.films import read_recorded
from eyas.viewer.folders import RunFolder


def ask(client: TestClient, key: str, run: str = "made") -> dict[str, Any]:
    response = client.get("/api/episode", params={"run": run, "key": key})
    assert response.status_code == 200, response.text
    return response.json()


def record(folder: Path, *steps: Step, name_of: Any = None, **fields: Any) -> None:
    """A run with a single episode."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.toml").write_text('name = "single"\n')
    trajectory = Trajectory(0, 0, 0, list(steps), StopReason.TERMINATED, **fields)
    with TrajectoryRecorder(folder, MemoryImageStore()) as recorder:
        recorder.record("rl_000000", [trajectory], name_of, stage="rl", iteration=0, env_id="some/Env")


def one_step(completion: Completion, parse: Any, **fields: Any) -> Step:
    prompt = (Message("user", (TextPart("?"),)),)
    return Step(prompt, completion, parse, 1, ExecutedBy.POLICY, RewardBreakdown({"environment": 2.0}, 0.5), **fields)


def test_an_episode_is_what_was_recorded(client: TestClient, generated: Path) -> None:
    recorded = load_trajectories(generated, "rl_000001")[2]
    answer = ask(client, "rl_000001:2")
    assert answer["episode"]["episode"] == recorded.episode
    assert len(answer["steps"]) == len(recorded.steps)
    for index, (told, step) in enumerate(zip(answer["steps"], recorded.steps, strict=True)):
        assert told["step"] == index
        assert told["completion_text"] == step.completion.text
        assert told["executed_by"] == step.executed_by.value
        assert told["executed_name"] == step.action_name
        assert told["parse"]["ok"] == isinstance(step.parse, ParsedAction)
        assert told["facts_truth"] == dict(step.facts)
        assert told["reward"] == {"terms": step.reward.terms, "environment_scale": 1.0, "total": step.reward.total}
        assert told["value"] == step.value and told["advantage"] == step.advantage
        assert told["legal_actions"] == ["left", "down", "right", "up"]
        assert told["finish_reason"] == "stop"


def test_scored_actions_have_names_and_probabilities_that_sum_to_one(client: TestClient, generated: Path) -> None:
    recorded = load_trajectories(generated, "rl_000001")
    index, step = next((i, s) for i, t in enumerate(recorded) for s in t.steps[:1] if s.completion.scores is not None)
    told = ask(client, f"rl_000001:{index}")["steps"][0]["action_probabilities"]
    scores = step.completion.scores
    assert scores is not None
    assert [action["name"] for action in told] == ["left", "down", "right", "up"]
    assert [action["probability"] for action in told] == pytest.approx(np.exp(scores.logprobs).tolist())
    assert sum(action["probability"] for action in told) == pytest.approx(1, abs=1e-5)
    assert [action["is_chosen"] for action in told] == [i == scores.chosen for i in range(4)]
    assert told[scores.chosen]["name"] == step.action_name


def test_steps_of_sampled_text_have_no_action_probabilities(client: TestClient) -> None:
    assert all(step["action_probabilities"] is None for step in ask(client, "rl_000000:0")["steps"])


def test_a_conversation_tells_each_message_once_and_whose_completion_it_is(client: TestClient, generated: Path) -> None:
    recorded = load_trajectories(generated, "eval-rl-greedy_000000")[1]
    messages: list[dict[str, Any]] = []
    for told, step in zip(ask(client, "eval-rl-greedy_000000:1")["steps"], recorded.steps, strict=True):
        assert len(told["messages"]) <= 2
        messages = messages[: told["prefix_messages"]] + told["messages"]
        assert [m["role"] for m in messages] == [m.role for m in step.messages]
        assert [m["completion_of_step"] for m in messages if m["role"] == "assistant"] == list(range(told["step"]))


def test_token_texts_join_to_the_completion_and_the_thought_ends_where_the_action_begins(
    client: TestClient, generated: Path
) -> None:
    recorded = load_trajectories(generated, "rl_000000")[0].steps[0]
    told = ask(client, "rl_000000:0")["steps"][0]["tokens"]
    assert "".join(token["text"] for token in told) == recorded.completion.text
    logprobs = recorded.completion.sampling_logprobs
    assert logprobs is not None
    assert [token["logprob"] for token in told] == pytest.approx(logprobs.tolist())
    thought = "".join(token["text"] for token in told if token["is_thought"])
    start = recorded.parse.action_start
    # a token that straddles the border is the action's
    assert thought and recorded.completion.text.startswith(thought) and start - 6 <= len(thought) <= start
    flags = [token["is_thought"] for token in told]
    assert flags == sorted(flags, reverse=True)


def test_without_a_tokenizer_there_are_no_token_texts(run: Path, serve: Any) -> None:
    for path in run.glob("checkpoints/*/tokenizer.json"):
        path.unlink()
    assert all(step["tokens"] is None for step in ask(serve(run), "rl_000000:0")["steps"])


def test_a_broken_tokenizer_costs_the_token_texts_only(run: Path, serve: Any) -> None:
    for path in run.glob("checkpoints/*/tokenizer.json"):
        path.write_text('{"version": "1.0", "model": 3}')
    assert ask(serve(run), "rl_000000:0")["steps"][0]["tokens"] is None


def test_unknown_tokens_and_log_probs_that_are_no_numbers_are_shown_as_such(
    generated: Path, serve: Any, tmp_path: Path
) -> None:
    single = tmp_path / "single"
    logprobs = np.array([-1, math.nan, -math.inf], np.float32)
    completion = Completion("x", np.array([300, 10**9, 300], np.int32), logprobs)
    record(single, one_step(completion, ParseFailure(FailureReason.EMPTY, "", 99)))
    shutil.copytree(generated / "checkpoints", single / "checkpoints")
    tokens = ask(serve(single), "rl_000000:0", "single")["steps"][0]["tokens"]
    assert [token["logprob"] for token in tokens] == [-1, None, None]
    assert tokens[0]["text"] == tokens[2]["text"] != ""
    assert all(token["is_thought"] for token in tokens)


def test_scored_actions_without_names_are_told_by_their_words_or_number(serve: Any, tmp_path: Path) -> None:
    words = (np.array([5], np.int32), np.array([6, 7], np.int32))
    scores = ActionScores(0, words, np.log(np.array([0.25, 0.75], np.float32)), 1)
    completion = Completion("b", np.array([6, 7], np.int32), np.array([-1, -1], np.float32), scores=scores)
    record(tmp_path / "single", one_step(completion, ParsedAction(1, "b", "", {}, 0)))
    told = ask(serve(tmp_path / "single"), "rl_000000:0", "single")["steps"][0]
    assert [action["name"] for action in told["action_probabilities"]] == ["action 0", "b"]
    assert told["legal_actions"] is None


def test_actions_that_never_occur_have_the_names_of_their_own_task(serve: Any, tmp_path: Path) -> None:
    single = tmp_path / "single"
    words = (np.array([5], np.int32), np.array([6, 7], np.int32))
    scores = ActionScores(0, words, np.log(np.array([0.25, 0.75], np.float32)), 1)
    completion = Completion("b", np.array([6, 7], np.int32), np.array([-1, -1], np.float32), scores=scores)
    step = one_step(completion, ParsedAction(1, "b", "", {}, 0), legal_actions=(0, 1))
    record(single, step, name_of={0: ["stay", "b"].__getitem__, 1: ["never", "shown"].__getitem__})
    told = ask(serve(single), "rl_000000:0", "single")["steps"][0]
    assert [action["name"] for action in told["action_probabilities"]] == ["stay", "b"]
    assert told["legal_actions"] == ["stay", "b"]
    assert read_recorded(RunFolder("single", single, single), "rl_000000:0").name_of(0) == "stay"


def test_tokens_tell_gap_ratio_and_advantage(generated: Path, serve: Any, tmp_path: Path) -> None:
    """Of sampled text each token has its own; what the learner did not say stays unknown."""
    single = tmp_path / "single"
    completion = Completion("x", np.array([300, 301], np.int32), np.array([-1.0, -2.0], np.float32))
    learning = {"learner_logprobs": np.array([-1.25, -2.0], "f4"), "updated_logprobs": np.array([-0.5, -3.0], "f4")}
    parse = ParsedAction(1, "b", "", {}, 0)
    by_token = one_step(completion, parse, advantage=0.5, **learning, token_advantages=np.array([0.25, 4.0], "f4"))
    record(single, one_step(completion, parse, advantage=0.5, **learning), by_token, one_step(completion, parse))
    shutil.copytree(generated / "checkpoints", single / "checkpoints")
    first, second, third = (step["tokens"] for step in ask(serve(single), "rl_000000:0", "single")["steps"])
    assert [token["learner_logprob"] - token["logprob"] for token in first] == pytest.approx([-0.25, 0])
    assert [token["ratio"] for token in first] == pytest.approx([math.exp(0.5), math.exp(-1)])
    assert [token["advantage"] for token in first] == [0.5, 0.5]
    assert [token["advantage"] for token in second] == [0.25, 4.0]
    assert {token[name] for token in third for name in ("learner_logprob", "ratio", "advantage")} == {None}


def test_the_tokens_of_a_scored_action_share_its_gap_and_ratio(generated: Path, serve: Any, tmp_path: Path) -> None:
    """A thought of one token, then an action of two: three tokens, two elements."""
    single = tmp_path / "single"
    words = (np.array([301, 302], np.int32), np.array([303], np.int32))
    scores = ActionScores(1, words, np.log(np.array([0.25, 0.75], np.float32)), 0)
    ids, logprobs = np.array([300, 301, 302], np.int32), np.array([-1, -4, -5], np.float32)
    completion = Completion("x", ids, logprobs, scores=scores)
    learning = {
        "learner_logprobs": np.log([0.5, 0.125]).astype("f4"),
        "updated_logprobs": np.log([0.5, 0.5]).astype("f4"),
    }
    record(single, one_step(completion, ParsedAction(0, "a", "", {}, 0), **learning))
    shutil.copytree(generated / "checkpoints", single / "checkpoints")
    tokens = ask(serve(single), "rl_000000:0", "single")["steps"][0]["tokens"]
    gaps = [token["learner_logprob"] - token["logprob"] for token in tokens]
    assert gaps == pytest.approx([math.log(0.5) + 1, math.log(0.5), math.log(0.5)])
    assert [token["ratio"] for token in tokens] == pytest.approx([0.5 * math.e, 2, 2])


def test_rewards_keep_terms_scale_and_total_apart(serve: Any, tmp_path: Path) -> None:
    record(tmp_path / "single", one_step(Completion("x"), ParseFailure(FailureReason.EMPTY, "nothing", 0)))
    told = ask(serve(tmp_path / "single"), "rl_000000:0", "single")["steps"][0]
    assert told["reward"] == {"terms": {"environment": 2.0}, "environment_scale": 0.5, "total": 1.0}
    assert told["parse"] == {"ok": False, "reason": "empty", "detail": "nothing"}
    assert told["tokens"] is None and told["thought"] is None


def test_completions_of_a_part_that_began_later_count_from_its_first_step(serve: Any, tmp_path: Path) -> None:
    before, first = Completion("before"), Completion("first")
    start = (Message("user", (TextPart("a"),)), Message("assistant", (TextPart("before"),), before))
    start = (*start, Message("user", (TextPart("b"),)))
    later = (*start, Message("assistant", (TextPart("first"),), first), Message("user", (TextPart("c"),)))
    failure = ParseFailure(FailureReason.EMPTY, "", 0)
    steps = [
        Step(messages, completion, failure, 0, ExecutedBy.POLICY, RewardBreakdown({"environment": 0.0}))
        for messages, completion in ((start, first), (later, Completion("second")))
    ]
    record(tmp_path / "single", *steps, first_step=5)
    told = ask(serve(tmp_path / "single"), "rl_000000:0", "single")
    assert [step["step"] for step in told["steps"]] == [5, 6]
    assert told["episode"]["num_steps"] == 7
    assert [m["completion_of_step"] for m in told["steps"][0]["messages"]] == [None, None, None]
    assert [m["completion_of_step"] for m in told["steps"][1]["messages"]] == [5, None]


@pytest.mark.parametrize(
    ("key", "status"),
    [("rl_000000:9999", 404), ("rl_999999:0", 404), ("../made/rl_000000:0", 404), ("rl_000000", 400), ("a:-1", 400)],
)
def test_an_episode_that_is_not_there_is_said(key: str, status: int, client: TestClient) -> None:
    response = client.get("/api/episode", params={"run": "made", "key": key})
    assert response.status_code == status
    assert response.json()["error"]
