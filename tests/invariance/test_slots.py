"""Slots, kept prefixes and shared readings change nothing: every sampled token has the log-prob that one plain pass gives it."""

import numpy as np
import pytest
import torch

from eyas.models.adapter import EncodedPrompt
from eyas.models.logprobs import token_logprobs
from eyas.samplers.fused import FusedRows, FusedWeights, computes_the_same
from eyas.samplers.in_process import InProcessSampler
from eyas.samplers.prefixes import PrefixStore, shared_texts
from eyas.samplers.rows import SlotRows
from eyas.samplers.slots import NOTHING, KeyValues
from eyas.types import Message, SampleRequest, TextPart
from helpers import nano_policy, picture, prompt

NATS = 1e-4
RULES = (
    "Reach the goal. Do not fall into a hole. Say which way you go: left, right, up or down. Think first, and be brief."
)


@pytest.fixture(scope="module", params=["fused", "plain"])
def policy(request):
    policy = nano_policy()
    policy.is_fused = request.param == "fused"
    return policy


def fresh(policy, max_batch=64, **options):
    sampler = InProcessSampler(policy.model, policy.images, max_batch, **{"is_fused": policy.is_fused} | options)
    policy.model.vision.forget()
    assert (sampler._fused_weights() is not None) == sampler.is_fused
    return sampler


def plain(policy, messages, completion, temperature=1.0):
    """Log-probs of a completion's tokens by one pass of the Hugging Face model over prompt and completion alone."""
    encoded = policy.model.encode(messages, policy.images)
    ids = torch.from_numpy(np.concatenate([encoded.ids, completion.token_ids.astype(np.int64)]))[None]
    pixels = policy.model.vision.pixels(encoded.image_hashes, policy.images) if encoded.image_hashes else {}
    if pixels:  # Idefics3 wants the pictures of a sample together
        pixels = {k: v.flatten(0, 1)[None] for k, v in pixels.items()}
    with torch.inference_mode():
        logits = policy.model.model(input_ids=ids, **pixels).logits[0]
    logprobs = token_logprobs(logits, temperature, policy.model.forbidden_ids)
    start = len(encoded.ids)
    return logprobs[range(start - 1, ids.shape[1] - 1), ids[0, start:]].numpy()


def gaps(policy, requests, completions):
    return [
        float(np.abs(plain(policy, r.messages, c, r.temperature) - c.sampling_logprobs).max())
        for r, c in zip(requests, completions, strict=True)
    ]


def mixed(policy, num=24, is_continued=False):
    """Prompts with none, one or two pictures, of different lengths, for completions of 1 to 40 tokens."""
    rng = np.random.default_rng(0)
    requests = []
    for i in range(num):
        hashes = [policy.images.put(picture(int(rng.integers(5)))) for _ in range(i % 3)]
        words = " ".join(["Look around."] * int(rng.integers(1, 9)))
        length = int(rng.integers(1, 41))
        requests.append(
            SampleRequest(prompt(words, *hashes), i, length, 1.0 if i % 4 else 0.7, is_continued=is_continued)
        )
    return requests


@pytest.mark.parametrize("max_batch", [1, 3, 8, 64])
def test_cached_every_token_has_the_logprob_of_one_plain_pass(policy, max_batch):
    requests = mixed(policy)
    completions = fresh(policy, max_batch).sample(requests)
    assert max(gaps(policy, requests, completions)) < NATS
    assert len({len(c.token_ids) for c in completions}) > 10


def test_the_number_of_slots_and_their_refilling_change_no_token(policy):
    requests = mixed(policy)
    texts = [
        [c.token_ids.tolist() for c in fresh(policy, size, is_refilled=refilled, drops_finished=drops).sample(requests)]
        for size, refilled, drops in [
            (64, True, True),
            (5, True, True),
            (5, False, True),
            (5, False, False),
            (1, True, True),
        ]
    ]
    assert all(t == texts[0] for t in texts)


def test_slots_are_refilled_in_bfloat16_where_keys_and_values_are_of_two_types(policy):
    """Turning by angles makes keys float32 again."""
    requests = mixed(policy, 8, is_continued=True)
    with torch.autocast("cpu", torch.bfloat16):
        completions = fresh(policy, 3).sample(requests)
    assert 0 < max(gaps(policy, requests, completions)) < 0.2


