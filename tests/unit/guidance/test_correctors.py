"""Correctors: the rule on experts, and the model that is asked, with its memory, its budget and its last retry."""

from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest

import eyas.envs  # noqa: F401
from eyas.envs.experts import expert_for, fact_rule_for
from eyas.errors import ConfigError
from eyas.guidance.correctors import CORRECTORS, ExpertCorrector, ModelCorrector, corrector_factory, register_corrector
from eyas.guidance.guide import check_guidance
from eyas.guidance.options import GuidanceConfig
from eyas.interface import Interface
from eyas.models.policy import Policy
from eyas.rollouts.task import Task
from eyas.types import Completion, ExpertMove
from helpers import nano_policy, prompt, prompt_text, step, text_task
from helpers_served import FakeServer

EZPOINTS = gym.make("eyas/EZPoints-v0", mode="text")
NUMBER_LINE = gym.make("eyas/NumberLine-v0", mode="text")
LINE = Interface.for_env(NUMBER_LINE)
TASK = Task(lambda: NUMBER_LINE, LINE)
TRUTH = {"current number": "3", "target number": "5"}
UP = ExpertMove(1, TRUTH)


def written(current="3", target="5", thought="From 3 to 5 I choose +.", action="+"):
    facts = f'"current number": "{current}", "target number": "{target}"'
    return f'{{{facts}, "thoughts": "{thought}", "action": "{action}"}}'


def step_of(text, move=UP, asked="The target number is 5."):
    completion = Completion(text)
    return step(completion, LINE.parse(completion, None), messages=prompt(asked), expert_move=move)


# ----------------------------------------------------------------------------------------------- by rule


def by_rule(*steps, task=TASK):
    return ExpertCorrector(GuidanceConfig(), nano_policy())(task, steps)


@pytest.mark.parametrize("thought", ["From 3 to 5 I choose +.", "Up it goes.", "Not -, but +.", ""])
def test_a_right_thought_stays_word_for_word(thought):
    text = written(thought=thought)
    assert by_rule(step_of(text)) == [text]


@pytest.mark.parametrize(
    "text",
    [
        written(current="4"),
        written(target="2"),
        written(action="-"),
        written(thought="From 3 to 5 I choose -."),  # and then does something else
        '{"current number": "3", "thoughts": "So.", "action": "+"}',
        '{"current number": "3"',
        "",
    ],
)
def test_a_wrong_one_is_written_anew_from_the_true_facts(text):
    assert by_rule(step_of(text)) == [written()]


def test_without_an_expert_or_its_facts_nothing_is_said():
    assert by_rule(step_of(written(), move=None), step_of(written(), move=ExpertMove(1))) == [None, None]


def test_of_several_actions_the_first_is_the_experts():
    several = Interface.for_env(NUMBER_LINE, max_actions=3)
    texts = [written(thought="So.", action="+,-"), written(thought="So.", action="-,+")]
    steps = [step(c := Completion(t), several.parse(c, None), expert_move=UP) for t in texts]
    kept, corrected = by_rule(*steps, task=Task(lambda: NUMBER_LINE, several))
    assert kept == texts[0] and corrected != texts[1]


def test_another_move_that_wins_too_is_right_where_a_rule_says_so():
    interface = Interface.for_env(EZPOINTS)
    EZPOINTS.reset(seed=3)
    env = EZPOINTS.unwrapped
    move = expert_for(EZPOINTS)(env)
    first, second, wrong = env.numbers[0], env.numbers[1], 1
    assert (
        first != second
        and wrong not in env.numbers
        and env.rules.action_names[move.action] in (str(first), str(second))
    )
    names = [str(first), str(second), str(wrong)]
    moves = [replace(move, action=env.rules.action_names.index(name)) for name in names]
    texts = [interface.write(m) for m in moves]
    steps = [step(c := Completion(t), interface.parse(c, None), expert_move=move) for t in texts]
    ruled = Task(lambda: EZPOINTS, interface, fact_rule=fact_rule_for(EZPOINTS))
    assert by_rule(*steps, task=ruled) == [*texts[:2], interface.write(move)]
    assert by_rule(*steps, task=Task(lambda: EZPOINTS, interface)) == [interface.write(move)] * 3


def test_a_rule_that_reads_a_fact_which_the_expert_does_not_tell_allows_nothing_more():
    ruled = Task(lambda: NUMBER_LINE, LINE, fact_rule=lambda facts, action: facts["speed"] == "high")
    assert by_rule(step_of(written(action="-")), task=ruled) == [LINE.write(UP)]


# ----------------------------------------------------------------------------------------------- by a model


class Answering:
    """Answers from a script; each request is kept."""

    def __init__(self, *answers, room=10**6):
        self.answers, self.room, self.version, self.asked = list(answers), room, 0, []

    def sample(self, requests):
        self.asked += requests
        last = self.answers[0]
        texts = [self.answers.pop(0) if len(self.answers) > 1 else last for _ in requests]
        return [Completion(t, token_ids=np.zeros(7, np.int32)) for t in texts]

    def fits(self, messages, max_new_tokens):
        return max_new_tokens <= self.room


def asking(asked, **options) -> ModelCorrector:
    return ModelCorrector(GuidanceConfig(corrector="model", **options), asked)


def test_its_answer_is_the_correction():
    asked = Answering(written(current="3"))
    assert asking(asked)(TASK, [step_of(written(current="4"))]) == [written()]
    (request,) = asked.asked
    assert [m.role for m in request.messages] == ["user", "assistant", "user"]
    assert prompt_text(request.messages[1:2]) == written(current="4")
    assert request.messages[-1].parts[0].text.endswith(LINE.format.instruction())
    assert (request.temperature, request.max_new_tokens, request.stop) == (0.2, 64, LINE.format.stop)


