"""What an environment says in its info, or shows, may be broken: that costs its own episode, and nothing else."""

from functools import partial
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from eyas.errors import EnvironmentFailure
from eyas.interface.history import Conversation
from eyas.rollouts.actors import PolicyActor
from eyas.rollouts.collector import Collector
from eyas.rollouts.encoding import decode_action
from eyas.rollouts.images import MemoryImageStore
from eyas.rollouts.recorder import TrajectoryRecorder
from eyas.rollouts.task import Task
from eyas.seeding import Split, environment_seed
from eyas.types import StopReason
from helpers import CountingEnv, ScriptedPolicy, always, nano_policy, prompt_text, seeded_text, text_task

EPISODES = range(12)


class Saying(CountingEnv):
    """Its info says `said` after the first step (at the end with `at_end`), where the start is even."""

    def __init__(self, said: dict[str, Any], at_end: bool = False, length: int = 3):
        super().__init__(length=length)
        self.said, self.at = said, length if at_end else 1

    def _info(self):
        is_said = self.start % 2 == 0 and len(self.actions) == self.at
        return super()._info() | (self.said if is_said else {})

    def step(self, action):
        observation, reward, terminated, truncated, info = super().step(action)
        return observation, reward, terminated, truncated, info | self._info()


def is_even(episode: int) -> bool:
    env = CountingEnv()
    env.reset(seed=environment_seed(0, Split.TRAIN, episode))
    return env.start % 2 == 0


def collector(actor: Any, task: Task, num_envs: int = 3, **options: Any) -> Collector:
    options = {"max_failures_in_a_row": 100} | options
    return Collector(actor, [task], MemoryImageStore(), 0, Split.TRAIN, num_envs, **options)


@pytest.mark.parametrize(
    "said",
    [
        {"legal_actions": []},
        {"legal_actions": 2},
        {"legal_actions": [7]},
        {"action_mask": np.zeros(2, np.int8)},
        {"action_mask": None, "legal_actions": [None]},
        {"progress": "3/10"},
        {"progress": np.array([0.1, 0.2])},
        {"progress": float("nan")},
        {"success": np.array([True, False])},
    ],
    ids=str,
)
def test_what_cannot_be_read_costs_its_own_episode(said: dict[str, Any]) -> None:
    c = collector(always("1"), text_task(partial(Saying, said)))
    played = c.episodes(EPISODES)
    doomed = [e for e in EPISODES if is_even(e)]
    assert 3 < len(doomed) < 9
    assert c.lost_episodes == doomed
    assert [t.episode for t in played] == [e for e in EPISODES if e not in doomed]
    assert all(t.total_return == 6.0 for t in played)


def test_nothing_has_to_be_legal_after_the_end() -> None:
    c = collector(always("1"), text_task(partial(Saying, {"legal_actions": []}, at_end=True)))
    assert len(c.episodes(EPISODES)) == len(EPISODES)


def test_success_and_progress_are_numbers_of_any_kind() -> None:
    said = {"success": np.array([False]), "progress": np.float32(0.25)}
    c = collector(always("1"), text_task(partial(Saying, said, at_end=True)))
    first = next(t for t in c.episodes(EPISODES) if is_even(t.episode))
    assert (first.success, first.progress, type(first.success), type(first.progress)) == (False, 0.25, bool, float)


def test_facts_are_words_and_those_of_another_library_are_left_out(tmp_path) -> None:
    made = collector(always("1"), text_task(partial(Saying, {"facts": {"x": np.int64(3), 4: None}})))
    played = made.episodes(EPISODES)
    even = next(t for t in played if is_even(t.episode))
    assert [s.facts for s in even.steps] == [{"played": "0"}, {"x": "3", "4": "None"}, {"played": "2"}]
    with TrajectoryRecorder(tmp_path, made.images) as recorder:
        recorder.record("all", played)
    c = collector(always("1"), text_task(partial(Saying, {"facts": ["at(player, kitchen)", "open(door)"]})))
    even = next(t for t in c.episodes(EPISODES) if is_even(t.episode))
    assert [s.facts for s in even.steps] == [{"played": "0"}, {}, {"played": "2"}]


def test_an_observer_that_fails_costs_the_episode_with_its_traceback() -> None:
    def observer(observation, info, frame):
        if "played [1]" in observation:
            return [{}["no such key"]]
        return [observation]

    task = text_task(CountingEnv)
    object.__setattr__(task.interface, "observer", observer)
    with pytest.raises(EnvironmentFailure, match=r"2 environment failures[\s\S]*in observer[\s\S]*no such key"):
        collector(always("1"), task, max_failures_in_a_row=2).episodes(EPISODES)


def test_an_answer_that_is_broken_while_an_episode_is_played_again_costs_that_episode() -> None:
    c = collector(always("1"), text_task(partial(Saying, {}, length=9)))
    c.steps(4)
    resumed = collector(always("1"), text_task(partial(Saying, {"progress": "3/10"}, length=9)))
    resumed.load_state_dict(c.state_dict())
    assert resumed.lost_episodes == [e for e in range(3) if is_even(e)] != []
    assert len(resumed.steps(2)) >= 3