def test_a_slot_that_shows_what_it_held_before_would_be_seen(policy, monkeypatch):
    """The wrong variant: the mask forgets that slots hold less than the longest of them."""
    sampler, requests = fresh(policy, 3), mixed(policy)
    monkeypatch.setattr("eyas.samplers.slots.additive_mask", lambda sees, dtype: torch.zeros(sees.shape))
    monkeypatch.setattr("eyas.samplers.fused.additive_mask", lambda sees, dtype: torch.zeros(sees.shape))
    assert max(gaps(policy, requests, sampler.sample(requests))) > 10 * NATS


# ----------------------------------------------------------------------------------------------- conversations


def conversation(policy, sampler, num_steps, num=3, keeps=True):
    """Plays a chat with a new picture at each step: all requests and completions, and the tokens read at each step."""
    before = [prompt(RULES, policy.images.put(picture(i))) for i in range(num)]
    played = []
    for step in range(num_steps):
        requests = [SampleRequest(m, 100 * step + i, 3 + i, 1.0, is_continued=keeps) for i, m in enumerate(before)]
        completions = sampler.sample(requests)
        played += zip(requests, completions, strict=True)
        before = [
            (
                *m,
                Message("assistant", (TextPart(c.text),), c),
                *prompt(f"Step {step}.", policy.images.put(picture(50 * step + i))),
            )
            for i, (m, c) in enumerate(zip(before, completions, strict=True))
        ]
    return played


def test_cached_a_conversation_reads_only_what_is_new(policy, monkeypatch):
    read, sampler = [], fresh(policy)
    plain_hidden = type(policy.model).hidden

    def hidden(self, input_ids, *args, **kwargs):
        read.append(input_ids.shape[1])
        return plain_hidden(self, input_ids, *args, **kwargs)

    monkeypatch.setattr(type(policy.model), "hidden", hidden)
    played = conversation(policy, sampler, 5)
    requests, completions = zip(*played, strict=True)
    assert max(gaps(policy, requests, completions)) < NATS
    whole = len(policy.model.encode(requests[-1].messages, policy.images).ids)
    per_step = [n for n in read if n > 1]
    assert max(per_step[1:]) < whole / 3  # after the first prompt: the last token written, and the new message
    monkeypatch.undo()
    again = conversation(policy, fresh(policy, keeps_prefixes=False), 5)
    assert [c.token_ids.tolist() for _, c in again] == [c.token_ids.tolist() for c in completions]


def test_imagememory_what_is_kept_of_a_conversation_grows_with_its_length_only(policy):
    sampler = fresh(policy)
    conversation(policy, sampler, 8)
    assert len(sampler.prefixes._entries) == 3  # one a conversation, not one a step
    assert sampler.prefixes._nbytes == sum(read.nbytes for read in sampler.prefixes._entries.values())


def test_stalecache_prefixes_do_not_outlive_the_weights():
    policy = nano_policy(seed=1)
    policy.sampler._fused_weights()
    first = policy.sample([SampleRequest(prompt(RULES), 0, 6, is_continued=True)])[0]
    answered = (*prompt(RULES), Message("assistant", (TextPart(first.text),), first), *prompt("And now?"))
    with torch.no_grad():
        for parameter in policy.model.model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    request = SampleRequest(answered, 1, 6)
    stale = policy.sampler.sample([request])  # the wrong variant: the version did not change
    assert gaps(policy, [request], stale)[0] > 10 * NATS
    policy.version += 1
    assert gaps(policy, [request], policy.sample([request]))[0] < NATS


def test_prefix_two_pictures_with_equal_placeholders_are_not_mistaken(policy):
    sampler = fresh(policy)
    hashes = [policy.images.put(picture(i)) for i in (1, 2)]
    requests = [SampleRequest(prompt(RULES, h), 0, 5, is_continued=True) for h in hashes]
    completions = [sampler.sample([r])[0] for r in requests]
    assert max(gaps(policy, requests, completions)) < NATS
    assert sampler.prefixes.find(policy.model.encode(requests[0].messages, policy.images)) == (NOTHING, 0)


