"""Evaluation: lost episodes, disjoint seeds, rows counted by hand."""

import numpy as np
import pytest
from gymnasium import spaces

from eyas.errors import EnvironmentFailure
from eyas.evaluation.evaluate import best_constant_action, evaluation_row, play
from eyas.evaluation.measures import start_keys
from eyas.evaluation.statistics import wilson_interval
from eyas.rollouts.actors import ConstantActor
from eyas.rollouts.collector import Collector
from eyas.rollouts.images import MemoryImageStore
from eyas.seeding import Split, derive_seed, environment_seed, generator
from eyas.types import FailureEffect, ImagePart
from helpers import CountingEnv, ScriptedPolicy, always, nonsense, picture, seeded_text, text_task


def evaluated(task, actor, episodes=10, **options):
    return play(task, actor, MemoryImageStore(), 0, range(episodes), **options)


def failing_env(times):
    """Environments that fail in the episodes of these seeds, each so many times."""
    left = dict(times)

    class Failing(CountingEnv):
        def reset(self, *, seed=None, options=None):
            result = super().reset(seed=seed, options=options)
            self.current = seed
            return result

        def step(self, action):
            if left.get(self.current, 0) and len(self.actions) == 1:
                left[self.current] -= 1
                raise RuntimeError("broken")
            return super().step(action)

    return Failing


def seeds(*episodes):
    return [environment_seed(0, Split.EVAL, e) for e in episodes]


def test_crash_a_lost_episode_is_tried_once_more_and_then_counts_as_a_failure():
    once, twice = seeds(3, 6)
    played = evaluated(text_task(failing_env({once: 1, twice: 2})), always("1"))
    assert [t.episode for t in played.trajectories] == [0, 1, 2, 3, 4, 5, 7, 8, 9]
    assert played.num_lost == 1
    row = evaluation_row("rl", "greedy", played, ())
    assert row.episodes == 10
    assert row.success_rate == row.strict_success_rate == 0.9  # the wrong variant leaves it out: 9 of 9
    assert row.success_interval == wilson_interval(9, 10)
    assert row.stop_reasons == {"terminated": 9, "lost": 1}
    assert row.return_mean == 6.0


def test_a_row_by_hand():
    def by_start(turn):
        return '{"action": "1"}' if turn.seed % 2 else "nonsense"

    played = evaluated(text_task(CountingEnv), ScriptedPolicy(by_start), 20)
    row = evaluation_row("rl", "sample", played, (), start_keys(played.trajectories[:5]))
    wins = [t for t in played.trajectories if t.steps[-1].action == 1]
    strict = [t for t in wins if all(s.completion.text != "nonsense" for s in t.steps)]
    assert 0 < len(strict) < len(wins) < 20
    assert row.success_rate == len(wins) / 20
    assert row.strict_success_rate == len(strict) / 20
    assert (row.distinct_starts, row.distinct_starts_seen_in_training) == (20, 5)
    assert row.mean_length_steps == 3
    assert row.parse_rate == pytest.approx(
        sum(s.completion.text != "nonsense" for t in played.trajectories for s in t.steps) / 60
    )


def test_success_is_unknown_where_the_task_defines_none():
    silent = text_task(lambda: CountingEnv(says_success=False), on_parse_failure=FailureEffect.END)
    row = evaluation_row("rl", "sample", evaluated(silent, ScriptedPolicy(seeded_text), 20), ())
    assert set(row.stop_reasons) == {"terminated", "parse_failure"}
    assert (row.success_rate, row.success_interval, row.strict_success_rate) == (None, None, None)
    assert row.return_mean is not None


def test_an_untrained_policy_whose_episodes_all_end_by_parse_failure_has_success_0():
    task = text_task(CountingEnv, on_parse_failure=FailureEffect.END)
    assert evaluation_row("untrained", "greedy", evaluated(task, nonsense()), ()).success_rate == 0.0


def test_the_number_of_environments_changes_nothing():
    rows = [
        evaluation_row(
            "rl", "sample", evaluated(text_task(CountingEnv), ScriptedPolicy(seeded_text), 17, num_envs=n), ()
        )
        for n in (1, 5, 64)
    ]
    assert rows[0] == rows[1] == rows[2]


def test_no_episode():
    row = evaluation_row("rl", "greedy", evaluated(text_task(CountingEnv), always("1"), 0), ())
    assert (row.episodes, row.success_rate, row.return_mean) == (0, None, None)


def test_best_constant_action_is_chosen_on_other_seeds_than_it_is_evaluated_on():
    class PaysForOne(CountingEnv):
        def step(self, action):
            observation, _, *rest = super().step(action)
            return observation, float(action), *rest

    task = text_task(PaysForOne)
    assert best_constant_action(task, MemoryImageStore(), 0) == 1
    chosen_on = {environment_seed(0, Split.VALIDATION, e) for e in range(200)}
    played = evaluated(task, ConstantActor(1), 50)
    assert not chosen_on & {t.seed for t in played.trajectories}


