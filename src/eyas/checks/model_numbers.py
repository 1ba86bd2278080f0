"""Of a model: every way to read the same gives the same log-probs, and the same gradient where there is one."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from transformers import GenerationConfig

from eyas.batch import SampleStep, TrainingSample
from eyas.checks.model_probe import NO_PICTURES, TEXTS, TURN_TOKENS, Failed, Gap, Probe, agreed, num_shared, separate
from eyas.models.logprobs import token_logprobs
from eyas.models.reading import batch_of
from eyas.types import ActionChoice, Message, SampleRequest

GREEDY_TOKENS = 8


def check_repeatable(probe: Probe) -> str:
    """In training mode too: nothing is drawn in a forward pass."""
    probe.model.train()
    first, second = (probe.prompt_logprobs(probe.prompts[-1]) for _ in range(2))
    gap = Gap.of(first, second, probe.dtype)
    return agreed("two passes over a prompt", "Something is drawn, such as dropout that never ends", gap)


def check_bare_forward(probe: Probe) -> str:
    """Ours against `model(**processor(...))`, at every token of every prompt."""
    gaps = []
    for messages in probe.prompts:
        bare = probe.of_logits(_bare_logits(probe, messages))
        gaps.append(Gap.of_all(probe.prompt_logprobs(messages), bare, probe.dtype))
    advice = "The adapter reads these prompts in another way than the model: it needs a declaration of its own"
    return agreed("against the bare model's own forward pass", advice, *gaps)


@torch.no_grad()
def _bare_logits(probe: Probe, messages: tuple[Message, ...]) -> torch.Tensor:
    return probe.model.model(**probe.bare_inputs(messages)).logits[0]


def check_positions(probe: Probe) -> str:
    """The positions that we give, and those that the bare model comes to."""
    num_found = 0
    for messages in probe.prompts:
        with _positions(probe.model.model) as theirs:
            _bare_logits(probe, messages)
        with _positions(probe.model.model) as own:
            num_tokens = len(probe.prompt_logprobs(messages))
        is_same = len(own) == len(theirs) and all(a.shape[-1] == b.shape[-1] for a, b in zip(own, theirs))
        if not (is_same and all(bool((a == b).all()) for a, b in zip(own, theirs))):
            raise Failed(f"other positions than the model's own for a prompt of {num_tokens} tokens")
        num_found += len(own)
    return "as the model counts them itself" if num_found else "does not apply: no rotary embedding was found"


@contextmanager
def _positions(model: Any) -> Iterator[list[torch.Tensor]]:
    """The position ids that the decoder's rotary embeddings are given inside."""
    found: list[torch.Tensor] = []

    def record(module: Any, args: Any, kwargs: Any) -> None:
        ids = kwargs.get("position_ids", args[1] if len(args) > 1 else None)
        if isinstance(ids, torch.Tensor):
            found.append(ids)

    rotary = [m for m in model.get_decoder().modules() if "RotaryEmbedding" in type(m).__name__]
    handles = [m.register_forward_pre_hook(record, with_kwargs=True) for m in rotary]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def check_generate(probe: Probe) -> str:
    """Greedy tokens and their log-probs, against the library's own `generate`."""
    model, ours, theirs = probe.model, [], []
    completions = probe.policy.sample([SampleRequest(m, 0, GREEDY_TOKENS, 0.0) for m in probe.prompts])
    for messages, completion in zip(probe.prompts, completions, strict=True):
        its_ids, its_logits = _generated(probe, messages)
        assert completion.token_ids is not None and completion.sampling_logprobs is not None
        written = zip(completion.token_ids.tolist(), completion.sampling_logprobs, its_ids, its_logits, strict=False)
        for own_id, own, its_id, logits in written:
            its = token_logprobs(logits[0], 1.0, model.forbidden_ids)
            ours += [float(own), float(its[own_id])]
            theirs += [float(its[own_id]), float(its[its_id])]  # another token may be as probable, no more
            if own_id != its_id:
                break  # what follows another token cannot be compared
    gap = Gap.of(np.array(ours), np.array(theirs), probe.dtype)
    advice = "The sampler's steps are not the model's: positions or masks of what is written differ"
    return agreed(f"{len(ours) // 2} greedy tokens against the library's own", advice, gap)


