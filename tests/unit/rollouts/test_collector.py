"""The collector: what is played, what is recorded, what a failing environment costs, and how it resumes."""

import copy
import dataclasses

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

import eyas.envs  # noqa: F401
from eyas.errors import EnvironmentFailure
from eyas.interface import Interface
from eyas.rollouts.actors import ConstantActor, ExpertActor, RandomActor
from eyas.rollouts.collector import Collector
from eyas.rollouts.images import MemoryImageStore
from eyas.rollouts.task import Task
from eyas.seeding import Split, environment_seed
from eyas.types import ExecutedBy, ExpertMove, FailureEffect, ParsedAction, ParseFailure, StopReason
from helpers import CountingEnv, ScriptedPolicy, always, nonsense, prompt_text, seeded_text, summary, text_task


def collector(actor, task, num_envs=2, **options):
    return Collector(actor, [task], MemoryImageStore(), 0, Split.TRAIN, num_envs, **options)


def expert_task(make_env, action):
    return dataclasses.replace(text_task(make_env), expert=lambda env: ExpertMove(action))


def play(task, actor, episodes=range(4), num_envs=2, **options):
    return collector(actor, task, num_envs, **options).episodes(episodes)


# ----------------------------------------------------------------------------------------------- what is played


def test_one_episode_by_hand():
    (t,) = play(text_task(CountingEnv), always("1"), [5])
    seed = environment_seed(0, Split.TRAIN, 5)
    start = CountingEnv().reset(seed=seed)[0]
    assert (t.task, t.episode, t.seed, t.group, t.first_step) == (0, 5, seed, 5, 0)
    assert (t.stop_reason, t.success, t.progress) == (StopReason.TERMINATED, True, 0.5)
    assert [s.reward.terms for s in t.steps] == [{"environment": r} for r in (1.0, 2.0, 3.0)]
    assert t.total_return == 6.0
    assert [s.action for s in t.steps] == [1, 1, 1]
    assert [s.facts for s in t.steps] == [{"played": str(k)} for k in range(3)]  # before the action
    assert [s.legal_actions for s in t.steps] == [(0, 1)] * 3
    assert start in prompt_text(t.steps[0].messages)
    assert "played [1, 1]" in prompt_text(t.steps[2].messages)
    assert t.final_messages is None


def test_autoreset_the_first_prompt_of_an_episode_comes_from_its_own_reset():
    for t in play(text_task(CountingEnv), always("0"), range(6), num_envs=1):
        start = CountingEnv().reset(seed=t.seed)[0]
        assert start.endswith("played []")
        assert start in prompt_text(t.steps[0].messages)


def test_seedgroup_members_share_a_start_and_others_do_not():
    trajectories = play(text_task(CountingEnv), ScriptedPolicy(seeded_text), range(12), group_size=4)
    assert [t.group for t in trajectories] == [0] * 4 + [1] * 4 + [2] * 4
    starts = [prompt_text(t.steps[0].messages) for t in trajectories]
    assert [len(set(starts[i : i + 4])) for i in (0, 4, 8)] == [1, 1, 1]
    assert len(set(starts)) == len({t.seed for t in trajectories}) == 3
    decisions = [tuple(s.completion.text for s in t.steps) for t in trajectories[:4]]
    assert len(set(decisions)) > 1  # they share the start, not the sampling


@pytest.mark.parametrize("wanted", [range(7), [9, 2, 30], []])
def test_finishbias_just_the_episodes_asked_for_all_awaited(wanted):
    """Episodes last as long as their start says: the first to finish are the short ones."""

    class Uneven(CountingEnv):
        def reset(self, **options):
            result = super().reset(**options)
            self.length = 1 + self.start % 9
            return result

    trajectories = play(text_task(Uneven), always("0"), wanted, num_envs=3)
    assert [t.episode for t in trajectories] == sorted(wanted)
    assert all(t.stop_reason is StopReason.TERMINATED for t in trajectories)
    if len(wanted) == 7:
        lengths = [t.num_steps for t in trajectories]
        assert len(set(lengths)) > 2
        first_to_finish = sorted(lengths)[:4]  # the wrong variant
        assert sum(first_to_finish) / 4 < sum(lengths) / 7


@pytest.mark.parametrize("num_envs", [1, 3, 8])
def test_the_number_of_environments_does_not_change_what_is_played(num_envs):
    one = summary(play(text_task(CountingEnv), ScriptedPolicy(seeded_text), range(8), num_envs=1))
    assert summary(play(text_task(CountingEnv), ScriptedPolicy(seeded_text), range(8), num_envs=num_envs)) == one


