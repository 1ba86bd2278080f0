"""The rewards of format and against repetition, worked by hand."""

import pytest

from eyas.interface import Interface
from eyas.rewards.registry import REWARDS
from eyas.rewards.repetition import repeated_share
from eyas.types import Completion
from helpers import CountingEnv, step, trajectory


def earned(name, *texts, **options):
    interface = Interface.for_env(CountingEnv(), **options)
    completions = [Completion(t) for t in texts]
    return REWARDS[name](interface)([trajectory([step(c, interface.parse(c, None)) for c in completions])])[0]


def test_the_format_reward_wants_an_action_and_a_thought_where_one_is_asked_for():
    texts = '{"thoughts": "So.", "action": "1"}', '{"thoughts": "", "action": "1"}', '{"thoughts": "So."}', ""
    assert earned("format", *texts) == [1.0, 0.0, 0.0, 0.0]
    assert earned("format", *texts, thoughts=False) == [1.0, 1.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("", 0.0),
        ("a b", 0.0),
        ("a b c d", 0.0),
        ("a b c a b c", 0.25),  # abc bca cab abc: one of four stood there before
        ("a a a a a", 2 / 3),
    ],
)
def test_repeated_phrases_are_counted(text, share):
    assert repeated_share(text) == pytest.approx(share)


def test_repetition_costs_what_it_repeats():
    assert earned("repetition", "a b c", "a a a a a") == pytest.approx([0.0, -2 / 3])