def test_what_it_answered_is_remembered_until_its_weights_change():
    asked = Answering(written())
    correct = asking(asked)
    same, other = step_of("a"), step_of("a", asked="The target number is 4.")
    assert correct(TASK, [same, same, other, step_of("b")]) == [written()] * 4
    assert len(asked.asked) == 3
    correct(TASK, [other, same])
    assert len(asked.asked) == 3
    assert correct.costs == {
        "corrector_calls_count": 3.0, "corrector_cached_count": 3.0, "corrector_tokens_count": 21.0
    }  # fmt: skip
    asked.version = 1
    correct(TASK, [same])
    assert len(asked.asked) == 4


def test_an_answer_that_says_nothing_is_asked_for_again_and_then_never_more():
    unusable = ["no", '{"thoughts": "So.", "action": "+"}', written(thought="")]
    asked = Answering(*unusable, written())
    assert asking(asked, retries=3)(TASK, [step_of("a")]) == [written()]
    assert len({r.seed for r in asked.asked}) == 4
    asked = Answering("no")
    correct = asking(asked, retries=2)
    assert correct(TASK, [step_of("a")]) == correct(TASK, [step_of("a")]) == [None]
    assert len(asked.asked) == 3
    asking(once := Answering("no"), retries=0)(TASK, [step_of("a")])
    assert len(once.asked) == 1


def test_after_its_last_call_it_is_asked_no_more_but_remembers():
    asked = Answering(written())
    correct = asking(asked, most_calls=3)
    steps = [step_of(t) for t in "abcde"]
    assert correct(TASK, steps) == [written()] * 3 + [None] * 2
    assert correct(TASK, steps) == [written()] * 3 + [None] * 2
    assert len(asked.asked) == 3
    other = asking(asked, most_calls=3)
    other.load_state_dict(correct.state_dict())
    assert other(TASK, steps) == [written()] * 3 + [None] * 2
    assert other.costs["corrector_cached_count"] > correct.costs["corrector_cached_count"] and len(asked.asked) == 3


def test_it_is_told_the_truth_where_it_may_know_it():
    for knows_truth in (False, True):
        asked = Answering(written())
        correct = asking(asked, knows_truth=knows_truth)
        correct(TASK, [step_of("a")])
        told = asked.asked[0].messages[-1].parts[0].text
        assert ("current number: 3; target number: 5; best action: +." in told) == knows_truth == correct.asks_expert


def test_a_prompt_that_does_not_fit_is_not_asked():
    asked = Answering(written(), room=99)
    assert asking(asked, max_new_tokens=100)(TASK, [step_of("a")]) == [None]
    assert asking(asked, max_new_tokens=99)(TASK, [step_of("a")]) == [written()]
    assert len(asked.asked) == 1


def test_a_served_model_is_asked_and_its_tokens_are_counted():
    with FakeServer(lambda body: written()) as server:
        correct = ModelCorrector(
            GuidanceConfig(corrector="model", model="served:tiny", base_url=server.url), nano_policy()
        )
        assert correct(TASK, [step_of("a"), step_of("a"), step_of("b")]) == [written()] * 3
    assert len(server.bodies) == 2
    assert {b["model"] for b in server.bodies} == {"tiny"}
    assert correct.costs["corrector_tokens_count"] > 0


def test_a_frozen_model_is_one_of_its_own(tmp_path):
    policy = nano_policy(seed=1)
    policy.save(tmp_path)
    correct = ModelCorrector(GuidanceConfig(corrector="model", model=str(tmp_path)), nano_policy(seed=0))
    assert isinstance(correct.asked, Policy)
    assert not any(p.requires_grad for p in correct.asked.model.parameters())
    for name, weight in correct.asked.model.state_dict().items():
        assert np.array_equal(weight.numpy(), policy.model.state_dict()[name].numpy())


# ----------------------------------------------------------------------------------------------- by name


def test_a_corrector_of_ones_own_is_found_by_its_name(monkeypatch):
    monkeypatch.setattr("eyas.guidance.correctors.CORRECTORS", dict(CORRECTORS))
    register_corrector("mine")(ExpertCorrector)
    assert corrector_factory("mine") is ExpertCorrector
    with pytest.raises(ConfigError, match="unknown corrector 'yours': choose from expert, model, mine"):
        corrector_factory("yours")


def test_what_a_task_lacks_is_found_before_the_run():
    task = text_task(lambda: NUMBER_LINE)
    for lacking in ({}, {"corrector": "model", "knows_truth": True}, {"corrector": "model", "ends_where": ("lost",)}):
        with pytest.raises(ConfigError, match="has no expert"):
            check_guidance(GuidanceConfig(**lacking), [task])
    check_guidance(GuidanceConfig(corrector="model", ends_where=("punished",)), [task])
    silent = text_task(lambda: NUMBER_LINE, thoughts=False)
    with pytest.raises(ConfigError, match="set thoughts = true"):
        check_guidance(GuidanceConfig(corrector="model"), [silent])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"retries": 1}, "retries does nothing with corrector = 'expert'"),
        ({"model": "nano"}, "model does nothing with corrector = 'expert'"),
        ({"early_end_reward": -2.0}, "without ends_where"),
        ({"corrector": "model", "model": "served:x"}, "where is the model"),
        ({"corrector": "model", "base_url": "http://x"}, "base_url is for served models"),
    ],
)
def test_an_option_that_would_do_nothing_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        GuidanceConfig(**options)
