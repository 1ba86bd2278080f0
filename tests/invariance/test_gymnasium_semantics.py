"""Gymnasium's semantics from the environment to the advantages: every number here was worked out by hand.

The walk shows "at k" after k steps, its k-th step is paid k, and the critic of these tests says 10 k + 4 for "at k".
Discount and lambda are 0.5.
"""

import re
from dataclasses import dataclass

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.wrappers import Autoreset, TimeLimit

from eyas.algorithms.policy_gradient import PolicyGradient
from eyas.build import build_task
from eyas.config import PPOConfig, TaskConfig, WorkersConfig
from eyas.errors import EyasError
from eyas.interface.history import Conversation, NoHistory
from eyas.rollouts.collector import Collector
from eyas.rollouts.images import MemoryImageStore
from eyas.rollouts.samples import annotate, build_samples
from eyas.seeding import Split
from eyas.types import Completion, ExecutedBy, FailureEffect, StopReason
from helpers import ScriptedPolicy, always, nano_policy, prompt_text, seeded_text, text_task
from helpers_walks import Slow, Walk


@pytest.fixture(scope="module")
def policy():
    policy = nano_policy()

    def values(texts, columns):
        return [np.array([critic(policy, text.ids[: c + 1]) for c in of]) for text, of in zip(texts, columns)]

    policy.values = values
    return policy


def critic(policy, ids):
    """10 k + 4 where the newest observation is "at k"."""
    return 10.0 * int(re.findall(r"at (\d+)", policy.model.decode(ids))[-1]) + 4.0


def collector(task, actor, num_envs=1, **options):
    return Collector(actor, [task], MemoryImageStore(), 0, Split.TRAIN, num_envs, **options)


def with_ids(policy, trajectories):
    """The trajectories with the token ids that a model would have sampled."""
    for trajectory in trajectories:
        for step in trajectory.steps:
            ids = policy.model.encode_text(step.completion.text).astype(np.int32)
            step.completion = Completion(step.completion.text, ids, np.zeros(len(ids), np.float32))
    return trajectories


def credited(policy, trajectories, gamma=0.5, gae_lambda=0.5):
    """Advantages and value targets of each trajectory's steps."""
    samples = build_samples(with_ids(policy, trajectories), policy.model, policy.images)
    annotate(policy, trajectories, samples)
    PolicyGradient(PPOConfig(gamma=gamma, gae_lambda=gae_lambda, normalise_advantages=False)).credit(samples)
    steps = [
        [s for sample in samples if sample.trajectory == i for s in sample.steps] for i in range(len(trajectories))
    ]
    return [([s.advantage for s in of], [s.value_target for s in of]) for of in steps]


def credit_of(policy, make_env, actor=None, episodes=(0,), gamma=0.5, gae_lambda=0.5, **options):
    trajectories = collector(text_task(make_env, **options), actor or always("0")).episodes(episodes)
    return trajectories, credited(policy, trajectories, gamma, gae_lambda)


# ----------------------------------------------------------------------------------------------- values after the end


@pytest.mark.parametrize("history", [NoHistory(), Conversation()], ids=["a sample a step", "one sample"])
def test_truncation_by_a_time_limit_is_bootstrapped_from_the_final_observation(policy, history):
    """delta = 3 + 17 - 24, 2 + 12 - 14, 1 + 7 - 4 = -4, 0, 4; backwards -4, 0 - 1, 4 - 0.25."""
    (t,), (credit,) = credit_of(policy, lambda: TimeLimit(Walk(), 3), episodes=[0], history=history)
    assert (t.stop_reason, t.final_value) == (StopReason.TRUNCATED, 34.0)
    assert [s.value for s in t.steps] == [4.0, 14.0, 24.0]
    assert credit == (pytest.approx([3.75, -1.0, -4.0]), pytest.approx([7.75, 13.0, 20.0]))
    as_terminated = pytest.approx([2.6875, -5.25, -21.0])
    from_a_reset = pytest.approx([2.8125, -4.75, -19.0])  # the wrong variants: V = 0, and V of "at 0"
    assert credit[0] != as_terminated and credit[0] != from_a_reset


