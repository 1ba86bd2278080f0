"""Of a model: every way to read the same gives the same log-probs, and the same gradient where there is one."""

from typing import Any

import numpy as np
import torch
from transformers import GenerationConfig

from eyas.batch import SampleStep, TrainingSample
from eyas.checks.model_probe import GRADIENT_SHARE, TEXTS, TURN_TOKENS, Gap, Probe, separate
from eyas.checks.report import Level, Report
from eyas.models.logprobs import token_logprobs
from eyas.models.reading import batch_of
from eyas.types import ActionChoice, Message, SampleRequest

GREEDY_TOKENS = 8


def add_gap(report: Report, name: str, gap: Gap, what: str, advice: str) -> None:
    if gap.is_small:
        report.add(name, f"{what}: {gap}")
    else:
        report.add(name, f"{what}: {gap}. {advice}", Level.ERROR)


def add_pair(report: Report, name: str, gap: Gap, share: float, what: str, advice: str) -> None:
    """Log-probs and gradients together."""
    limit = GRADIENT_SHARE[gap.dtype]
    detail = f"{what}: {gap}; gradient differs by {share:.1e} of its norm (limit {limit:g})"
    if gap.is_small and share <= limit:
        report.add(name, detail)
    else:
        report.add(name, f"{detail}. {advice}", Level.ERROR)


def check_repeatable(report: Report, probe: Probe) -> None:
    """In training mode too: nothing is drawn in a forward pass."""
    probe.model.train()
    first, second = (probe.prompt_logprobs(probe.prompts[-1]) for _ in range(2))
    gap = Gap.of(first, second, probe.dtype)
    add_gap(
        report, "repeatable", gap, "two passes over a prompt", "Something is drawn, such as dropout that never ends"
    )


def check_bare_forward(report: Report, probe: Probe) -> None:
    """Ours against `model(**processor(...))`, at every token of every prompt, and the positions that both came to."""
    gaps, wrong = [], ""
    for messages in probe.prompts:
        with _Positions(probe.model.model) as theirs, torch.no_grad():
            bare = probe.of_logits(probe.model.model(**probe.bare_inputs(messages)).logits[0])
        with _Positions(probe.model.model) as own:
            ours = probe.prompt_logprobs(messages)
        gaps.append(Gap.of_all(ours, bare, probe.dtype))
        if not own.same_as(theirs):
            wrong = wrong or f"other positions than the model's own for a prompt of {len(ours)} tokens"
    worst = max(gaps, key=lambda g: g.largest)
    advice = "The adapter reads these prompts in another way than the model: it needs a declaration of its own"
    add_gap(report, "bare forward", worst, "against the bare model's own forward pass", advice)
    seen = "as the model counts them itself" if own.found else "does not apply: no rotary embedding was found"
    report.add("positions", wrong or seen, Level.ERROR if wrong else Level.INFO)


class _Positions:
    """Records the position ids that the decoder's rotary embeddings are given."""

    def __init__(self, model: Any):
        decoder = model.get_decoder()
        self.modules = [m for m in decoder.modules() if "RotaryEmbedding" in type(m).__name__]
        self.found: list[torch.Tensor] = []

    def __enter__(self) -> "_Positions":
        self.handles = [m.register_forward_pre_hook(self._record, with_kwargs=True) for m in self.modules]
        return self

    def __exit__(self, *error: Any) -> None:
        for handle in self.handles:
            handle.remove()

    def _record(self, module: Any, args: Any, kwargs: Any) -> None:
        ids = kwargs.get("position_ids", args[1] if len(args) > 1 else None)
        if isinstance(ids, torch.Tensor):
            self.found.append(ids)

    def same_as(self, other: "_Positions") -> bool:
        return len(self.found) == len(other.found) and all(
            a.shape[-1] == b.shape[-1] and bool((a == b).all()) for a, b in zip(self.found, other.found, strict=True)
        )


def check_generate(report: Report, probe: Probe) -> None:
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
    add_gap(report, "generate", gap, f"{len(ours) // 2} greedy tokens against the library's own", advice)


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


def check_masks(report: Report, probe: Probe) -> None:
    """Only sampled tokens are learned from, and none of them sees what comes after it."""
    batch = batch_of(probe.model, probe.images, probe.samples)
    spans = [(row, s) for row, sample in enumerate(probe.samples) for s in sample.steps]
    columns = [(row, c - 1) for row, s in spans for c in range(s.start, s.end)]
    ids = [int(i) for row, s in spans for i in probe.samples[row].ids[s.start : s.end]]
    found = list(zip(batch.token_rows.tolist(), batch.token_columns.tolist(), strict=True))
    if found != columns or batch.token_ids.tolist() != ids:
        report.add("masks", "other tokens are learned from than those that were sampled", Level.ERROR)
        return
    sample = max(probe.samples, key=lambda s: s.steps[0].num_elements)
    changed = sample.ids.copy()
    changed[-1] = next(i for i in range(len(changed) + 9) if i != changed[-1] and i not in probe.model.forbidden_ids)
    before = probe.logprobs([sample])[:-1]
    after = batch_of(probe.model, probe.images, [sample])
    after.input_ids[0, -1] = int(changed[-1])
    with torch.no_grad():
        gap = Gap.of(probe.learner.forward(after).logprobs[:-1], before, probe.dtype)
    advice = "Tokens of a completion see those that follow: is its attention causal?"
    add_gap(report, "masks", gap, f"{len(ids)} sampled tokens and no others; with another last token", advice)


