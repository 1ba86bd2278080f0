"""Batches: which tokens are learned from, where the action begins, how a minibatch is split."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from eyas.batch import Candidates, Denominators, SampleStep, TrainingSample, first_token_beyond
from eyas.collate import collate
from eyas.models.nano import nano_tokenizer
from eyas.splits import micro_batches, of_similar_length, parts, shuffled

A = TrainingSample(np.array([5, 6, 7, 8, 9]), ("h",), (SampleStep(3, 4, 5, value=0.5, advantage=2.0, value_target=1.5),),
                   np.array([-1, -2], np.float32))  # fmt: skip
B = TrainingSample(np.array([1, 2, 3, 4, 5, 6, 7]), (), (SampleStep(1, 1, 3, advantage=3.0), SampleStep(5, 7, 7)),
                   np.array([-3, -4, -5, -6], np.float32))  # fmt: skip


def test_collate_by_hand():
    batch = collate([A, B], pad_id=0)
    assert batch.input_ids.tolist() == [[5, 6, 7, 8, 9, 0, 0], [1, 2, 3, 4, 5, 6, 7]]
    assert batch.attention_mask.tolist() == [[True] * 5 + [False] * 2, [True] * 7]
    assert batch.position_ids.tolist() == [list(range(7))] * 2
    assert batch.token_rows.tolist() == [0, 0, 1, 1, 1, 1]
    assert batch.token_columns.tolist() == [2, 3, 0, 1, 4, 5]  # one before the token: its hidden state predicts it
    assert batch.token_ids.tolist() == [8, 9, 2, 3, 6, 7]
    assert batch.token_steps.tolist() == [0, 0, 1, 1, 2, 2]
    assert batch.is_thought.tolist() == [True, False, False, False, True, True]
    assert batch.sampling_logprobs.tolist() == [-1, -2, -3, -4, -5, -6]
    assert batch.step_rows.tolist() == [0, 1, 1]
    assert batch.step_columns.tolist() == [2, 0, 4]
    assert batch.values.tolist() == [0.5, 0, 0]
    assert batch.advantages.tolist() == [2, 3, 0]
    assert batch.value_targets.tolist() == [1.5, 0, 0]
    assert batch.image_hashes == [("h",), ()]


def test_one_sample_without_logprobs_leaves_the_batch_without():
    assert collate([A, TrainingSample(A.ids, (), A.steps)], 0).sampling_logprobs is None


def test_denominators_count_steps_and_completion_tokens():
    assert Denominators.of([A, B]) == Denominators(steps=3, tokens=6, trajectories=3.0)
    assert Denominators.of([]) == Denominators(1, 1)


@pytest.mark.parametrize("most_tokens", [1, 6, 8, 14, 100, None])
def test_micro_batches_hold_every_sample_once_and_no_more_tokens_than_asked_for(most_tokens):
    samples = [TrainingSample(np.arange(n), (), ()) for n in (5, 1, 4, 1, 3)]
    found = list(micro_batches(samples, most_tokens))
    assert sorted(id(s) for p in found for s in p) == sorted(map(id, samples))
    padded = [len(p) * max(len(s.ids) for s in p) for p in found]
    assert most_tokens is None or all(n <= most_tokens or len(p) == 1 for n, p in zip(padded, found))
    assert len(found) == {1: 5, 6: 4, 8: 3, 14: 2, 100: 1, None: 1}[most_tokens]


def test_rows_are_cut_by_length_where_that_saves_enough_padding():
    lengths = np.array([9, 2, 10, 3, 20])

    def groups(least_saved: int) -> list[list[int]]:
        return [rows.tolist() for rows in of_similar_length(lengths, least_saved)]

    # padded to 20 the others waste 18 + 17 + 11 + 10 tokens: a cut before 20 saves 4 x 10, one before 9 then 2 x 7
    assert groups(41) == [[0, 1, 2, 3, 4]]
    assert groups(40) == groups(15) == [[0, 1, 2, 3], [4]]
    assert groups(14) == [[1, 3], [0, 2], [4]]
    assert of_similar_length(np.array([5]), 1)[0].tolist() == [0]


def test_samples_with_the_same_prompt_are_read_together():
    def sample(first, length):
        return TrainingSample(np.array([first] * 20 + [1] * length), (), (SampleStep(20, 20, 20 + length),))

    samples = [sample(i % 3, 1 + i) for i in range(6)]
    found = list(micro_batches(samples, 2 * 26))
    assert [{int(s.ids[0]) for s in p} for p in found] == [{0}, {1}, {2}]


def test_groups_stay_together_where_that_is_asked_for():
    samples = [TrainingSample(np.arange(2), (), (), group=i // 4) for i in range(20)]
    together = [s.group for s in shuffled(samples, np.random.default_rng(0), keeps_groups=True)]
    assert [g for i, g in enumerate(together) if i % 4 == 0] != list(range(5))
    assert all(len(set(together[i : i + 4])) == 1 for i in range(0, 20, 4))
    apart = [s.group for s in shuffled(samples, np.random.default_rng(0))]
    assert sorted(apart) == sorted(together) and any(len(set(apart[i : i + 4])) > 1 for i in range(0, 20, 4))


# ----------------------------------------------------------------------------------------------- many candidates


def scored(num_tokens, *candidates, action_start=None):
    """A sample whose action was chosen among candidates of so many tokens each."""
    words = Candidates(tuple(100 * (i + 1) + np.arange(n) for i, n in enumerate(candidates)), chosen=1)
    start = num_tokens - 2 if action_start is None else action_start
    return TrainingSample(
        np.arange(num_tokens), (f"{num_tokens} tokens",), (SampleStep(start, start, num_tokens, words),)
    )


def test_candidates_that_do_not_fit_behind_their_sample_share_rows_that_begin_with_it(monkeypatch):
    monkeypatch.setattr("eyas.collate.LEAST_CANDIDATE_TOKENS", 4)
    batch = collate([scored(5, 2, 2, 2, 9, 1), scored(3, 1, 1)], pad_id=0)
    assert batch.image_hashes == [("5 tokens",), ("3 tokens",), ("5 tokens",), ("5 tokens",), ("5 tokens",)]
    assert batch.input_ids[[0, 2, 3, 4], :5].tolist() == [[0, 1, 2, 3, 4]] * 4
    assert batch.input_ids[0, 5:].tolist() == [100, 101, 200, 201] + [0] * 5
    assert batch.input_ids[2, 5:7].tolist() == [300, 301]
    assert batch.input_ids[3, 5:].tolist() == [*range(400, 409)]  # one that is too long has a row of its own
    assert batch.input_ids[4, 5] == 500
    assert batch.scoring.token_rows.tolist() == [0] * 4 + [2] * 2 + [3] * 9 + [4] + [1] * 2
    assert batch.scoring.token_candidates.tolist() == [0, 0, 1, 1, 2, 2, *[3] * 9, 4, 5, 6]
    assert batch.step_rows.tolist() == [0, 1] and batch.token_rows.max() == 1
    sees = batch.attention_mask[2, 0]
    assert sees[5].nonzero()[:, 0].tolist() == [0, 1, 2, 5]  # what came before the action, and itself
    assert sees[6].nonzero()[:, 0].tolist() == [0, 1, 2, 5, 6]
    assert batch.position_ids[2, 5:7].tolist() == [3, 4]


def test_candidates_take_no_more_columns_than_their_sample_or_a_few():
    few, many = collate([scored(40, *[8] * 64)], 0), collate([scored(40, *[8] * 65)], 0)
    assert few.input_ids.shape == (1, 40 + 512)
    assert many.input_ids.shape == (2, 40 + 512)
    assert collate([scored(600, *[8] * 75)], 0).input_ids.shape == (1, 1200)


@pytest.mark.parametrize("size", [2, 100])
def test_micro_batches_of_scored_steps_stay_below_the_memory_of_their_mask(monkeypatch, size):
    monkeypatch.setattr("eyas.splits.MOST_MASK_CELLS", 5 * 40**2)
    samples = [scored(20, *[4] * 5) for _ in range(12)] + [scored(30, 2, 2)]
    found = [[samples[i] for i in p] for p in parts(samples, size)]
    assert sorted(id(s) for p in found for s in p) == sorted(map(id, samples))
    assert [len(p) for p in found] == ([5, 5, 3] if size == 100 else [2] * 6 + [1])
    assert all(collate(p, 0).attention_mask.numel() <= 5 * 40**2 for p in found)
    assert [len(p) for p in micro_batches([A, B] * 4)] == [8]  # what is not scored has a small mask


# ----------------------------------------------------------------------------------------------- the action span


def spell(*tokens):
    """A decoder for tokens that are given as bytes."""
    return np.arange(len(tokens)), lambda ids: b"".join(tokens[i] for i in ids).decode("utf-8", "replace")


@pytest.mark.parametrize(("character", "token"), [(0, 0), (1, 0), (2, 1), (3, 1), (4, 2), (5, 2), (6, 3), (99, 3)])
def test_the_token_that_reaches_past_an_offset(character, token):
    ids, decode = spell(b"ab", b"cd", b"ef")
    assert first_token_beyond(ids, character, decode) == token


def test_a_token_that_straddles_the_offset_belongs_to_the_action():
    ids, decode = spell(b'so", "act', b'ion": "+"}')
    assert first_token_beyond(ids, 5, decode) == 0
    ids, decode = spell(b"so", b'", "', b'action": "+"}')
    assert first_token_beyond(ids, 5, decode) == 1


def test_characters_that_several_tokens_spell():
    grin = "😀".encode()
    ids, decode = spell(b"a", grin[:1], grin[1:3], grin[3:], b'"action"')
    assert first_token_beyond(ids, 2, decode) == 4
    assert first_token_beyond(ids, 1, decode) == 1
    in_bytes = [len(b"a" + grin[:k]) > 2 for k in (1, 3, 4)].index(True)  # the wrong variant counts bytes
    assert 1 + in_bytes != 4


def test_no_tokens():
    assert first_token_beyond(np.array([]), 0, lambda ids: "") == 0


@pytest.fixture(scope="module")
def tokenizer():
    return nano_tokenizer()


@settings(deadline=None, max_examples=200)
@given(
    st.text(st.characters(exclude_categories=("Cs",)), max_size=12),
    st.text(st.characters(exclude_categories=("Cs",)), max_size=12),
)
def test_the_action_span_holds_the_whole_action_and_nothing_that_ends_before(tokenizer, before, after):
    ids = np.array(tokenizer(before + after, add_special_tokens=False)["input_ids"], dtype=np.int64)

    def decode(some):
        return tokenizer.decode(some.tolist(), clean_up_tokenization_spaces=False)

    first = first_token_beyond(ids, len(before), decode)
    assert len(decode(ids[:first])) <= len(before)
    assert first == len(ids) or len(decode(ids[: first + 1])) > len(before)
    every = [k for k in range(len(ids)) if len(decode(ids[: k + 1])) > len(before)]  # by trying every token
    assert first == (every[0] if every else len(ids))


def test_torch_indexing_of_an_empty_step_list():
    batch = collate([TrainingSample(np.arange(3), (), ())], 0)
    assert batch.token_ids.shape == (0,)
    assert batch.token_ids.dtype == torch.long
