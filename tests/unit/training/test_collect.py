"""Datasets: what a broken environment does to them, and who plays."""

from pathlib import Path
from typing import Any

import pytest

from eyas.errors import DatasetError, EnvironmentFailure
from eyas.rollouts.actors import RandomActor
from eyas.rollouts.images import MemoryImageStore
from eyas.seeding import Split, environment_seed
from eyas.training import collect as module
from eyas.training.collect import collect_dataset, demonstrator
from helpers import CountingEnv, text_task


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
    actor = demonstrator(text_task(CountingEnv), "random", 0.0)
    assert isinstance(actor, RandomActor)
    assert actor.is_writing and not RandomActor().is_writing