@pytest.mark.parametrize("limit", [None, 3], ids=["terminated", "terminated and truncated at once"])
def test_truncation_nothing_is_bootstrapped_after_a_true_end(policy, limit):
    """delta = 3 - 24, 2 + 12 - 14, 1 + 7 - 4 = -21, 0, 4; backwards -21, 0 - 5.25, 4 - 1.3125."""
    (t,), (credit,) = credit_of(policy, lambda: Walk(length=3, limit=limit))
    assert (t.stop_reason, t.final_value, t.final_messages) == (StopReason.TERMINATED, 0.0, None)
    assert credit == (pytest.approx([2.6875, -5.25, -21.0]), pytest.approx([6.6875, 8.75, 3.0]))


def test_a_time_limit_at_the_step_that_ends_the_task_changes_nothing(policy):
    plain, at_once = (credit_of(policy, make)[1] for make in (lambda: Walk(3), lambda: TimeLimit(Walk(3), 3)))
    assert plain == at_once


def test_truncation_a_cut_episode_is_bootstrapped_and_goes_on(policy):
    """Two rollouts of two steps: -2 = 2 + 12 - 14 - 0 ... the first sees V = 24 behind it, the second ends with 0."""
    c = collector(text_task(lambda: Walk(length=4)), always("0"))
    first, second = c.steps(2), c.steps(2)
    assert [(t.stop_reason, t.first_step, t.return_before) for t in first + second] == [
        (StopReason.CUT, 0, 0.0),
        (StopReason.TERMINATED, 2, 3.0),
    ]
    # delta = 2 + 12 - 14, 1 + 7 - 4 = 0, 4
    assert credited(policy, first) == [(pytest.approx([4.0, 0.0]), pytest.approx([8.0, 14.0]))]
    # delta = 4 - 34, 3 + 17 - 24 = -30, -4; backwards -30, -4 - 7.5
    assert credited(policy, second) == [(pytest.approx([-11.5, -30.0]), pytest.approx([12.5, 4.0]))]


def test_an_end_by_parse_failure_has_value_0(policy):
    """delta = -1 - 14 and 1 + 7 - 4: the environment was stepped once, the penalty is -1."""

    def text(turn):
        return "nonsense" if "at 1" in prompt_text(turn.messages) else '{"action": "0"}'

    actor = ScriptedPolicy(text)
    (t,), (credit,) = credit_of(policy, Walk, actor, on_parse_failure=FailureEffect.END)
    assert (t.stop_reason, t.final_value) == (StopReason.PARSE_FAILURE, 0.0)
    assert credit == (pytest.approx([0.25, -15.0]), pytest.approx([4.25, -1.0]))


def test_an_observation_that_is_shown_again_counts_as_a_step(policy):
    """Effect noop: delta = 0 + 2 - 4, then 1 - 4."""

    written = iter(["nonsense", '{"action": "0"}'])
    actor = ScriptedPolicy(lambda turn: next(written))
    (t,), (credit,) = credit_of(policy, lambda: Walk(1), actor, on_parse_failure=FailureEffect.NOOP)
    assert [s.executed_by for s in t.steps] == [ExecutedBy.FALLBACK, ExecutedBy.POLICY]
    assert credit[0] == pytest.approx([-2.75, -3.0])


def test_an_episode_of_one_step(policy):
    ended, truncated = (credit_of(policy, make)[1] for make in (lambda: Walk(1), lambda: Walk(limit=1)))
    assert ended == [([-3.0], [1.0])]
    assert truncated == [([4.0], [8.0])]  # 1 + 0.5 * 14 - 4


