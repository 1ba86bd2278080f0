"""The vocabulary: what holds arrays can still be asked whether it is among others."""

import numpy as np

from eyas.types import ActionScores, Completion, Message, TextPart


def completion() -> Completion:
    ids = np.arange(3, dtype=np.int32)
    scores = ActionScores(1, (ids, ids), np.log(np.array([0.5, 0.5], np.float32)), 0)
    return Completion("abc", ids, np.zeros(3, np.float32), scores=scores)


def test_prompts_with_what_the_model_wrote_can_be_compared_and_counted() -> None:
    one, other = completion(), completion()
    assert one == one and one != other  # the wrong variant compares arrays, whose truth has no value
    assert one.scores != other.scores
    prompts = [(Message("assistant", (TextPart("abc"),), c),) for c in (one, other, one)]
    assert len(set(prompts)) == 2
