"""Datasets: what a broken environment does to them, and who plays."""

import re
import tomllib
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from eyas.build import build_run
from eyas.config import CollectStage, RunConfig
from eyas.errors import ConfigError, DatasetError, EnvironmentFailure
from eyas.evaluation.records import read_metrics
from eyas.interface.history import Conversation
from eyas.rollouts.actors import PolicyActor, RandomActor
from eyas.rollouts.datasets import dataset_info, load_trajectories
from eyas.rollouts.images import MemoryImageStore
from eyas.rollouts.task import Task
from eyas.seeding import Split, environment_seed
from eyas.training import collect as module
from eyas.training import sft
from eyas.training.collect import chosen, collect_dataset, demonstrator
from eyas.training.loop import train
from eyas.types import ExecutedBy, ExpertMove, ParsedAction, Trajectory
from helpers import CountingEnv, ScriptedPolicy, always, nano_policy, prompt_text, seeded_text, text_task


class Failing(CountingEnv):
    """Fails at the first step of the episodes with these seeds; None: of all."""

    bad_seeds: set[int] | None = None
    num_failures = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        self.is_bad = self.bad_seeds is None or seed in self.bad_seeds
        return super().reset(seed=seed, options=options)

    def step(self, action: int) -> Any:
        if self.is_bad:
            type(self).num_failures += 1
            raise RuntimeError("broken")
        return super().step(action)


def collected(env: type[CountingEnv], folder: Path, episodes: int, **options: Any) -> Any:
    task = text_task(env)
    return collect_dataset(
        task, RandomActor(), MemoryImageStore(), folder, 0, range(episodes), {}, lambda n: None, **options
    )


def test_an_environment_that_always_fails_stops_the_collecting(tmp_path: Path) -> None:
    class Broken(Failing):
        pass

    with pytest.raises(EnvironmentFailure, match="broken"):
        collected(Broken, tmp_path, 400, max_failures_in_a_row=3)
    assert Broken.num_failures <= 32 + 3  # the wrong variant plays 400 episodes twice
    assert not (tmp_path / "dataset.json").exists()


def test_a_dataset_without_an_episode_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="each of the 3 episodes was lost"):
        collected(Failing, tmp_path, 3)
    assert not (tmp_path / "dataset.json").exists()


def test_a_file_of_one_episode_that_is_lost_does_not_stop_the_collecting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Some(Failing):
        bad_seeds = {environment_seed(0, Split.DEMONSTRATION, e) for e in (2, 3, 5)}  # noqa: RUF012

    monkeypatch.setattr(module, "FIRST_EPISODES", 1)
    monkeypatch.setattr(module, "MOST_EPISODES", 1)
    assert collected(Some, tmp_path, 8, max_failures_in_a_row=3)["rollout/episodes_count"] == 5
    with pytest.raises(EnvironmentFailure, match="broken"):
        collected(Some, tmp_path / "stricter", 8, max_failures_in_a_row=2)


def test_random_play_writes_where_it_demonstrates_and_says_nothing_elsewhere() -> None:
    actor = demonstrator(text_task(CountingEnv), CollectStage(policy="random", episodes=1))
    assert isinstance(actor, RandomActor)
    assert actor.is_writing and not RandomActor().is_writing


# ----------------------------------------------------------------------------------------------- what is kept of it


def with_expert(**options: Any) -> Task:
    """Counting, where the expert always says 1; an episode succeeds whose last action was 1."""
    return replace(text_task(CountingEnv, **options), expert=lambda env: ExpertMove(1, thought="One."))


def written_by(tmp_path: Path, task: Task, actor: Any, **options: Any) -> list[Trajectory]:
    stage = CollectStage(policy="self", episodes=12, **options)
    actor.asks_expert = stage.labels == "expert"
    keep = partial(chosen, task, stage)
    numbers = collect_dataset(
        task, actor, MemoryImageStore(), tmp_path, 0, range(12), {}, lambda n: None, num_envs=2, chosen=keep
    )
    assert numbers["rollout/episodes_count"] == 12.0  # of all that was played
    return load_trajectories(tmp_path)


def test_all_is_kept_as_it_was_written(tmp_path: Path) -> None:
    kept = written_by(tmp_path, with_expert(), ScriptedPolicy(seeded_text))
    assert len(kept) == 12 and {t.is_strict_success for t in kept} == {True, False}


def test_of_successes_only_those_without_a_fallback_are_kept(tmp_path: Path) -> None:
    everything = written_by(tmp_path / "all", with_expert(), ScriptedPolicy(seeded_text))
    kept = written_by(tmp_path / "good", with_expert(), ScriptedPolicy(seeded_text), keep="successes")
    assert [t.episode for t in kept] == [t.episode for t in everything if t.is_strict_success]
    assert len(kept) < sum(bool(t.success) for t in everything)  # the wrong variant keeps wins by chance
    info = dataset_info(tmp_path / "good")
    assert (info["episodes"], info["played"]) == (len(kept), 12)


def test_where_nothing_succeeds_nothing_is_kept(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="none of the 12 episodes succeeded"):
        written_by(tmp_path, with_expert(), always("0"), keep="successes")


def test_the_experts_answers_stand_at_the_players_own_states(tmp_path: Path) -> None:
    kept = written_by(tmp_path, with_expert(), always("0"), labels="expert")
    steps = [s for t in kept for s in t.steps]
    assert {s.completion.text for s in steps} == {'{"thoughts": "One.", "action": "1"}'}
    assert {s.action for s in steps} == {0}
    assert all(isinstance(s.parse, ParsedAction) and s.parse.action == 1 for s in steps)
    assert [prompt_text(s.messages).count("played [0, 0]") for s in kept[0].steps] == [0, 0, 1]


