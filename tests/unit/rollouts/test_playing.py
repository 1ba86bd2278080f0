"""A person and a policy in turn: what is played, what is kept, and what is written for the person."""

import dataclasses

import gymnasium as gym
import pytest
from gymnasium import spaces

import eyas.envs  # noqa: F401
from eyas.envs.experts import expert_for
from eyas.errors import ConfigError, EnvironmentFailure
from eyas.interface import Interface
from eyas.interface.history import Conversation
from eyas.rollouts.actors import PolicyActor
from eyas.rollouts.collector import Collector
from eyas.rollouts.images import MemoryImageStore
from eyas.rollouts.playing import Playing
from eyas.rollouts.samples import supervised_samples
from eyas.rollouts.task import Task
from eyas.seeding import Split, environment_seed
from eyas.types import ExecutedBy, ExpertMove, FailureEffect, ParsedAction, StopReason
from helpers import CountingEnv, always, nano_policy, nonsense, summary, text_task


def begin(task, policy=None, seed=None, images=None):
    kept = []
    store = MemoryImageStore() if images is None else images
    playing = Playing(task, store, policy, 0, kept.append)
    playing.begin(seed)
    return playing, kept


def number_line(**options):
    make = lambda: gym.make("eyas/NumberLine-v0")  # noqa: E731
    return Task(make, Interface.for_env(make(), **options), expert=expert_for(make()), env_id="eyas/NumberLine-v0")


# ----------------------------------------------------------------------------------------------- what is played


@pytest.mark.parametrize("actor", [always("1"), nonsense()], ids=["speaks", "babbles"])
@pytest.mark.parametrize("effect", list(FailureEffect))
def test_a_policy_that_plays_alone_plays_as_the_collector_lets_it(actor, effect):
    task = text_task(
        lambda: CountingEnv(limit=4, length=None, legal_actions=[1]), on_parse_failure=effect, reward_scale=2
    )
    task = dataclasses.replace(task, reward_scale=0.5)
    playing, kept = begin(task, actor)
    while playing.record is None:
        playing.follow(1.0)
    collector = Collector(actor, [task], MemoryImageStore(), 0, Split.DEMONSTRATION, 1)
    assert summary([playing.record]) == summary(collector.episodes([0]))
    assert kept == []


def test_the_person_takes_over_and_hands_back():
    playing, kept = begin(text_task(CountingEnv), always("0"))
    playing.follow(1.0)
    playing.act(1)
    playing.follow(1.0)
    (t,) = kept
    assert [s.executed_by for s in t.steps] == [ExecutedBy.POLICY, ExecutedBy.HUMAN, ExecutedBy.POLICY]
    assert [s.action for s in t.steps] == [0, 1, 0]
    assert (t.stop_reason, t.success, t.total_return) == (StopReason.TERMINATED, False, 6.0)
    with pytest.raises(ConfigError, match="begin another"):
        playing.act(1)


def test_what_was_asked_in_an_episode_before_does_not_change_what_is_suggested():
    policy = nano_policy()
    playing, _ = begin(text_task(CountingEnv), PolicyActor(policy), seed=4, images=policy.images)
    playing.suggest(1.0)
    first, token_ids = playing.turn.seed, playing.suggestion.completion.token_ids
    playing.begin(4)
    assert playing.turn.seed != first
    playing.suggest(1.0)
    assert playing.turn.seed == first
    assert playing.suggestion.completion.token_ids.tolist() == token_ids.tolist()


def test_what_is_suggested_is_what_is_followed_and_asking_again_draws_anew():
    policy = nano_policy()
    playing, _ = begin(text_task(CountingEnv), PolicyActor(policy), images=policy.images)
    seen = set()
    for _ in range(3):
        playing.suggest(1.0)
        seen.add(playing.suggestion.completion.text)
    assert len(seen) == 3
    last = playing.suggestion
    playing.follow(1.0)
    assert playing.running.steps[0].completion is last.completion
    assert playing.suggestion is None


def test_episodes_have_the_seeds_of_demonstrations_or_the_one_that_is_asked_for():
    playing, _ = begin(text_task(CountingEnv))
    assert playing.running.seed == environment_seed(0, Split.DEMONSTRATION, 0)
    playing.begin()
    assert playing.running.seed == environment_seed(0, Split.DEMONSTRATION, 1)
    playing.begin(77)
    assert playing.running.seed == 77


# ----------------------------------------------------------------------------------------------- what is kept


def test_an_episode_that_is_left_is_kept_as_interrupted_with_the_prompt_after_its_last_step():
    playing, kept = begin(text_task(CountingEnv))
    playing.act(1)
    prompt = playing.running.messages
    playing.begin()
    (t,) = kept
    assert t.stop_reason is StopReason.INTERRUPTED and t.success is None
    assert t.final_messages == prompt and len(t.steps) == 1
    playing.close()
    assert len(kept) == 1  # nothing was played in the second one