# ----------------------------------------------------------------------------------------------- groups and shared texts


def passes(policy, monkeypatch):
    """The rows of each pass over prompts."""
    rows = []
    plain_hidden = type(policy.model).hidden

    def hidden(self, input_ids, *args, **kwargs):
        if input_ids.shape[1] > 1:
            rows.append(tuple(input_ids.shape))
        return plain_hidden(self, input_ids, *args, **kwargs)

    monkeypatch.setattr(type(policy.model), "hidden", hidden)
    return rows


def test_a_group_reads_its_prompt_and_its_picture_once_even_over_several_fillings(policy, monkeypatch):
    sampler = fresh(policy, 4)
    rows = passes(policy, monkeypatch)
    messages = prompt(RULES, policy.images.put(picture(7)))
    requests = [SampleRequest(messages, i, 3 + i % 5) for i in range(20)]
    completions = sampler.sample(requests)
    assert max(gaps(policy, requests, completions)) < NATS
    assert [r for r in rows if r[1] > 2] == [(1, len(policy.model.encode(messages, policy.images).ids))]
    assert len({tuple(c.token_ids) for c in completions}) > 10


def test_prompts_whose_turn_comes_later_are_read_along(policy, monkeypatch):
    sampler = fresh(policy, 4, keeps_prefixes=False)
    rows = passes(policy, monkeypatch)
    requests = [SampleRequest(prompt(f"Tile {i}."), i, 2 + i % 7) for i in range(40)]
    completions = sampler.sample(requests)
    assert max(gaps(policy, requests, completions)) < NATS
    assert [r for r, width in rows if width > 2] == [40]  # the wrong variant: a pass each time that slots are free


def test_batches_that_are_not_refilled_read_each_prompt_once(policy, monkeypatch):
    sampler = fresh(policy, 4, keeps_prefixes=False, is_refilled=False)
    rows = passes(policy, monkeypatch)
    sampler.sample([SampleRequest(prompt(f"Tile {i}."), i, 2 + i % 7) for i in range(12)])
    assert [r for r, width in rows if width > 2] == [4, 4, 4]  # the wrong variant: 12, 8, 4


def test_words_that_all_prompts_begin_with_are_read_once(policy, monkeypatch):
    sampler = fresh(policy)
    rows = passes(policy, monkeypatch)
    long = RULES * 6
    messages = [prompt(f"{long} You stand on tile {i}.") for i in range(12)]
    requests = [SampleRequest(m, i, 4) for i, m in enumerate(messages)]
    completions = sampler.sample(requests)
    assert max(gaps(policy, requests, completions)) < NATS
    length = len(policy.model.encode(messages[0], policy.images).ids)
    (one, shared), (twelve, rest) = rows
    assert (one, twelve) == (1, 12) and shared > 0.7 * length and rest < 0.3 * length
    sampler.sample([SampleRequest(prompt(f"{long} You stand on tile 99."), 0, 4)])
    assert rows[-1][1] < 0.3 * length  # it is kept


def test_shared_texts_end_before_the_first_picture(policy):
    image = policy.model.image_token_id
    hashes = [policy.images.put(picture(i)) for i in range(40)]
    encoded = [
        policy.model.encode((Message("user", (TextPart(RULES), *prompt("Go.", h)[0].parts)),), policy.images)
        for h in hashes
    ]
    (text,) = shared_texts(encoded, image)
    assert image not in text and encoded[0].ids[len(text)] == image
    assert shared_texts(encoded[:1], image) == []


def test_the_store_forgets_what_was_used_longest_ago():
    def read(length):
        return KeyValues((((torch.zeros(1, length, 4), torch.zeros(1, length, 4)),),))

    store = PrefixStore(most_bytes=2 * read(10).nbytes)
    prompts = [EncodedPrompt(np.arange(start, start + 30), (), resumes_at=11) for start in (0, 100, 200)]
    for prompt_ in prompts:
        store.put(prompt_.ids[:10], (), read(10))
    assert [store.find(p)[0].length for p in prompts] == [0, 10, 10]
    store.put(np.arange(30), (), read(30))  # more than fits at all
    assert store.find(EncodedPrompt(np.arange(40), (), resumes_at=31))[0].length == 0