UNMASKED = "Padding is seen: the model does not use its attention mask, or its positions count padding"


def check_left_padding(report: Report, probe: Probe) -> None:
    gaps = [
        Gap.of_all(probe.prompt_logprobs(m, columns_left=5), probe.prompt_logprobs(m), probe.dtype)
        for m in probe.prompts
    ]
    add_gap(report, "padding left", max(gaps, key=lambda g: g.largest), "padded = alone", UNMASKED)


def check_right_padding(report: Report, probe: Probe) -> None:
    samples = probe.samples
    gap = Gap.of(probe.logprobs(samples), probe.alone(samples), probe.dtype)
    share = probe.distance(probe.gradient([[s] for s in samples]), probe.gradient([samples]))
    add_pair(report, "padding right", gap, share, "padded with longer ones = alone", UNMASKED)


def check_shared_prompts(report: Report, probe: Probe) -> None:
    if not probe.model.family.reuses_prefixes:
        report.add("shared prompts", "does not apply: prompts of this family are read with every sample")
        return
    count = int(probe.has_pictures)
    samples = probe.samples_of(probe.sampled([probe.prompt(text, count) for text in TEXTS[1:] for _ in range(4)]))
    if batch_of(probe.model, probe.images, samples, shares_prompts=True).shared is None:
        report.add("shared prompts", "prompts of a group were not shared", Level.ERROR)
        return
    gap = Gap.of(probe.logprobs(samples, shares_prompts=True), probe.alone(samples), probe.dtype)
    share = probe.distance(probe.gradient([[s] for s in samples]), probe.gradient([samples], shares_prompts=True))
    advice = "Keys and values of a prompt do not serve what follows it: declare the family without slots"
    add_pair(report, "shared prompts", gap, share, "read once for a group of four = read with each", advice)


def check_merged_steps(report: Report, probe: Probe) -> None:
    samples = probe.samples_of([probe.conversation])
    own = separate(samples)
    if len(samples) == len(own):
        report.add("merged steps", f"does not apply: {len(own)} turns are {len(own)} samples, each with its own prompt")
        return
    gap = Gap.of(probe.alone(samples), probe.alone(own), probe.dtype)
    share = probe.distance(probe.gradient([[s] for s in own]), probe.gradient([samples]))
    advice = "Steps of a conversation must not be merged: declare the family as not causal"
    add_pair(report, "merged steps", gap, share, f"{len(own)} turns in {len(samples)} sample = separate", advice)


def check_sampler(report: Report, probe: Probe) -> None:
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
    worst = max(gaps, key=lambda g: g.largest)
    add_gap(report, "sampler = learner", worst, f"{count} tokens at temperatures 1 and 0.7", advice)


def check_scoring(report: Report, probe: Probe) -> None:
    """Actions that are scored together behind one prompt, against each one read by itself."""
    if not probe.model.family.has_slots:
        report.add("action scoring", "does not apply: models of this family make their own attention masks")
        return
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
    add_gap(report, "action scoring", gap, "three actions behind one prompt = each by itself", advice)


def check_prefix_cache(report: Report, probe: Probe) -> None:
    """The turns of a conversation, each read from its beginning, against those that went on from what was read before."""
    if not probe.model.family.reuses_prefixes:
        report.add("prefix cache", "does not apply: this family reads whole prompts")
        return
    kept, new = [], []
    for turn, step in enumerate(probe.conversation.steps):
        probe.policy.sampler.forget()
        (again,) = probe.policy.sample([SampleRequest(step.messages, turn, TURN_TOKENS)])
        pair = step.completion, again
        ids = [np.asarray(c.token_ids) for c in pair]
        count = min(map(len, ids))
        differs = np.flatnonzero(ids[0][:count] != ids[1][:count])
        count = int(differs[0]) if len(differs) else count  # what follows another token cannot be compared
        for found, completion in zip((kept, new), pair, strict=True):
            found.append(np.asarray(completion.sampling_logprobs)[:count])
    gap = Gap.of(np.concatenate(kept), np.concatenate(new), probe.dtype)
    advice = "Keys and values of a prefix do not serve what follows it: declare the family without slots"
    add_gap(report, "prefix cache", gap, f"{len(kept)} turns on what was read before = read anew", advice)


@torch.no_grad()
def check_feature_cache(report: Report, probe: Probe) -> None:
    """Kept features = new ones, and they are dropped with the weights that made them."""
    if not probe.has_pictures:
        report.add("feature cache", "does not apply: the model takes no pictures")
        return
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
        report.add("feature cache", "features of old weights are used after an update", Level.ERROR)
        return
    add_gap(
        report, "feature cache", gap, "kept = encoded again, alone", "Features depend on other pictures in the batch"
    )