class Breaks(CountingEnv):
    """Its second step fails, and works in a later episode."""

    broken = True

    def step(self, action):
        if self.actions and Breaks.broken:
            Breaks.broken = False
            raise RuntimeError("the arm fell off")
        return super().step(action)


class Mumbles(CountingEnv):
    """Its second step answers what cannot be read."""

    def step(self, action):
        observation, *rest, info = super().step(action)
        return observation, *rest, info | ({"progress": "far"} if len(self.actions) == 2 else {})


@pytest.mark.parametrize(("env", "why"), [(Breaks, "the arm fell off"), (Mumbles, "far")])
def test_a_failing_environment_costs_the_step_that_it_failed_in_and_no_more(env, why):
    playing, kept = begin(text_task(env))
    playing.act(1)
    prompt = playing.running.messages
    with pytest.raises(EnvironmentFailure, match=f"{why}.*begin another"):
        playing.act(1)
    (t,) = kept
    assert [s.reward.total for s in t.steps] == [1.0] and t.final_messages == prompt
    with pytest.raises(ConfigError, match="begin another"):
        playing.act(1)
    playing.begin()
    playing.act(1)
    assert len(playing.running.steps) == 1


def test_an_episode_ends_where_the_model_cannot_read_its_next_prompt():
    policy = always("0")
    playing, kept = begin(text_task(lambda: CountingEnv(length=None)), policy)
    policy.context = len(playing.running.messages[0].parts[0].text)
    playing.act(1)
    (t,) = kept
    assert t.stop_reason is StopReason.CONTEXT_OVERFLOW and t.final_messages == t.steps[-1].messages
    policy.context = 5
    with pytest.raises(ConfigError, match="leaves no room"):
        playing.begin()


# ----------------------------------------------------------------------------------------------- what is written


def test_facts_and_thought_are_the_expert_s_with_the_person_s_action():
    playing, kept = begin(number_line(), seed=0)  # from 3 to 5
    playing.act(0)
    playing.act(1)
    playing.close()
    wrong, right = kept[0].steps
    assert wrong.completion.text == (
        '{"current number": "3", "target number": "5", "thoughts": "From 3 to 5 I choose -.", "action": "-"}'
    )
    assert isinstance(right.parse, ParsedAction) and right.parse.facts == {"current number": "2", "target number": "5"}


def test_an_expert_s_own_words_stand_only_where_the_person_agrees_with_it():
    task = dataclasses.replace(text_task(CountingEnv), expert=lambda env: ExpertMove(1, thought="One wins."))
    playing, kept = begin(task)
    playing.act(1)
    playing.act(0)
    playing.close()
    agreed, other = (s.completion.text for s in kept[0].steps)
    assert agreed == '{"thoughts": "One wins.", "action": "1"}' and "One wins" not in other


def test_without_an_expert_there_is_no_thought_and_without_facts_that_are_asked_for_no_text():
    playing, kept = begin(text_task(CountingEnv))
    playing.act(1)
    playing.close()
    assert kept[0].steps[0].completion.text == '{"thoughts": "", "action": "1"}'
    playing, kept = begin(dataclasses.replace(number_line(), expert=None))
    playing.act(1)
    playing.close()
    (step,) = kept[0].steps
    assert step.completion.text == "" and step.parse.name == "+" and step.executed_by is ExecutedBy.HUMAN


def test_supervision_learns_the_person_s_steps():
    policy = nano_policy()
    playing, kept = begin(number_line(history=Conversation()), seed=0, images=policy.images)
    playing.act(1)
    playing.act(1)
    (t,) = kept
    samples = supervised_samples(t, policy.model, policy.images)
    spans = [(sample, span) for sample in samples for span in sample.steps]
    written = [policy.model.decode(sample.ids[span.start : span.end]) for sample, span in spans]
    assert len(written) == 2 and all('"action": "+"' in text for text in written)


# ----------------------------------------------------------------------------------------------- what a person types


class Typed(CountingEnv):
    action_space = spaces.Box(-2.0, 2.0, (2,))


def test_words_are_read_as_a_model_s_are_and_what_is_no_action_is_said():
    playing, _ = begin(text_task(Typed))
    assert playing.read("1, -0.5").tolist() == [1.0, -0.5]
    with pytest.raises(ConfigError, match="is no action here"):
        playing.read("left")
    playing, _ = begin(text_task(lambda: CountingEnv(legal_actions=[1])))
    assert playing.read("1") == 1
    with pytest.raises(ConfigError, match="not legal now"):
        playing.read("0")


def test_several_actions_in_one_step_end_where_the_next_is_not_legal():
    playing, kept = begin(text_task(CountingEnv, max_actions=3))
    playing.act(playing.read("1, 0"))
    playing.act(playing.read("1, 1, 1"))
    (t,) = kept
    assert [s.action for s in t.steps] == [(1, 0), (1,)] and t.total_return == 6.0