def test_splits_and_runs_play_other_episodes():
    starts = [
        Collector(always("0"), [text_task(CountingEnv)], MemoryImageStore(), run, split, 1).episodes([0])[0].seed
        for run in (0, 1)
        for split in Split
    ]
    assert len(set(starts)) == 8


def test_tasks_are_drawn_by_weight_and_a_group_has_one():
    tasks = [dataclasses.replace(text_task(CountingEnv), weight=w) for w in (3.0, 1.0)]
    c = Collector(always("0"), tasks, MemoryImageStore(), 0, Split.TRAIN, 4, group_size=2)
    trajectories = c.episodes(range(400))
    assert sum(t.task for t in trajectories) / 400 == pytest.approx(0.25, abs=0.08)
    assert all(a.task == b.task for a, b in zip(trajectories[::2], trajectories[1::2]))


def test_a_task_of_weight_0_is_never_played_in_training():
    tasks = [dataclasses.replace(text_task(CountingEnv), weight=w) for w in (0.0, 1.0, 0.0)]
    c = Collector(always("0"), tasks, MemoryImageStore(), 0, Split.TRAIN, 4)
    assert {t.task for t in c.episodes(range(50))} == {1}


# ----------------------------------------------------------------------------------------------- a fixed number of steps


def test_steps_are_counted_and_cut_episodes_go_on():
    task = text_task(lambda: CountingEnv(length=5), on_parse_failure=FailureEffect.RANDOM_LEGAL)
    policy = ScriptedPolicy(seeded_text)
    c = collector(policy, task, num_envs=3)
    calls = [c.steps(4) for _ in range(6)]
    assert [sum(len(t.steps) for t in call) for call in calls] == [12] * 6
    parts = {}
    for call in calls:
        assert [(t.episode, t.first_step) for t in call] == sorted((t.episode, t.first_step) for t in call)
        for t in call:
            parts.setdefault(t.episode, []).append(t)
    whole = {t.episode: t for t in play(task, policy, range(max(parts) + 1))}
    finished = 0
    for episode, pieces in parts.items():
        joined = [s for piece in pieces for s in piece.steps]
        expected = whole[episode].steps[: len(joined)]
        assert [(s.messages, s.completion.text, s.action, s.reward) for s in joined] == [
            (s.messages, s.completion.text, s.action, s.reward) for s in expected
        ]
        played, paid, fallbacks = 0, 0.0, 0
        for piece in pieces:
            assert (piece.first_step, piece.return_before, piece.fallbacks_before) == (played, paid, fallbacks)
            played += len(piece.steps)
            paid += sum(s.reward.terms["environment"] for s in piece.steps)
            fallbacks += sum(s.executed_by is ExecutedBy.FALLBACK for s in piece.steps)
            assert (piece.num_steps, piece.total_return, piece.num_fallbacks) == (played, paid, fallbacks)
        for piece in pieces[:-1]:
            assert piece.stop_reason is StopReason.CUT
            assert (piece.success, piece.progress, piece.has_ended) == (None, None, False)
            assert piece.final_messages == whole[episode].steps[piece.num_steps].messages
        if pieces[-1].has_ended:
            finished += 1
            assert pieces[-1].success == whole[episode].success
            assert pieces[-1].num_steps == 5
    assert finished > 8


def test_truncation_keeps_the_final_observation():
    (t,) = play(text_task(lambda: CountingEnv(length=None, limit=2)), always("1"), [0])
    assert t.stop_reason is StopReason.TRUNCATED
    assert "played [1, 1]" in prompt_text(t.final_messages)
    (both,) = play(text_task(lambda: CountingEnv(length=2, limit=2)), always("1"), [0])
    assert (both.stop_reason, both.final_messages) == (StopReason.TERMINATED, None)


# ----------------------------------------------------------------------------------------------- success and fallbacks


def test_success_comes_from_the_task_not_from_the_reward():
    (lost,) = play(text_task(CountingEnv), always("0"), [0])
    assert lost.total_return > 0
    assert lost.success is False  # the wrong variant: reward > 0 is a success
    (unknown,) = play(text_task(lambda: CountingEnv(says_success=False)), always("1"), [0])
    assert (unknown.success, unknown.progress) == (None, None)