def _generated(probe: Probe, messages: tuple[Message, ...]) -> tuple[list[int], Any]:
    """The ids that the library writes, and the logits of each."""
    model, bare = probe.model, probe.bare_inputs(messages)
    settings = GenerationConfig(
        max_new_tokens=GREEDY_TOKENS,
        do_sample=False,
        output_logits=True,
        return_dict_in_generate=True,
        suppress_tokens=model.forbidden_ids.tolist(),
        pad_token_id=model.pad_id,
        eos_token_id=sorted(model.end_ids),
    )
    own = model.model.generation_config
    model.model.generation_config = settings  # what it comes with, such as a repetition penalty, would be filled in
    try:
        with torch.no_grad():
            out: Any = model.model.generate(**bare)
    finally:
        model.model.generation_config = own
    return out.sequences[0, bare["input_ids"].shape[1] :].tolist(), out.logits


def check_masks(probe: Probe) -> str:
    """Only sampled tokens are learned from, and none of them sees what comes after it."""
    batch = batch_of(probe.model, probe.images, probe.samples)
    spans = [(row, s) for row, sample in enumerate(probe.samples) for s in sample.steps]
    columns = [(row, c - 1) for row, s in spans for c in range(s.start, s.end)]
    ids = [int(i) for row, s in spans for i in probe.samples[row].ids[s.start : s.end]]
    found = list(zip(batch.token_rows.tolist(), batch.token_columns.tolist(), strict=True))
    if found != columns or batch.token_ids.tolist() != ids:
        raise Failed("other tokens are learned from than those that were sampled")
    sample = max(probe.samples, key=lambda s: s.steps[0].num_elements)
    changed = sample.ids.copy()
    changed[-1] = next(i for i in range(len(changed) + 9) if i != changed[-1] and i not in probe.model.forbidden_ids)
    before = probe.logprobs([sample])[:-1]
    after = batch_of(probe.model, probe.images, [sample])
    after.input_ids[0, -1] = int(changed[-1])
    with torch.no_grad():
        gap = Gap.of(probe.learner.forward(after).logprobs[:-1], before, probe.dtype)
    advice = "Tokens of a completion see those that follow: is its attention causal?"
    return agreed(f"{len(ids)} sampled tokens and no others; with another last token", advice, gap)


UNMASKED = "Padding is seen: the model does not use its attention mask, or its positions count padding"


def check_left_padding(probe: Probe) -> str:
    gaps = [
        Gap.of_all(probe.prompt_logprobs(m, columns_left=5), probe.prompt_logprobs(m), probe.dtype)
        for m in probe.prompts
    ]
    return agreed("padded = alone", UNMASKED, *gaps)


def check_right_padding(probe: Probe) -> str:
    return _together(probe, probe.samples, "padded with longer ones = alone", UNMASKED)


def _together(probe: Probe, samples: list[TrainingSample], what: str, advice: str, shares_prompts: bool = False) -> str:
    """Samples that are read in one pass, against each by itself: log-probs and gradient."""
    gap = Gap.of(probe.logprobs(samples, shares_prompts), probe.alone(samples), probe.dtype)
    share = probe.gradient_share([[s] for s in samples], [samples], shares_prompts)
    return agreed(what, advice, gap, gradient_share=share)


def check_shared_prompts(probe: Probe) -> str:
    if not probe.model.family.reuses_prefixes:
        return "does not apply: prompts of this family are read with every sample"
    count = int(probe.has_pictures)
    samples = probe.samples_of(probe.sampled([probe.prompt(text, count) for text in TEXTS[1:] for _ in range(4)]))
    if batch_of(probe.model, probe.images, samples, shares_prompts=True).shared is None:
        raise Failed("prompts of a group were not shared")
    advice = "Keys and values of a prompt do not serve what follows it: declare the family without slots"
    return _together(probe, samples, "read once for a group of four = read with each", advice, shares_prompts=True)


def check_merged_steps(probe: Probe) -> str:
    samples = probe.samples_of([probe.conversation])
    own = separate(samples)
    if len(samples) == len(own):
        return f"does not apply: {len(own)} turns are {len(own)} samples, each with its own prompt"
    gap = Gap.of(probe.alone(samples), probe.alone(own), probe.dtype)
    share = probe.gradient_share([[s] for s in own], [samples])
    advice = "Steps of a conversation must not be merged: declare the family as not causal"
    return agreed(f"{len(own)} turns in {len(samples)} sample = separate", advice, gap, gradient_share=share)