# ----------------------------------------------------------------------------------------------- failures in a row


class DyingThird(CountingEnv):
    """Works for two steps, and never to an end."""

    def step(self, action):
        if len(self.actions) == 2:
            raise RuntimeError("out of memory")
        return super().step(action)


def test_steps_between_the_cuts_do_not_hide_that_no_episode_ever_ends() -> None:
    c = collector(always("1"), text_task(DyingThird), num_envs=2, max_failures_in_a_row=3)
    with pytest.raises(EnvironmentFailure, match=r"6 environment failures in a row[\s\S]*out of memory"):
        [c.steps(2) for _ in range(10)]


def test_an_end_in_another_slot_shows_that_the_environment_works() -> None:
    class DyingSometimes(DyingThird):
        def step(self, action):
            return super().step(action) if self.start % 2 == 0 else CountingEnv.step(self, action)

    c = collector(always("1"), text_task(DyingSometimes), num_envs=2, max_failures_in_a_row=3)
    failures = 0
    for _ in range(20):
        c.steps(2)
        failures += c.env_failures
    assert failures > 6


# ----------------------------------------------------------------------------------------------- prompts that no model reads


class Wordy(CountingEnv):
    """Begins with more words than the context holds, where its start is even."""

    words = "far too much to read " * 20

    def _words(self):
        return super()._words() + (self.words if self.start % 2 == 0 else "")


def test_a_start_that_is_too_long_costs_its_own_episode() -> None:
    free = ScriptedPolicy(seeded_text)
    longest = max(
        len(prompt_text(s.messages))
        for t in collector(free, text_task(CountingEnv)).episodes(EPISODES)
        for s in t.steps
    )
    c = collector(ScriptedPolicy(seeded_text, context=longest), text_task(Wordy))
    assert [t.episode for t in c.episodes(EPISODES)] == [e for e in EPISODES if not is_even(e)]
    assert c.lost_episodes == [e for e in EPISODES if is_even(e)]


def test_text_that_holds_the_placeholder_of_a_picture_costs_its_own_episode() -> None:
    class Marked(Wordy):
        words = "<image>"
        observation_space = spaces.Text(400)

    policy = nano_policy()
    task = text_task(partial(Marked, 1), max_new_tokens=2)
    c = Collector(PolicyActor(policy), [task], policy.images, 0, Split.TRAIN, 3, max_failures_in_a_row=100)
    assert [t.episode for t in c.episodes(range(6))] == [e for e in range(6) if not is_even(e)]
    assert c.lost_episodes == [e for e in range(6) if is_even(e)]


# ----------------------------------------------------------------------------------------------- several moves a step


class Narrowing(CountingEnv):
    """After the first move of an episode, action 2 is legal no more."""

    action_space = spaces.Discrete(3)

    def _info(self):
        return super()._info() | {"legal_actions": [0, 1] if self.actions else [0, 1, 2]}


def test_the_record_holds_the_moves_that_were_played() -> None:
    task = text_task(partial(Narrowing, 4), max_actions=3, history=Conversation())
    c = collector(always("0, 2, 1"), task, num_envs=1)
    (t,) = c.episodes([0])
    first, *others = t.steps
    assert (first.action, first.action_name, first.parse.name) == ((0,), "0", "0, 2, 1")
    assert [s.action for s in others] == [(0,)] * 3
    assert t.stop_reason is StopReason.TERMINATED and t.total_return == 1 + 2 + 3 + 4
    assert (c.moves_asked, c.moves_dropped) == (12, 8)
    c.steps(0)
    assert (c.moves_asked, c.moves_dropped) == (0, 0)


def test_a_resumed_run_plays_again_what_was_played() -> None:
    task = text_task(partial(Narrowing, 9), max_actions=3)
    c = collector(always("0, 2, 1"), task, num_envs=1)
    c.steps(2)
    (running,) = c.state_dict()["running"]
    assert [decode_action(a) for a in running["actions"]] == [(0,), (0,)]
    resumed = collector(always("0, 2, 1"), task, num_envs=1)
    resumed.load_state_dict(c.state_dict())
    assert resumed.steps(1)[0].steps[0].messages == c.steps(1)[0].steps[0].messages


# ----------------------------------------------------------------------------------------------- groups


def test_a_member_that_is_lost_at_its_reset_leaves_nothing_behind() -> None:
    class FailingOnce(CountingEnv):
        resets = 0

        def reset(self, **options):
            type(self).resets += 1
            if type(self).resets in (2, 5, 8):
                raise RuntimeError("no board")
            return super().reset(**options)

    c = collector(always("1"), text_task(FailingOnce), num_envs=2, group_size=3)
    c.episodes(range(12))
    assert len(c.lost_episodes) == 3
    assert c._starts == {}