def test_in_a_conversation_the_prompts_stay_those_that_the_player_saw(tmp_path: Path) -> None:
    task = with_expert(history=Conversation())
    kept = written_by(tmp_path, task, always("0"), labels="expert")
    assert prompt_text(kept[0].steps[-1].messages).count('{"action": "0"}') == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"policy": "expert"}, "has no expert"),
        ({"policy": "random", "labels": "expert"}, "has no expert"),
        ({"policy": "self", "labels": "expert"}, "has no expert"),
        ({"policy": "self", "random_share": 0.5}, "random_share does nothing with policy 'self'"),
        ({"policy": "checkpoint"}, "unknown demonstrator 'checkpoint': type expert, random or self"),
    ],
)
def test_who_cannot_demonstrate_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        demonstrator(text_task(CountingEnv), CollectStage(episodes=1, **options), nano_policy())


def test_the_recipe_of_the_page_on_warm_starts_loads() -> None:
    page = (Path(__file__).parents[3] / "docs" / "warm_start.md").read_text()
    (block,) = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    stages = RunConfig.model_validate(tomllib.loads(block)).stages
    assert {(s.policy, s.keep, s.labels) for s in stages if isinstance(s, CollectStage)} == {
        ("expert", "all", "own"), ("self", "successes", "own"), ("self", "all", "expert")
    }  # fmt: skip


def test_the_policy_plays_itself_and_asks_the_expert_for_labels_only() -> None:
    policy = nano_policy()
    own = demonstrator(with_expert(), CollectStage(policy="self", episodes=1), policy)
    labelled = demonstrator(with_expert(), CollectStage(policy="self", labels="expert", episodes=1), policy)
    assert isinstance(own, PolicyActor) and own.policy is policy
    assert (own.asks_expert, labelled.asks_expert) == (False, True)
    with pytest.raises(ConfigError, match="unknown demonstrator 'self'"):
        demonstrator(with_expert(), CollectStage(policy="self", episodes=1))


def test_a_run_learns_from_its_own_episodes_with_the_experts_answers(tmp_path: Path) -> None:
    interface = {"max_new_tokens": 12, "thoughts": False}
    size = {"hidden_size": 64, "intermediate_size": 96, "vision_hidden_size": 32}
    own = {"kind": "collect", "name": "own", "policy": "self", "labels": "expert", "episodes": 4}
    table: dict[str, Any] = {"name": "run", "output": str(tmp_path), "model": {"options": size}}
    table["tasks"] = [{"env": "eyas/NumberLine-v0", "env_args": {"mode": "text"}, "interface": interface}]
    table["stages"] = [own, {"kind": "sft", "data": "own", "steps": 2, "batch_size": 4}]
    run = build_run(RunConfig.model_validate(table), Console(quiet=True))
    train(run)
    played = load_trajectories(run.folder / "datasets" / "own")
    steps = [s for t in played for s in t.steps]
    assert {s.executed_by for s in steps} <= {ExecutedBy.POLICY, ExecutedBy.FALLBACK}
    assert {s.completion.text for s in steps} <= {'{"action": "-"}', '{"action": "+"}'}
    logged = read_metrics(run.folder / "metrics.jsonl")
    assert logged[0]["rollout/parse_rate"] < 0.5  # of what the untrained policy wrote, not of the labels
    assert logged[-1]["train/loss"] > 0


def test_a_stage_learns_from_the_episodes_and_pictures_of_several_collect_stages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = {"hidden_size": 64, "intermediate_size": 96, "vision_hidden_size": 32}
    own = {"kind": "collect", "name": "own", "policy": "self", "labels": "expert", "episodes": 3}
    learning = {"kind": "sft", "data": ["collect", "own", "own"], "steps": 2, "batch_size": 4, "validation_share": 0.5}
    table: dict[str, Any] = {"name": "run", "output": str(tmp_path), "model": {"options": size}}
    table["tasks"] = [{"env": "eyas/NumberLine-v0", "interface": {"max_new_tokens": 4, "thoughts": False}}]
    table["stages"] = [{"kind": "collect", "episodes": 5}, own, learning]
    read: list[list[Any]] = []
    split = sft.split
    monkeypatch.setattr(
        sft, "split", lambda trajectories, *rest: (read.append(trajectories), split(trajectories, *rest))[1]
    )
    run = build_run(RunConfig.model_validate(table), Console(quiet=True))
    train(run)
    folders = [run.folder / "datasets" / name for name in ("collect", "own")]
    wanted = [t.episode for folder in folders for t in load_trajectories(folder)]
    assert [[t.episode for t in trajectories] for trajectories in read] == [wanted]
    assert len(set(wanted)) == 8
    assert read_metrics(run.folder / "metrics.jsonl")[-1]["validation/loss"] > 0


def test_episodes_of_another_run_become_those_of_the_task_with_their_environment(tmp_path: Path) -> None:
    """A command records its only task as the first; here it is the second of the run, or of another environment."""
    task = replace(text_task(CountingEnv), env_id="Count-v0")
    about = {"policy": "random", "random_share": 0.0}
    random = RandomActor(is_writing=True)
    collect_dataset(task, random, MemoryImageStore(), tmp_path, 0, range(2), about, lambda n: None)
    other = replace(task, env_id="Other-v0")

    def tasks_of(*tasks: Task) -> set[int]:
        numbered = [replace(t, index=i) for i, t in enumerate(tasks)]
        return {t.task for t in sft.episodes_of(numbered, tmp_path)}

    assert (tasks_of(other, task), tasks_of(task, other), tasks_of(task, task)) == ({1}, {0}, {0})