@pytest.mark.parametrize(("gamma", "gae_lambda"), [(1.0, 1.0), (0.9, 0.95), (0.0, 0.5)])
def test_discount_and_lambda_are_of_steps_however_many_tokens_a_step_has(policy, gamma, gae_lambda):
    def wordy(turn):
        return '{"thoughts": "' + "on and on " * 3 + '", "action": "0"}'

    short = credit_of(policy, lambda: Walk(3), gamma=gamma, gae_lambda=gae_lambda)[1]
    long = credit_of(policy, lambda: Walk(3), ScriptedPolicy(wordy), gamma=gamma, gae_lambda=gae_lambda)[1]
    assert short == long
    if gamma == 1.0 == gae_lambda:
        assert short == [(pytest.approx([2.0, -9.0, -21.0]), pytest.approx([6.0, 5.0, 3.0]))]


def test_a_final_prompt_beyond_the_context_is_read_one_step_before():
    """In a conversation that a limit ends, the prompt after the last step may be longer than the model's context."""
    task = text_task(lambda: TimeLimit(Walk(), 3), history=Conversation())
    (whole,) = collector(task, always("0")).episodes([0])
    context = len(prompt_text(whole.steps[-1].messages))
    assert len(prompt_text(whole.final_messages)) > context
    (t,) = collector(task, ScriptedPolicy(always("0").text, context)).episodes([0])
    assert (t.stop_reason, len(t.steps)) == (StopReason.TRUNCATED, 3)
    assert t.final_messages == t.steps[-1].messages


# ----------------------------------------------------------------------------------------------- several actions a step


def test_several_actions_a_step_sum_their_rewards_and_are_discounted_once(policy):
    """1 + 2 and then 3 (the episode ends there, the fourth is not played): delta = 3 - 24, 3 + 12 - 4."""
    made = []

    def make():
        made.append(Walk(length=3))
        return made[-1]

    (t,), (credit,) = credit_of(policy, make, always("0, 1"), max_actions=2)
    assert [s.action for s in t.steps] == [(0, 1), (0,)]
    assert [s.reward.terms["environment"] for s in t.steps] == [3.0, 3.0]
    assert made[-1].actions == [0, 1, 0]
    assert credit == (pytest.approx([5.75, -21.0]), pytest.approx([9.75, 3.0]))


def test_actions_that_become_illegal_within_a_step_are_not_played():
    (t,) = collector(text_task(lambda: Walk(2, legal_actions=[0]), max_actions=3), always("0, 1, 0")).episodes([0])
    assert [s.reward.terms["environment"] for s in t.steps] == [1.0, 2.0]


def test_a_time_limit_counts_the_moves_of_a_step():
    (t,) = collector(text_task(lambda: TimeLimit(Walk(), 3), max_actions=2), always("0, 0")).episodes([0])
    assert (t.stop_reason, len(t.steps), t.total_return) == (StopReason.TRUNCATED, 2, 6.0)


# ----------------------------------------------------------------------------------------------- rewards and info


@pytest.mark.parametrize(
    "rewards",
    [
        (2, 1, -1),
        (2.0, 1.0, -1.0),
        (np.float32(2), np.float64(1), np.float16(-1)),
        (np.int64(2), np.int8(1), np.int32(-1)),
        (np.array(2), np.array(1.0), np.array(-1, np.int8)),
        (np.array([2]), np.array([[1.0]]), np.array([-1], np.float32)),
        (2, True, np.array(-1.0)),
        (2, np.bool_(True), -1),
    ],
)
def test_rewards_of_any_kind_of_number_give_the_same_credit(policy, rewards):
    """delta = -1 - 24, 1 + 12 - 14, 2 + 7 - 4 = -25, -1, 5; backwards -25, -1 - 6.25, 5 - 1.8125."""
    (t,), (credit,) = credit_of(policy, lambda: Walk(3, rewards=rewards))
    assert [s.reward.terms for s in t.steps] == [{"environment": r} for r in (2.0, 1.0, -1.0)]
    assert all(type(s.reward.terms["environment"]) is float for s in t.steps)
    assert credit[0] == pytest.approx([3.1875, -7.25, -25.0])
    assert t.total_return == 2.0