def test_fallbackwin_a_win_with_a_fallback_is_not_strict():
    def once_nonsense(turn):
        return "nonsense" if "played []" in prompt_text(turn.messages) else '{"action": "1"}'

    (t,) = play(text_task(CountingEnv), ScriptedPolicy(once_nonsense), [0])
    assert [s.executed_by for s in t.steps] == [ExecutedBy.FALLBACK, ExecutedBy.POLICY, ExecutedBy.POLICY]
    assert (t.success, t.is_strict_success, t.num_fallbacks) == (True, False, 1)
    (clean,) = play(text_task(CountingEnv), always("1"), [0])
    assert clean.is_strict_success


def test_fallbackwin_counts_fallbacks_of_earlier_parts():
    def once_nonsense(turn):
        return "nonsense" if "played []" in prompt_text(turn.messages) else '{"action": "1"}'

    c = collector(ScriptedPolicy(once_nonsense), text_task(CountingEnv), num_envs=1)
    (cut,) = c.steps(2)
    end = c.steps(1)[0]
    assert (cut.num_fallbacks, end.num_fallbacks) == (1, 1)
    assert (end.success, end.is_strict_success) == (True, False)


@pytest.mark.parametrize("effect", [FailureEffect.RANDOM_LEGAL, FailureEffect.PENALTY])
def test_a_parse_failure_plays_a_random_legal_action(effect):
    task = text_task(lambda: CountingEnv(length=40), on_parse_failure=effect, parse_failure_penalty=-0.5)
    (t,) = play(task, nonsense(), [0])
    assert len(t.steps) == 40
    assert 8 < sum(s.action for s in t.steps) < 32
    assert all(s.executed_by is ExecutedBy.FALLBACK and isinstance(s.parse, ParseFailure) for s in t.steps)
    penalty = {"parse_failure": -0.5} if effect is FailureEffect.PENALTY else {}
    assert [s.reward.terms for s in t.steps] == [{"environment": float(k + 1)} | penalty for k in range(40)]
    assert t.total_return == 40 * 41 / 2  # the environment's own


def test_a_parse_failure_with_noop_does_not_step_the_environment():
    task = text_task(CountingEnv, on_parse_failure=FailureEffect.NOOP, max_parse_failures=3)
    (t,) = play(task, nonsense(), [0])
    assert (t.stop_reason, t.success, len(t.steps)) == (StopReason.PARSE_FAILURE, False, 3)
    assert [s.action for s in t.steps] == [None] * 3
    assert [s.reward.terms for s in t.steps] == [{"environment": 0.0}] * 3
    assert len({s.messages for s in t.steps}) == 1  # the same observation again
    assert t.final_messages is None


def test_noop_failures_are_counted_over_the_episode_also_over_a_cut():
    task = text_task(lambda: CountingEnv(length=None), on_parse_failure=FailureEffect.NOOP, max_parse_failures=3)
    c = collector(nonsense(), task, num_envs=1)
    c.steps(2)
    (t,) = c.steps(1)
    assert (t.stop_reason, t.num_fallbacks, t.first_step) == (StopReason.PARSE_FAILURE, 3, 2)


def test_a_parse_failure_with_end_ends_the_episode_with_the_penalty():
    task = text_task(CountingEnv, on_parse_failure=FailureEffect.END, parse_failure_penalty=-2.0, reward_scale=0.1)
    (t,) = play(task, nonsense(), [0])
    assert (t.stop_reason, t.success, t.has_ended) == (StopReason.PARSE_FAILURE, False, True)
    assert [(s.action, s.executed_by) for s in t.steps] == [(None, ExecutedBy.FALLBACK)]
    assert t.steps[0].reward.total == -2.0  # the scale is for the environment's reward alone


def test_only_legal_actions_are_played():
    task = text_task(lambda: CountingEnv(length=30, legal_actions=[1]))
    (t,) = play(task, always("0"), [0])
    assert [s.parse.reason for s in t.steps] == ["illegal_action"] * 30
    assert {s.action for s in t.steps} == {1}
    assert {s.legal_actions for s in t.steps} == {(1,)}
    (random,) = play(task, RandomActor(), [0])
    assert {s.action for s in random.steps} == {1}