def test_prompts_that_go_on_with_the_same_conversation_all_find_it():
    store, key = PrefixStore(2**20), np.arange(10)
    store.put(key, (), KeyValues((((torch.zeros(1, 10, 4), torch.zeros(1, 10, 4)),),)))
    forks = [EncodedPrompt(np.append(key, [1, last]), (), resumes_at=11) for last in (2, 3)]
    assert [past.length for past, _ in store.hand_over(forks)] == [10, 10]
    assert store.find(forks[0]) == (NOTHING, 0) and store._nbytes == 0


def test_columns_that_nobody_uses_are_cut_off(policy, monkeypatch):
    sampler = fresh(policy, 4)
    widths = []
    rows = FusedRows if policy.is_fused else SlotRows
    plain_step = rows.step

    def step(self, ids):
        widths.append(self._mask.shape[-1] if policy.is_fused else self.cache.end - self.cache.begin)
        plain_step(self, ids)

    monkeypatch.setattr(rows, "step", step)
    sampler.sample([SampleRequest(prompt("Go."), i, 12) for i in range(60)])
    assert len(widths) > 150
    assert max(widths) < 2 * (len(policy.model.encode(prompt("Go."), policy.images).ids) + 12) + 32


@pytest.mark.parametrize(("counts", "num_rows"), [((2, 1, 1, 1, 1), (6, 6)), ((4, 1, 3), (3, 4)), ((6,), (1, 2))])
def test_equal_prompts_share_a_row_where_most_have_equals(policy, counts, num_rows, monkeypatch):
    """Else all slots would pay for taking the queries of a few together."""
    found, look = [], FusedRows._look

    def seen(self):
        look(self)
        owners = self.prompts.owners
        found.append(len(np.unique(owners[owners >= 0])))

    sampler = fresh(policy, sum(counts))
    monkeypatch.setattr(FusedRows, "_look", seen)
    texts = [f"Word {i}." for i, count in enumerate(counts) for _ in range(count)]
    texts += ["Word 99."] * 2  # take the rows of the first two together
    lengths = [1, 1] + [4] * (len(texts) - 2)
    requests = [SampleRequest(prompt(text), i, n) for i, (text, n) in enumerate(zip(texts, lengths, strict=True))]
    completions = sampler.sample(requests)
    assert max(gaps(policy, requests, completions)) < NATS
    assert (found[0], found[1]) == num_rows if policy.is_fused else not found


@pytest.mark.parametrize("max_batch", [20, 6])
def test_conversations_of_groups_begin_in_rows_of_their_own(policy, max_batch, monkeypatch):
    """One group is of one, and at each turn another conversation begins; with few slots all of them mix."""
    length = len(policy.model.encode(prompt(RULES), policy.images).ids)
    for limit in ("LEAST_SHARED", "LEAST_LENGTH"):
        monkeypatch.setattr(f"eyas.samplers.fused.{limit}", length)
    roots, put = [], FusedRows._put_root
    monkeypatch.setattr(FusedRows, "_put_root", lambda *args: roots.append(args) or put(*args))
    groups = [group for group, count in enumerate((7, 1, 4, 2)) for _ in range(count)]
    chats = [prompt(RULES, policy.images.put(picture(group))) for group in groups]
    sampler = fresh(policy, max_batch)
    for turn in range(18 if max_batch == 20 else 3):  # pieces are joined after 16
        requests = [SampleRequest(c, 50 * turn + i, 2 + (i + turn) % 4, is_continued=True) for i, c in enumerate(chats)]
        completions = sampler.sample(requests)
        if turn in (1, 2, 17):
            assert max(gaps(policy, requests, completions)) < NATS
        said = [Message("assistant", (TextPart(c.text),), c) for c in completions]
        chats = [[*c, m, Message("user", (TextPart("And now?"),))] for c, m in zip(chats, said, strict=True)]
        chats[-1] = prompt(f"Begin anew. {RULES} " * (turn % 2 + 1))
    assert (len(roots) > 3) == policy.is_fused