def check_sampler(probe: Probe) -> str:
    """The learner's log-prob of every sampled token, against the sampler's."""
    gaps, count = [], 0
    advice = "Sampler and learner read differently: see `bare forward`, `generate` and `padding` for which"
    for temperature in (1.0, 0.7):
        played = probe.sampled(probe.prompts * 2, temperature) + [probe.conversation] * (temperature == 1.0)
        samples = probe.samples_of(played)
        probe.learner.temperature = temperature
        sampled = np.concatenate([s.sampling_logprobs for s in samples if s.sampling_logprobs is not None])
        gaps.append(Gap.of(probe.logprobs(samples), sampled, probe.dtype))
        count += len(sampled)
    probe.learner.temperature = 1.0
    return agreed(f"{count} tokens at temperatures 1 and 0.7", advice, *gaps)


def check_scoring(probe: Probe) -> str:
    """Actions that are scored together behind one prompt, against each one read by itself."""
    if not probe.model.family.has_slots:
        return "does not apply: models of this family make their own attention masks"
    choice = ActionChoice(lambda head: ("left", "turn right", "stay where you are"))
    completions = probe.policy.sample([SampleRequest(m, 0, 1, choice=choice) for m in probe.prompts])
    ours, alone = [], []
    for messages, completion in zip(probe.prompts, completions, strict=True):
        assert completion.scores is not None
        prompt = probe.model.encode(messages, probe.images)
        sums = []
        for words in completion.scores.candidates:
            start, ids = len(prompt.ids), np.concatenate([prompt.ids, words.astype(np.int64)])
            sample = TrainingSample(ids, prompt.image_hashes, (SampleStep(start, start, len(ids)),))
            sums.append(float(probe.logprobs([sample]).sum()))
        alone.append(torch.log_softmax(torch.tensor(sums), 0))
        ours.append(torch.from_numpy(completion.scores.logprobs))
    advice = "Its attention does not take masks of another shape: declare the family without slots"
    gap = Gap.of(torch.cat(ours), torch.cat(alone), probe.dtype)
    return agreed("three actions behind one prompt = each by itself", advice, gap)


def check_prefix_cache(probe: Probe) -> str:
    """The turns of a conversation, each read from its beginning, against those that went on from what was read before."""
    if not probe.model.family.reuses_prefixes:
        return "does not apply: this family reads whole prompts"
    kept, new = [], []
    for turn, step in enumerate(probe.conversation.steps):
        probe.policy.sampler.forget()
        (again,) = probe.policy.sample([SampleRequest(step.messages, turn, TURN_TOKENS)])
        pair = step.completion, again
        ids = [np.asarray(c.token_ids) for c in pair]
        count = num_shared(*ids)  # what follows another token cannot be compared
        for found, completion in zip((kept, new), pair, strict=True):
            found.append(np.asarray(completion.sampling_logprobs)[:count])
    gap = Gap.of(np.concatenate(kept), np.concatenate(new), probe.dtype)
    advice = "Keys and values of a prefix do not serve what follows it: declare the family without slots"
    return agreed(f"{len(kept)} turns on what was read before = read anew", advice, gap)


@torch.no_grad()
def check_feature_cache(probe: Probe) -> str:
    """Kept features = new ones, and they are dropped with the weights that made them."""
    if not probe.has_pictures:
        return NO_PICTURES
    model, rows = probe.model, [tuple(probe.pictures[:2])]
    kept = [model.features(rows, probe.images, version) for version in ("check", "check")][1]
    new = [f for h in probe.pictures[:2] for f in model.features([(h,)], probe.images)]
    if model.family.tiles_lone_pictures:
        new = model.features(rows, probe.images)
    gap = Gap.of(torch.cat([f.tokens for f in kept]), torch.cat([f.tokens for f in new]), probe.dtype)
    weights = [p for n, p in model.model.named_parameters() if "vision" in n or "visual" in n]
    before = [w.clone() for w in weights]
    for w in weights:
        w.mul_(1.1)
    other = model.features(rows, probe.images, "check 2")
    for w, old in zip(weights, before, strict=True):
        w.copy_(old)
    model.vision.forget()
    is_stale = bool(weights) and torch.equal(torch.cat([f.tokens for f in other]), torch.cat([f.tokens for f in kept]))
    if is_stale:
        raise Failed("features of old weights are used after an update")
    return agreed("kept = encoded again, alone", "Features depend on other pictures in the batch", gap)
