"""One environment: what a step gives back, sequences of moves, replays, and rewards that are no numbers."""

import sys

import gymnasium as gym
import numpy as np
import pytest

import helpers_envs as broken
from eyas.envs.host import EnvError, EnvHost, EnvHosts, EnvOutcome, EnvSource
from eyas.errors import ConfigError
from eyas.interface.actions import SequenceCodec, codec_for


def started(make, seed: int = 0, **source) -> tuple[EnvHost, EnvOutcome]:
    host = EnvHost(EnvSource(make, **source))
    return host, host.reset(seed)


class LegalEnv(broken.CountingEnv):
    """After every move, only what `told` says is legal; `told` is also the very dictionary that each step returns."""

    def __init__(self, told: dict, start: int = 0):
        super().__init__(length=3)
        self.told = told
        self.action_space = gym.spaces.Discrete(3, start=start)

    def step(self, action):
        return *super().step(action)[:4], self.told


def started_with(told: dict, space: gym.Space, **options) -> EnvHost:
    """An environment of which several moves a step are played, and what it tells after each is judged by the codec."""
    return started(lambda: LegalEnv(told, **options), may_follow=SequenceCodec(codec_for(space), 3).may_follow)[0]


def test_the_environment_is_made_at_the_first_reset_and_once() -> None:
    made: list[int] = []
    host = EnvHost(EnvSource(lambda: made.append(1) or broken.CountingEnv()))
    assert not made
    assert [host.reset(0).num_moves, host.reset(1).num_moves, len(made)] == [0, 0, 1]


def test_moves_are_played_in_order_and_their_rewards_summed() -> None:
    host, _ = started(broken.CountingEnv)
    outcome = host.step([1, 0, 2])
    assert outcome.observation.startswith("step 3,")
    assert (outcome.reward, outcome.num_moves, outcome.has_ended) == (3.0, 3, False)


def test_moves_after_the_end_are_not_played() -> None:
    host, _ = started(lambda: broken.CountingEnv(length=2))
    outcome = host.step([1, 1, 1])
    assert (outcome.reward, outcome.num_moves, outcome.terminated, outcome.truncated) == (2.0, 2, True, False)


def test_what_an_environment_says_is_legal_after_the_end_is_not_read() -> None:
    host = started_with({"action_mask": np.zeros(0)}, gym.spaces.Discrete(3))
    for _ in range(2):
        host.step([1])
    assert host.step([1, 2]).num_moves == 1  # of three steps in all


@pytest.mark.parametrize(
    ("told", "num_moves"),
    [
        ({"legal_actions": [0, 2]}, 2),
        ({"legal_actions": np.array([0, 1, 2])}, 3),
        ({"legal_actions": []}, 1),
        ({"action_mask": np.array([1, 0, 1], np.int8)}, 2),
        ({"action_mask": [True, True, True]}, 3),
        ({}, 3),
    ],
)
def test_a_sequence_ends_before_a_move_that_is_not_legal(told: dict, num_moves: int) -> None:
    host = started_with(told, gym.spaces.Discrete(3))
    assert host.step([1, 2, 1]).num_moves == num_moves


def test_a_mask_that_does_not_fit_the_space_is_refused() -> None:
    with pytest.raises(ValueError, match="action_mask"):
        started_with({"action_mask": [True]}, gym.spaces.Discrete(3)).step([1, 2, 1])


def test_legality_of_dictionaries_that_hold_arrays_is_judged_by_the_codec() -> None:
    space = gym.spaces.Dict(turn=gym.spaces.Box(-1, 1, (2,)), fire=gym.spaces.Discrete(2))

    class Env(LegalEnv):
        def step(self, action):
            return *super().step(1)[:4], self.told

    def move(turn: float, fire: int) -> dict:
        return {"turn": np.full(2, turn, np.float32), "fire": fire}

    told = {"legal_actions": [move(0, 1), move(0.5, 0)]}
    may_follow = SequenceCodec(codec_for(space), 3, " | ").may_follow
    host, _ = started(lambda: Env(told), may_follow=may_follow)
    assert host.step([move(1, 1), move(0.5, 0), move(0.5, 1)]).num_moves == 2


def test_a_mask_counts_from_the_first_action_of_the_space() -> None:
    host = started_with({"action_mask": [True, False, False]}, gym.spaces.Discrete(3, start=5), start=5)
    assert host.step([5, 5, 6]).num_moves == 2