def chats_of_a_group_and_of_a_text(policy, sampler, turns):
    """Conversations of one group of eight, and of eight starts that begin with the same text; yields each turn."""
    group = [prompt(f"Play with care. {RULES * 6} The first word is red.")] * 8
    chats = group + [prompt(f"{RULES * 6} The word is number {i}.") for i in range(8)]
    for turn in range(turns):
        requests = [SampleRequest(c, 50 * turn + i, 4, is_continued=True) for i, c in enumerate(chats)]
        completions = sampler.sample(requests)
        yield requests, completions
        said = [Message("assistant", (TextPart(c.text),), c) for c in completions]
        chats = [[*c, m, Message("user", (TextPart("And now?"),))] for c, m in zip(chats, said, strict=True)]


@pytest.mark.parametrize("max_batch", [64, 16, 6])
def test_in_half_precision_all_that_is_held_is_rounded_once(max_batch, monkeypatch):
    policy = nano_policy()
    policy.is_fused = True
    dtypes, look = set(), FusedRows._look

    def seen(self):
        look(self)
        banks = [x for bank in (self.roots, self.prompts) for pair in bank.layers for x in pair]
        dtypes.update(x.dtype for x in (*banks, *(w for pair in self.written for w in pair)))

    sampler = fresh(policy, max_batch)
    monkeypatch.setattr(FusedRows, "_look", seen)
    with torch.autocast("cpu", torch.bfloat16):
        turns = list(chats_of_a_group_and_of_a_text(policy, sampler, 3))
    assert dtypes == {torch.bfloat16}
    assert max(gap for requests, completions in turns for gap in gaps(policy, requests, completions)) < 0.1


@pytest.mark.parametrize(("least_length", "has_roots"), [(64, True), (10**4, False)])
def test_a_short_beginning_has_no_row_of_its_own(policy, least_length, has_roots, monkeypatch):
    roots, put = [], FusedRows._put_root
    monkeypatch.setattr(FusedRows, "_put_root", lambda *args: roots.append(args) or put(*args))
    monkeypatch.setattr("eyas.samplers.fused.LEAST_LENGTH", least_length)
    for requests, completions in chats_of_a_group_and_of_a_text(policy, fresh(policy), 2):
        assert max(gaps(policy, requests, completions)) < NATS
    assert bool(roots) == (has_roots and policy.is_fused)


# ----------------------------------------------------------------------------------------------- the fused step


def test_the_fused_step_is_not_taken_where_it_computes_something_else(policy):
    weights = FusedWeights.of(policy.model)
    assert computes_the_same(policy.model, policy.images, weights)
    layer = weights.layers[1]
    for wrong in (lambda: layer.qkv[0].mul(0.9), lambda: layer.qkv[0].flip(0)):
        kept, layer.qkv = layer.qkv, (wrong(), layer.qkv[1])
        assert not computes_the_same(policy.model, policy.images, weights)
        layer.qkv = kept
    weights.scaling *= 2
    assert not computes_the_same(policy.model, policy.images, weights)


def test_a_decoder_of_another_build_is_not_fused():
    policy = nano_policy()
    decoder = policy.model.model.get_decoder()
    decoder.layers[1].self_attn.q_proj = torch.nn.Sequential(decoder.layers[1].self_attn.q_proj)  # as an adapter does
    assert FusedWeights.of(policy.model) is None


def test_a_decoder_that_turns_only_a_part_of_each_head_is_not_fused():
    model = nano_policy().model
    assert FusedWeights.of(model) is not None
    rotary = model.model.get_decoder().rotary_emb
    rotary.inv_freq = rotary.inv_freq[: len(rotary.inv_freq) // 2]
    assert FusedWeights.of(model) is None


def test_groups_of_different_sizes_and_alone_mixed(policy):
    hashes = [policy.images.put(picture(i)) for i in range(4)]
    requests = []
    for i, count in enumerate((1, 5, 2, 9)):
        messages = prompt("Look around. " * (i + 1), hashes[i])
        requests += [SampleRequest(messages, 100 * i + k, 2 + (7 * k + i) % 23) for k in range(count)]
    for max_batch in (17, 6):
        assert max(gaps(policy, requests, fresh(policy, max_batch).sample(requests))) < NATS
