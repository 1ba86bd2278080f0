"""Measures of thoughts, each against a number that was worked by hand."""

import math

import numpy as np
import pytest

from eyas.evaluation import thoughts as of
from eyas.evaluation.measures import cut_share, rollout_metrics
from eyas.types import ActionScores, Completion, FailureReason, FinishReason, ParsedAction, ParseFailure
from helpers import step, trajectory

FAILED = ParseFailure(FailureReason.EMPTY, "", 0)


def thinking(*thoughts):
    return [step(parse=ParsedAction(0, "a", thought, {}, 0)) for thought in thoughts]


def acting(action, **facts):
    return step(parse=ParsedAction(action, "a", "", facts, 0))


def sampled(*logprobs, thought="x", **fields):
    arrays = np.zeros(len(logprobs), np.int32), np.array(logprobs, np.float32)
    parse = ParsedAction(0, "a", thought, {}, 0)
    return step(Completion("x", *arrays, **fields), parse)


def log(*rows):
    with np.errstate(divide="ignore"):
        return np.log(np.array(rows, dtype=float))


# ----------------------------------------------------------------------------------------------- diversity


def test_the_unique_share_counts_thoughts_and_nothing_else():
    steps = [*thinking("x", "x", "y", "z", ""), step(parse=FAILED)]
    assert of.thought_unique_share(steps) == 0.75
    assert of.thought_unique_share([step(parse=FAILED)]) is None


def test_the_unique_share_is_of_as_many_thoughts_whatever_the_size_of_an_iteration():
    assert of.thought_unique_share(thinking(*map(str, range(1000)))) == 1.0
    assert of.thought_unique_share(thinking(*"ab" * 500)) == 2 / of.COMPARED  # of all of them it would be 2 / 1000
    mixed = thinking(*(str(i % 90) for i in range(900)))
    assert len({of.thought_unique_share(mixed) for _ in range(3)} - {1.0}) == 1


def test_self_bleu_is_the_mean_of_each_thoughts_own():
    """Each of the first two shares 4 of 5 words with the other, 3 of 4 pairs, 2 of 3 triples, 1 of 2 of four words."""
    found = of.thought_self_bleu(thinking("a b c d e", "a b c d f", "v w x y z"))
    assert found == pytest.approx((2 * (4 / 5 * 3 / 4 * 2 / 3 * 1 / 2) ** (1 / 4) + 0) / 3)


def test_self_bleu_counts_a_repeated_phrase_only_as_often_as_another_thought_holds_it():
    """Unclipped, the first would score 1; the second is shorter than its reference."""
    found = of.thought_self_bleu(thinking("a a a a a", "a a a a"))
    assert found == pytest.approx((0.2**0.25 + math.exp(1 - 5 / 4)) / 2)


def test_self_bleu_compares_with_the_reference_of_nearest_length():
    """ "a b" has phrases up to its own length, and its references have 3 and 4 words; the others end in words of their own."""
    found = of.thought_self_bleu(thinking("a b", "a b c", "a b d e"))
    assert found == pytest.approx(math.exp(1 - 3 / 2) / 3)


def test_self_bleu_is_1_where_all_say_the_same_and_0_where_nothing_is_shared():
    assert of.thought_self_bleu(thinking(*["I choose +."] * 100)) == pytest.approx(1)
    assert of.thought_self_bleu(thinking("a b", "c d")) == 0
    assert of.thought_self_bleu(thinking("alone")) is None


# ----------------------------------------------------------------------------------------------- thought and action


def rule(facts, action):
    return action == int(facts["n"])


def test_agreement_is_with_the_facts_as_they_were_written_not_with_the_truth():
    steps = [acting(3, n="3"), acting(3, n="4"), acting(5, n="5"), acting(0, n="1")]
    for s in steps:
        s.facts = {"n": "3"}
    assert of.thought_action_agreement([trajectory(steps)], {0: rule}) == 0.5


def test_facts_that_cannot_be_read_and_tasks_without_a_rule_do_not_count():
    steps = [acting(3, n="3"), acting(3, n="three"), acting(3, other="3"), acting(3), step(parse=FAILED)]
    other = trajectory([acting(9, n="1")], task=1)
    assert of.thought_action_agreement([trajectory(steps), other], {0: rule, 1: None}) == 1.0
    assert of.thought_action_agreement([other], {0: rule}) is None


def test_of_several_actions_the_first_follows_from_the_facts():
    assert of.thought_action_agreement([trajectory([acting((3, 9), n="3"), acting((9, 3), n="3")])], {0: rule}) == 0.5