class ReusedInfo(Walk):
    """One dictionary, and one inside it, that every reset and step fills anew. It says success in every step."""

    def reset(self, **options):
        observation, _ = super().reset(**options)
        self.info.clear()
        self.info |= {"facts": {"k": "0"}, "success": False, "progress": 0.0, "legal_actions": [0, 1]}
        return observation, self.info

    def step(self, action):
        *rest, _ = super().step(action)
        self.info["facts"]["k"] = str(self.count)
        self.info["legal_actions"].clear()
        self.info["legal_actions"].append(self.count % 2)
        self.info |= {"success": self.count == 3, "progress": self.count / 3}
        return *rest, self.info


@pytest.mark.parametrize("num_envs", [1, 2])
def test_an_info_that_is_used_again_is_read_when_it_comes(num_envs):
    for t in collector(text_task(lambda: ReusedInfo(3)), always("0"), num_envs).episodes(range(4)):
        assert [s.facts["k"] for s in t.steps] == ["0", "1", "2"]
        assert [s.legal_actions for s in t.steps] == [(0, 1), (1,), (0,)]
        assert [s.executed_by is ExecutedBy.FALLBACK for s in t.steps] == [False, True, False]
        assert (t.success, t.progress) == (True, 1.0)


# ----------------------------------------------------------------------------------------------- resets and groups


@dataclass
class Seen:
    seeds: list
    steps_after_end: int = 0


class Watched(gym.Wrapper):
    """Notes what it is asked for."""

    def __init__(self, env, seen):
        super().__init__(env)
        self.seen, self.has_ended = seen, False

    def reset(self, *, seed=None, options=None):
        self.seen.seeds.append(seed)
        self.has_ended = False
        return self.env.reset(seed=seed, options=options)

    def step(self, action):
        self.seen.steps_after_end += self.has_ended
        *rest, terminated, truncated, info = self.env.step(action)
        self.has_ended = terminated or truncated
        return *rest, terminated, truncated, info