# ----------------------------------------------------------------------------------------------- constants


def constant_task(size, pays=lambda action: 0.0, raises=lambda action: False, **info):
    """One step an episode, among so many actions; counts the episodes."""

    class OneStep(CountingEnv):
        action_space = spaces.Discrete(size)
        num_episodes = 0

        def __init__(self):
            super().__init__(length=1, **info)

        def step(self, action):
            OneStep.num_episodes += 1
            if raises(action):
                raise RuntimeError("no such move")
            observation, _, *rest = super().step(action)
            return observation, pays(action), *rest

    return text_task(OneStep), OneStep


@pytest.mark.parametrize(("size", "episodes"), [(4, 4 * 200), (5, 5 * 20 + 4 * 200), (200, 16 * 20 + 4 * 200)])
def test_many_constants_cost_a_bounded_number_of_episodes(size, episodes):
    task, env = constant_task(size, float)
    assert best_constant_action(task, MemoryImageStore(), 0) == size - 1
    assert env.num_episodes == episodes


def test_a_constant_that_loses_every_episode_is_not_taken_for_one_that_earns_nothing():
    task, _ = constant_task(3, lambda action: -float(action), lambda action: action == 0)
    assert best_constant_action(task, MemoryImageStore(), 0) == 1  # the wrong variant: 0, whose mean of nothing is 0


def test_a_constant_player_plays_another_move_where_its_own_is_not_legal():
    task, _ = constant_task(5, raises=lambda action: action not in (1, 3), legal_actions=[1, 3])
    played = evaluated(task, ConstantActor(0), 40)
    assert played.num_lost == 0
    assert {t.steps[0].action for t in played.trajectories} == {1, 3}
    assert {t.steps[0].action for t in evaluated(task, ConstantActor(3), 40).trajectories} == {3}


# ----------------------------------------------------------------------------------------------- failures and pictures


@pytest.mark.parametrize("num_envs", [1, 64])
def test_an_environment_that_always_fails_ends_the_evaluation(num_envs):
    task, env = constant_task(2, raises=lambda action: True)
    with pytest.raises(EnvironmentFailure, match="no such move"):
        evaluated(task, always("0"), 250, num_envs=num_envs, max_failures_in_a_row=3)
    assert env.num_episodes <= 250 + 3  # the wrong variant tries all of them twice, and reports success of 0
    with pytest.raises(EnvironmentFailure, match="no such move"):
        evaluated(task, always("0"), 1)


def test_what_pictures_are_still_needed_is_not_looked_up_at_every_decision(monkeypatch):
    class Pictures(CountingEnv):
        observation_space = spaces.Box(0, 255, (16, 16, 3), np.uint8)

        def _words(self):
            return picture(1000 * self.start + len(self.actions), 16, 16)

    lookups = []
    inner = Collector.image_hashes
    monkeypatch.setattr(Collector, "image_hashes", lambda *args: lookups.append(1) or inner(*args))
    images = MemoryImageStore()
    task = text_task(lambda: Pictures(length=60))
    played = play(task, always("1"), images, 0, range(30), keep_pictures_below=20)
    parts = [p for t in played.trajectories[:20] for s in t.steps for p in s.messages[0].parts]
    kept = {p.image_hash for p in parts if isinstance(p, ImagePart)}
    assert len(kept) == 20 * 60
    assert all(h in images for h in kept)
    assert 1 <= len(lookups) <= 6  # the wrong variant: at each of the last 30 steps


def test_evaltrain_seeds_of_the_splits_are_disjoint_by_construction():
    of = {s: {environment_seed(run, s, i) for run in range(5) for i in range(20_000)} for s in Split}
    for a in Split:
        for b in Split:
            assert a is b or not of[a] & of[b]
        assert all(seed % 4 == a and 0 <= seed < 2**31 for seed in of[a])
        assert len(of[a]) > 0.999 * 100_000
    train, evaluation = ({run + i for i in range(100)} for run in (0, 50))  # the wrong variant: seed + index
    assert train & evaluation


def test_seeds_derive_from_keys_alone():
    assert derive_seed("a", 1) == derive_seed("a", 1)
    assert (
        len(
            {
                derive_seed("a", 1),
                derive_seed("a", 2),
                derive_seed("b", 1),
                derive_seed("a", 1, 0),
                derive_seed("a", "1"),
            }
        )
        == 5
    )
    assert generator("x", 1).random() == generator("x", 1).random() != generator("x", 2).random()