def test_only_so_many_steps_are_graded():
    graded = []

    def counting(facts, action):
        graded.append(action)
        return True

    assert of.thought_action_agreement([trajectory([acting(i, n="1") for i in range(500)])], {0: counting}) == 1.0
    assert len(graded) == len(set(graded)) == of.GRADED


def test_thought_and_action_have_entropies_of_their_own():
    """A mean over 3 thought tokens, and a sum over the tokens of each of 2 actions."""
    divided = [(sampled(-1.0, -2.0, -4.0, -0.5), 2), (sampled(-3.0, -1.5), 1)]
    steps = [s for s, _ in divided]
    assert of.thought_entropy(divided) == pytest.approx((1 + 2 + 3) / 3)
    assert of.action_entropy(steps, divided) == pytest.approx((4.5 + 1.5) / 2)
    assert of.thought_entropy([]) is of.action_entropy(steps) is None  # it is not known where the actions begin


def test_what_is_no_thought_or_no_action_has_no_entropy():
    failed = sampled(-1.0, -2.0)
    failed.parse = FAILED
    divided = [(failed, 2), (step(), 0)]  # one that does not parse, one that nobody sampled
    assert of.thought_entropy([*divided, (sampled(-1.0, thought=""), 1)]) is None  # "{" is no thought
    assert of.action_entropy([], divided) is None


def test_the_entropy_of_scored_actions_is_exact():
    scores = ActionScores(1, (), np.log(np.array([0.75, 0.25], np.float32)), 0)
    scored = sampled(-1.0, -9.0, scores=scores)
    exact = -0.75 * math.log(0.75) - 0.25 * math.log(0.25)
    assert of.action_entropy([scored], [(scored, 1)]) == of.action_entropy([scored]) == pytest.approx(exact)
    assert of.thought_entropy([(scored, 1)]) == 1.0
    text = sampled(-2.0, -4.0)
    assert of.action_entropy([scored, text], [(scored, 1), (text, 1)]) == pytest.approx((exact + 4) / 2)


def test_the_share_of_cut_completions():
    steps = [sampled(-1.0, finish_reason=reason) for reason in FinishReason] + [step()]
    assert cut_share(steps) == pytest.approx(1 / len(FinishReason))


# ----------------------------------------------------------------------------------------------- thought and input


def test_mutual_information_of_two_thoughts_by_hand():
    """Rows are thoughts: the transposed reading would give another number."""
    crossed = log([0.9, 0.1], [0.4, 0.8])
    assert of.mutual_information(crossed) == pytest.approx((math.log(0.9 / 0.5) + math.log(0.8 / 0.6)) / 2)
    assert of.own_prompt_share(crossed) == 1.0


def test_mutual_information_is_log_n_at_most_and_0_where_the_input_does_nothing():
    assert of.mutual_information(log(*np.eye(8))) == pytest.approx(math.log(8))
    blind = log(*np.tile(np.linspace(0.1, 0.8, 8)[:, None], 8))
    assert of.mutual_information(blind) == pytest.approx(0)
    assert of.own_prompt_share(blind) == pytest.approx(1 / 8)  # a tie is won by chance


def test_long_thoughts_do_not_underflow():
    assert of.mutual_information(np.array([[-5000.0, -9000.0], [-9000.0, -5000.0]])) == pytest.approx(math.log(2))


def test_the_own_prompt_wins_where_no_other_is_likelier():
    assert of.own_prompt_share(log([0.5, 0.4, 0.1], [0.5, 0.4, 0.1], [0.1, 0.1, 0.8])) == pytest.approx(2 / 3)


# ----------------------------------------------------------------------------------------------- the log


def test_every_measure_of_thoughts_is_logged():
    steps = [sampled(-1.0, -2.0, thought="a b") for _ in range(2)]
    played = [trajectory([*steps, acting(1, n="1"), acting(1, n="2")])]
    numbers = rollout_metrics(played, {0: ("n",)}, {0: rule}, [(s, 1) for s in steps])
    assert numbers["rollout/thought_unique_share"] == 0.5
    assert numbers["rollout/thought_self_bleu"] == pytest.approx(1)
    assert numbers["rollout/thought_action_agreement"] == 0.5
    assert numbers["rollout/thought_entropy_nats"] == 1.0
    assert numbers["rollout/action_entropy_nats"] == 2.0
    assert numbers["rollout/completion_cut_share"] == 0.0