@pytest.mark.parametrize("way", ["episodes", "steps"])
@pytest.mark.parametrize("max_actions", [1, 2])
def test_autoreset_of_the_user_never_comes_to_act(way, max_actions):
    """Each episode is reset with its own seed before its first prompt, and never stepped beyond its end."""
    seen = Seen([])
    task = text_task(lambda: Autoreset(Watched(Walk(3), seen)), max_actions=max_actions)
    c = collector(task, always("0, 0" if max_actions == 2 else "0"))
    trajectories = c.episodes(range(4)) if way == "episodes" else c.steps(12 // max_actions)
    assert len(trajectories) >= 3
    assert seen.steps_after_end == 0
    assert seen.seeds == [t.seed for t in trajectories] and None not in seen.seeds
    for t in trajectories:
        assert "at 0" in prompt_text(t.steps[0].messages)
        assert all(f"at {k * max_actions}" in prompt_text(s.messages) for k, s in enumerate(t.steps))
        assert t.stop_reason is StopReason.TERMINATED and t.total_return == 6.0


class Lottery(Walk):
    """Its start is drawn from the seed, or not; episodes last as long as the start says."""

    heeds_seed, start = True, 0

    def reset(self, *, seed=None, options=None):
        _, info = super().reset(seed=seed if self.heeds_seed else None)
        self.start = int(self.np_random.integers(10**6))
        self.length = 1 + self.start % 3
        return f"start {self.start}", info


class Heedless(Lottery):
    heeds_seed = False


@pytest.mark.parametrize("way", ["episodes", "steps"])
@pytest.mark.parametrize("num_envs", [1, 2, 5])
def test_seedgroup_an_environment_that_ignores_its_seed_is_refused_in_groups(way, num_envs):
    def play(make_env, **options):
        c = collector(text_task(make_env), always("0"), num_envs, **options)
        return c.episodes(range(6)) if way == "episodes" else [t for _ in range(9) for t in c.steps(1)]

    for t in play(Lottery, group_size=2):
        assert t.group == t.episode // 2
    with pytest.raises(EyasError, match="began differently") as error:
        play(Heedless, group_size=2)
    assert "eyas env check" in str(error.value)
    assert play(Heedless)  # alone each may begin as it likes


def test_seedgroup_members_that_begin_in_another_rollout_are_compared_too():
    """One environment: the second member of a group begins only when the first has ended, some rollouts later."""
    c = collector(text_task(Heedless), always("0"), group_size=2)
    with pytest.raises(EyasError, match="began differently"):
        list(map(c.steps, [1] * 4))


def test_seedgroup_what_is_remembered_of_starts_does_not_grow():
    c = collector(text_task(Lottery), ScriptedPolicy(seeded_text), num_envs=3, group_size=4)
    for _ in range(40):
        c.steps(2)
    assert len(c._starts) < 10
    c = collector(text_task(Lottery), always("0"), num_envs=3, group_size=4)
    c.episodes(range(40))
    assert not c._starts


# ----------------------------------------------------------------------------------------------- options


@pytest.fixture
def walk_id():
    gym.register("eyas/Walk-v0", "helpers_walks:Walk")
    yield "eyas/Walk-v0"
    del gym.registry["eyas/Walk-v0"]


def configured(walk_id, actor=None, episodes=(0,), **options):
    return collector(build_task(TaskConfig.model_validate({"env": walk_id, **options})), actor or always("0")).episodes(
        episodes
    )


def test_silentoption_wrappers_of_a_recipe_are_put_around_in_their_order(walk_id):
    limit = {"class": "gymnasium.wrappers:TimeLimit", "args": {"max_episode_steps": 2}}
    (plain,) = configured(walk_id, env_args={"length": 4})
    (wrapped,) = configured(walk_id, env_args={"length": 4}, wrappers=[limit])
    assert (plain.stop_reason, plain.total_return) == (StopReason.TERMINATED, 10.0)
    assert (wrapped.stop_reason, wrapped.total_return) == (StopReason.TRUNCATED, 3.0)


def test_silentoption_success_return_decides_where_the_environment_says_nothing(walk_id):
    args = {"length": 3, "says_success": False}  # it is paid 6
    results = [
        configured(walk_id, env_args=args, **o)[0].success for o in ({}, {"success_return": 6}, {"success_return": 7})
    ]
    assert results == [None, True, False]
    (told,) = configured(walk_id, env_args={"length": 3}, success_return=6)
    assert told.success is False  # its last action was not 1: what the environment says comes first


def test_silentoption_max_actions_and_separator(walk_id):
    args = {"env_args": {"length": 4}}
    for interface, words, steps in (
        ({}, "0", 4),
        ({"max_actions": 2}, "0, 0", 2),
        ({"max_actions": 4}, "0, 0, 0, 0", 1),
        ({"max_actions": 2, "separator": ";"}, "0; 0", 2),
    ):
        (t,) = configured(walk_id, always(words), interface=interface, **args)
        assert (len(t.steps), t.num_fallbacks, t.total_return) == (steps, 0, 10.0)
    (refused,) = configured(walk_id, always("0, 0, 0"), interface={"max_actions": 2}, **args)
    assert {s.parse.reason for s in refused.steps} == {"too_many_actions"}


@pytest.mark.parametrize(
    ("slow", "limits", "is_lost"),
    [
        ({"step_s": 0.4}, {"step_timeout_s": 0.1}, True),
        ({"step_s": 0.4}, {"reset_timeout_s": 0.1}, False),
        ({"reset_s": 0.4}, {"reset_timeout_s": 0.1}, True),
        ({"reset_s": 0.4}, {"step_timeout_s": 0.1}, False),
    ],
)
def test_silentoption_time_limits_of_workers(slow, limits, is_lost):
    task = text_task(lambda: Slow(**slow))
    c = collector(task, always("0"), workers=WorkersConfig(count=1, **limits))
    played = c.episodes([0])
    c.close()
    assert (c.lost_episodes, len(played)) == (([0], 0) if is_lost else ([], 1))