def test_actions_of_a_space_that_starts_elsewhere_reach_the_environment():
    class Shifted(CountingEnv):
        action_space = spaces.Discrete(2, start=5)

    (t,) = play(text_task(Shifted), always("1"), [0])
    assert [s.action for s in t.steps] == [6, 6, 6]
    (fallback,) = play(text_task(Shifted), nonsense(), [0])
    assert {s.action for s in fallback.steps} <= {5, 6}
    (expert,) = play(expert_task(Shifted, 6), ExpertActor(), [0])
    assert [s.action for s in expert.steps] == [6, 6, 6]
    (constant,) = play(text_task(Shifted), ConstantActor(5), [0])
    assert [s.parse.name for s in constant.steps] == ["0"] * 3


# ----------------------------------------------------------------------------------------------- rewards


class LastAction:
    name = "last_action"

    def __call__(self, trajectories):
        return [[float(s.action) for s in t.steps] for t in trajectories]


def test_reward_terms_and_scale():
    task = text_task(CountingEnv, rewards=((LastAction(), 0.25),), reward_scale=0.1)
    (t,) = play(task, always("1"), [0])
    assert [s.reward.terms for s in t.steps] == [{"environment": float(k), "last_action": 0.25} for k in (1, 2, 3)]
    assert [s.reward.total for s in t.steps] == pytest.approx([0.35, 0.45, 0.55])
    assert t.total_return == 6.0


def test_a_reward_sees_all_trajectories_at_once_and_only_in_training():
    class Counted(LastAction):
        calls = 0

        def __call__(self, trajectories):
            self.calls += 1
            return super().__call__(trajectories)

    reward = Counted()
    task = text_task(CountingEnv, rewards=((reward, 1.0),))
    assert len(play(task, always("1"), range(5))) == 5
    assert reward.calls == 1
    (t,) = Collector(always("1"), [task], MemoryImageStore(), 0, Split.EVAL, 1).episodes([0])
    assert reward.calls == 1 and [set(s.reward.terms) for s in t.steps] == [{"environment"}] * 3


def test_a_mistake_in_a_reward_is_not_a_failure_of_the_environment():
    class Broken(LastAction):
        def __call__(self, trajectories):
            return [[0.0] for _ in trajectories]

    c = collector(always("1"), text_task(CountingEnv, rewards=((Broken(), 1.0),)))
    with pytest.raises(ValueError, match="zip"):
        c.episodes(range(2))
    assert c.env_failures == 0


def test_an_environment_that_reuses_its_info_does_not_rewrite_the_past():
    class Reusing(CountingEnv):
        def _info(self):
            self.kept = getattr(self, "kept", {"facts": {}})
            self.kept["facts"]["played"] = str(len(self.actions))
            return self.kept

        def step(self, action):
            observation, reward, terminated, truncated, _ = super().step(action)
            return observation, reward, terminated, truncated, self._info()

    (t,) = play(text_task(Reusing), always("1"), [0])
    assert [s.facts["played"] for s in t.steps] == ["0", "1", "2"]


# ----------------------------------------------------------------------------------------------- crashes


class Crashing(CountingEnv):
    """Fails in a chosen place, in episodes whose start is even (or always)."""

    def __init__(self, where="step", always=False):
        super().__init__(length=3)
        self.where, self.always, self.is_closed = where, always, False
        if where == "render":
            self.render_mode, self.observation_space = "rgb_array", spaces.Discrete(9)

    def fail(self, place):
        if place == self.where and (self.always or (self.start % 2 == 0 and len(self.actions) >= (place != "reset"))):
            raise RuntimeError(f"broken in {place}")

    def reset(self, **options):
        result = super().reset(**options)
        self.fail("reset")
        return result

    def step(self, action):
        result = super().step(action)
        self.fail("step")
        if self.where in ("nan", "inf") and self.start % 2 == 0:
            return (result[0], float(self.where), *result[2:])
        return result

    def render(self):
        self.fail("render")
        return frame()


def frame():
    return np.full((8, 8, 3), 7, np.uint8)


def is_even(seed):
    env = CountingEnv()
    env.reset(seed=seed)
    return env.start % 2 == 0


@pytest.mark.parametrize("where", ["step", "reset", "render", "nan", "inf"])
def test_crash_loses_its_episode_only_and_never_becomes_a_reward(where, caplog):
    c = collector(always("1"), text_task(lambda: Crashing(where)), num_envs=3, max_failures_in_a_row=100)
    trajectories = c.episodes(range(20))
    doomed = [e for e in range(20) if is_even(environment_seed(0, Split.TRAIN, e))]
    assert 4 < len(doomed) < 16
    assert sorted(c.lost_episodes) == doomed
    assert c.env_failures == len(doomed)
    assert [t.episode for t in trajectories] == [e for e in range(20) if e not in doomed]
    assert all(t.total_return == 6 and len(t.steps) == 3 for t in trajectories)
    assert "episode" in caplog.text and "was lost" in caplog.text
    if where in ("nan", "inf"):
        assert f"is {where}: it must be finite" in caplog.text