def test_the_first_move_is_always_played() -> None:
    host = started_with({"legal_actions": [0]}, gym.spaces.Discrete(3))
    assert [host.step([2]).num_moves, host.step([2, 2]).num_moves] == [1, 1]


def test_an_info_that_the_environment_uses_again_does_not_change_what_was_returned() -> None:
    told = {"count": 1}
    host, _ = started(lambda: LegalEnv(told))
    outcome = host.step([0])
    told["count"] = 2
    assert outcome.info == {"count": 1}


@pytest.mark.parametrize("reward", [1, 1.0, True, np.float32(1), np.int8(1), np.array([1.0]), np.array(1)])
def test_rewards_of_any_kind_of_number_become_floats(reward) -> None:
    class Env(broken.CountingEnv):
        def step(self, action):
            observation, _, terminated, truncated, info = super().step(action)
            return observation, reward, np.bool_(terminated), np.bool_(truncated), info

    host, _ = started(Env)
    outcome = host.step([0])
    assert type(outcome.reward) is float and outcome.reward == 1.0
    assert type(outcome.terminated) is bool and type(outcome.truncated) is bool


@pytest.mark.parametrize(
    ("reward", "words"),
    [(float("nan"), "be finite"), (np.inf, "be finite"), (None, "be a number"), (np.ones(2), "be a number")],
)
def test_a_reward_that_is_not_one_finite_number_is_refused(reward, words: str) -> None:
    class Env(broken.CountingEnv):
        def step(self, action):
            observation, _, *rest = super().step(action)
            return observation, reward, *rest

    host, _ = started(Env)
    with pytest.raises(ValueError, match=f"the environment's reward for action 2 is .*: it must {words}"):
        host.step([2])


def test_frames_are_drawn_where_wanted_and_not_after_a_true_end() -> None:
    host, outcome = started(lambda: broken.CountingEnv(2, render_mode="rgb_array"), renders=True)
    frames = [outcome.frame, host.step([0]).frame, host.step([0]).frame]
    assert [None if f is None else int(f[0, 0, 0]) for f in frames] == [0, 1, None]
    assert started(lambda: broken.CountingEnv(render_mode="rgb_array"))[1].frame is None


def test_an_episode_that_is_cut_off_is_still_drawn_but_its_expert_is_silent() -> None:
    def make() -> gym.Env:
        return gym.wrappers.TimeLimit(broken.CountingEnv(render_mode="rgb_array"), 1)

    host, first = started(make, renders=True, expert=broken.counting_expert)
    last = host.step([0])
    assert (last.terminated, last.truncated) == (False, True)
    assert last.frame is not None and last.expert_move is None
    assert first.expert_move is not None and first.expert_move.facts == {"count": "0"}


def test_a_frame_of_the_wrong_memory_order_is_put_right() -> None:
    class Env(broken.CountingEnv):
        def render(self):
            return np.arange(24, dtype=np.uint8).reshape(2, 4, 3).transpose(1, 0, 2)

    frame = started(lambda: Env(render_mode="rgb_array"), renders=True)[1].frame
    assert frame is not None and frame.flags.c_contiguous and frame.shape == (4, 2, 3) and frame[1, 0, 0] == 3


def test_an_environment_that_draws_nothing_is_told_how_to() -> None:
    with pytest.raises(ValueError, match='render_mode="rgb_array"'):
        started(broken.NoFrame, renders=True)


def test_the_expert_is_asked_about_the_unwrapped_environment_after_reset_and_step() -> None:
    def make() -> gym.Env:
        return gym.wrappers.OrderEnforcing(broken.CountingEnv(length=2))

    host, first = started(make, expert=broken.counting_expert)
    moves = [first.expert_move, host.step([0]).expert_move, host.step([0]).expert_move]
    assert [None if m is None else m.action for m in moves] == [0, 1, None]


def test_a_replay_goes_on_where_the_record_ended() -> None:
    host, _ = started(broken.CountingEnv, seed=7)
    outcomes = [host.step([1]), host.step([2, 0]), host.step([1])]
    other = EnvHost(EnvSource(broken.CountingEnv))
    again = other.reset(7, [[1], [], (2, 0)])
    assert again == outcomes[1]
    assert other.step([1]) == outcomes[2]