def test_crash_the_failed_environment_is_replaced():
    made = []

    def make():
        made.append(Crashing("step"))
        return made[-1]

    task = text_task(make)
    made.clear()
    c = collector(always("1"), task, num_envs=1, max_failures_in_a_row=100)
    c.episodes(range(20))
    assert len(made) in (c.env_failures, c.env_failures + 1)


def test_crash_in_a_fixed_number_of_steps_drops_the_steps_of_the_episode():
    c = collector(always("1"), text_task(lambda: Crashing("step")), num_envs=2, max_failures_in_a_row=100)
    trajectories = c.steps(12)
    assert c.env_failures > 0
    assert not {t.episode for t in trajectories} & set(c.lost_episodes)
    assert all(not is_even(t.seed) for t in trajectories)
    assert sum(len(t.steps) for t in trajectories) == 24 - c.env_failures


@pytest.mark.parametrize("where", ["step", "reset", "render"])
@pytest.mark.parametrize("way", ["episodes", "steps"])
def test_crash_that_never_ends_stops_the_run_with_its_traceback(where, way):
    c = collector(always("1"), text_task(lambda: Crashing(where, always=True)), max_failures_in_a_row=4)
    with pytest.raises(EnvironmentFailure) as error:
        c.episodes(range(50)) if way == "episodes" else c.steps(50)
    message = str(error.value)
    assert "4 environment failures in a row" in message
    assert f"RuntimeError: broken in {where}" in message and "Traceback" in message and "self.fail" in message


def test_crash_failures_with_an_episode_between_them_are_not_in_a_row():
    is_doomed = [is_even(environment_seed(0, Split.TRAIN, e)) for e in range(40)]
    longest = max(len(run) for run in "".join("x" if d else " " for d in is_doomed).split())
    assert longest + 1 < sum(is_doomed)
    c = collector(always("1"), text_task(lambda: Crashing("step")), num_envs=1, max_failures_in_a_row=longest + 1)
    c.episodes(range(40))
    assert c.env_failures == sum(is_doomed)


def test_crash_of_the_policy_is_not_the_environment_s():
    def broken(turn):
        raise KeyError("my mistake")

    with pytest.raises(KeyError, match="my mistake"):
        play(text_task(CountingEnv), ScriptedPolicy(broken))


# ----------------------------------------------------------------------------------------------- context


def test_imagecut_a_prompt_that_no_longer_fits_ends_the_episode_whole():
    task = text_task(lambda: CountingEnv(length=None))
    first = len(prompt_text(play(text_task(CountingEnv), always("1"), [0])[0].steps[0].messages))
    policy = ScriptedPolicy(lambda turn: '{"action": "1"}', context=first + 8)
    (t,) = play(task, policy, [0])
    assert (t.stop_reason, t.success) == (StopReason.CONTEXT_OVERFLOW, False)
    assert all(len(prompt_text(s.messages)) <= first + 8 for s in t.steps)
    assert t.final_messages == t.steps[-1].messages  # the last prompt that fitted


def test_imagecut_an_overflow_at_the_end_of_a_rollout_is_no_cut():
    task = text_task(lambda: CountingEnv(length=None))
    policy = ScriptedPolicy(lambda turn: '{"action": "1"}')
    first = len(prompt_text(collector(policy, task, 1).steps(1)[0].steps[0].messages))
    policy.context = first  # after one step the prompt is longer
    c = collector(policy, task, num_envs=1)
    calls = [c.steps(1) for _ in range(3)]
    assert [t.stop_reason for call in calls for t in call] == [StopReason.CONTEXT_OVERFLOW] * 3
    assert [t.episode for call in calls for t in call] == [0, 1, 2]


def test_a_task_that_never_fits_stops_the_run_and_says_what_to_do():
    with pytest.raises(EnvironmentFailure, match=r"5 environment failures in a row[\s\S]*shorten the task text"):
        play(text_task(CountingEnv), ScriptedPolicy(seeded_text, context=3), range(20))


# ----------------------------------------------------------------------------------------------- resuming


def eyas_task(env_id, **options):
    return Task(lambda: gym.make(env_id), Interface.for_env(gym.make(env_id), **options), env_id=env_id)