def test_a_replay_draws_and_asks_once() -> None:
    asked: list[int] = []

    def expert(env):
        asked.append(env.count)
        return broken.counting_expert(env)

    host = EnvHost(EnvSource(broken.CountingEnv, expert=expert))
    host.reset(0, [[1], [1]])
    assert asked == [2]


def test_a_replay_that_ends_before_its_record_is_refused() -> None:
    host = EnvHost(EnvSource(lambda: broken.CountingEnv(length=2)))
    assert host.reset(3, [[1], [1]]).terminated
    with pytest.raises(ValueError, match="from seed 3, the episode ended after 2 of 3 steps"):
        host.reset(3, [[1], [1], [1]])


def test_an_environment_that_fails_to_close_is_only_logged(caplog: pytest.LogCaptureFixture) -> None:
    class Env(broken.CountingEnv):
        def close(self):
            raise OSError("stuck")

    host, _ = started(Env)
    host.close()
    host.close()
    assert caplog.text.count("stuck") == 1


# ----------------------------------------------------------------------------------------------- a host for each slot


def test_an_exception_becomes_data_of_one_line_and_the_environment_is_made_anew() -> None:
    hosts = EnvHosts([EnvSource(broken.RaisingStep)])
    hosts.start(0, 0, 0)
    error = hosts.step(0, [1])
    assert isinstance(error, EnvError)
    assert (error.kind, error.message) == ("raised", "RuntimeError: the engine stalled")
    assert "go_wrong" in error.traceback
    with pytest.raises(KeyError):
        hosts.step(0, [1])
    assert isinstance(hosts.start(0, 0, 0), EnvOutcome)


def test_a_slot_keeps_its_environment_until_it_gets_another_source() -> None:
    made: list[str] = []
    closed: list[str] = []

    class Env(broken.CountingEnv):
        def __init__(self, name: str):
            super().__init__()
            self.name = name
            made.append(name)

        def close(self):
            closed.append(self.name)

    hosts = EnvHosts([EnvSource(lambda: Env("a")), EnvSource(lambda: Env("b"))])
    for source in (0, 0, 1, 1, 0):
        hosts.start(5, source, 0)
    assert (made, closed) == (["a", "b", "a"], ["a", "b"])
    hosts.close()
    assert closed == ["a", "b", "a"]


def test_errors_for_the_user_pass_through() -> None:
    def make() -> gym.Env:
        raise ConfigError("type something else")

    with pytest.raises(ConfigError, match="something else"):
        EnvHosts([EnvSource(make)]).start(0, 0, 0)


def test_advice_that_comes_after_the_environment_has_worked_is_a_failure_like_any_other() -> None:
    """A browser that dies in a step, and whose successor finds its port in use."""
    made: list[int] = []

    def make() -> gym.Env:
        made.append(1)
        if len(made) == 2:
            raise ConfigError("the port is in use")
        return broken.RaisingStep()

    hosts = EnvHosts([EnvSource(make)])
    assert isinstance(hosts.start(0, 0, 0), EnvOutcome)
    assert isinstance(hosts.step(0, [1]), EnvError)
    error = hosts.start(0, 0, 0)
    assert isinstance(error, EnvError) and error.message == "ConfigError: the port is in use"
    assert isinstance(hosts.start(0, 0, 0), EnvOutcome)


def test_advice_about_a_source_is_not_silenced_by_another_one_that_works() -> None:
    def make() -> gym.Env:
        raise ConfigError("type something else")

    hosts = EnvHosts([EnvSource(broken.CountingEnv), EnvSource(make)])
    hosts.start(0, 0, 0)
    with pytest.raises(ConfigError):
        hosts.start(1, 1, 0)


def test_sys_exit_in_a_step_ends_the_episode_and_not_the_run(caplog: pytest.LogCaptureFixture) -> None:
    class Env(broken.CountingEnv):
        def go_wrong(self):
            sys.exit("out of lives")

        def close(self):
            sys.exit(1)

    hosts = EnvHosts([EnvSource(Env)])
    hosts.start(0, 0, 0)
    error = hosts.step(0, [1])
    assert isinstance(error, EnvError) and error.message == "SystemExit: out of lives"
    assert "closing an environment raised" in caplog.text