@pytest.mark.parametrize("env_id", ["eyas/NumberLine-v0", "eyas/EZPoints-v0"])
@pytest.mark.parametrize("effect", [FailureEffect.RANDOM_LEGAL, FailureEffect.NOOP])
def test_resume_goes_on_as_if_never_stopped(env_id, effect):
    """Prompts hold picture hashes, so that equal prompts are equal pictures bit for bit."""
    task, policy = eyas_task(env_id, on_parse_failure=effect), ScriptedPolicy(seeded_text)
    never_stopped = collector(policy, task, num_envs=3)
    for _ in range(2):
        never_stopped.steps(3)
    state = never_stopped.state_dict()
    kept = copy.deepcopy(state)
    assert state["running"]
    expected = [summary(never_stopped.steps(3)) for _ in range(4)]
    assert state == kept  # a saved state is no view of the running one
    resumed = collector(policy, task, num_envs=3)
    resumed.load_state_dict(kept)
    assert [summary(resumed.steps(3)) for _ in range(4)] == expected
    fresh = collector(policy, task, num_envs=3)  # the wrong variant: begin anew
    fresh._begun = list(kept["begun"])
    assert [summary(fresh.steps(3)) for _ in range(4)] != expected


def test_resume_remembers_parse_failures():
    task = text_task(lambda: CountingEnv(length=None), on_parse_failure=FailureEffect.NOOP, max_parse_failures=3)
    c = collector(nonsense(), task, num_envs=1)
    c.steps(2)
    resumed = collector(nonsense(), task, num_envs=1)
    resumed.load_state_dict(c.state_dict())
    (t,) = resumed.steps(1)
    assert (t.stop_reason, t.num_steps) == (StopReason.PARSE_FAILURE, 3)


def test_resume_an_episode_that_cannot_be_replayed_is_lost():
    c = collector(always("1"), text_task(lambda: CountingEnv(length=9)), num_envs=2)
    c.steps(2)
    resumed = collector(always("1"), text_task(lambda: Crashing("step", always=True)), num_envs=2)
    resumed.load_state_dict(c.state_dict())
    assert resumed.env_failures == 2
    assert resumed.lost_episodes == [0, 1]


def test_actors_parse_what_they_say():
    (t,) = play(expert_task(CountingEnv, 1), ExpertActor(), [0])
    assert all(isinstance(s.parse, ParsedAction) and s.executed_by is ExecutedBy.EXPERT for s in t.steps)
    assert t.steps[0].completion.text == '{"thoughts": "I choose 1.", "action": "1"}'
    half = play(expert_task(CountingEnv, 1), ExpertActor(0.5), range(100))
    steps = [s for t in half for s in t.steps]
    share = sum(s.executed_by is ExecutedBy.RANDOM for s in steps) / len(steps)
    assert share == pytest.approx(0.5, abs=0.1)
    assert all(s.action == 1 for s in steps if s.executed_by is ExecutedBy.EXPERT)


def test_pictures_that_will_be_shown_are_kept_from_the_first_step_on():
    """Also those of earlier steps, while the episode still runs; of other episodes the current one is enough."""
    task = Task(lambda: gym.make("eyas/NumberLine-v0"), Interface.for_env(gym.make("eyas/NumberLine-v0")))
    c = collector(ScriptedPolicy(seeded_text), task, num_envs=2)
    kept = []

    def on_step(num_done):
        for running in c._running.values():
            seen = {
                p.image_hash for s in running.steps for m in s.messages for p in m.parts if hasattr(p, "image_hash")
            }
            kept.append(seen <= c.image_hashes(episodes_below=2 if running.episode < 2 else 0))

    c.episodes(range(2), on_step)
    assert len(kept) > 4 and all(kept)


def test_the_picture_after_the_last_step_of_a_truncated_episode_is_kept_too():
    """The recorder writes it, for it is what the critic saw."""
    env = gym.make("eyas/NumberLine-v0")
    task = Task(lambda: gym.wrappers.TimeLimit(gym.make("eyas/NumberLine-v0"), 1), Interface.for_env(env))
    c = collector(RandomActor(), task)
    finals = {
        p.image_hash
        for t in c.episodes(range(8))
        for m in t.final_messages or ()
        for p in m.parts
        if hasattr(p, "image_hash")
    }
    assert finals and finals <= c.image_hashes(episodes_below=8)
    assert not finals & c.image_hashes(episodes_below=0)
