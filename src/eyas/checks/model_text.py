"""Of a model: its tokens, its chat template, its picture placeholders, and what it must never sample."""

from itertools import pairwise

import numpy as np
import torch

from eyas.checks.model_probe import NO_PICTURES, TEXTS, Failed, Probe, num_shared
from eyas.types import Message, SampleRequest, TextPart

HOT = 20.0  # a temperature at which every id is about as probable


def check_tokens(probe: Probe) -> str:
    """Ours against the processor's own: the same ids, a BOS that stands once, pictures in their places."""
    for messages in probe.prompts:
        ours = probe.model.encode(messages, probe.images).ids
        theirs = probe.bare_inputs(messages)["input_ids"][0].cpu().numpy()
        if not np.array_equal(ours, theirs):
            place = num_shared(ours, theirs)
            raise Failed(
                f"a prompt has {len(ours)} tokens and {len(theirs)} by the processor's own call; from the {place + 1}th on "
                f"{probe.model.decode(ours[place : place + 8])!r} stands in place of {probe.model.decode(theirs[place : place + 8])!r}"
            )
    bos = probe.model.tokenizer.bos_token_id
    begins = [probe.model.encode(m, probe.images).ids for m in probe.prompts]
    if any(((ids[:-1] == bos) & (ids[1:] == bos)).any() for ids in begins):  # alone it may begin every turn (SmolLM2)
        raise Failed("BOS stands twice: take it out of the chat template")
    says = "none" if not any((ids == bos).any() for ids in begins) else "once at a time"
    return f"{len(probe.prompts)} prompts as by the processor's own call; BOS: {says}"


def check_pictures(probe: Probe) -> str:
    """As many placeholders as features, in prompts of one, two and three pictures of different shapes."""
    if not probe.has_pictures:
        return NO_PICTURES
    found = []
    for count in (1, 2, 3):
        prompt = probe.model.encode(probe.prompt(TEXTS[0], count), probe.images)
        with torch.no_grad():
            features = probe.model.features([prompt.image_hashes], probe.images)
        places = int((prompt.ids == probe.model.image_token_id).sum())
        tokens = [len(f.tokens) for f in features]
        if places != sum(tokens):
            raise Failed(
                f"a prompt of {count} pictures has {places} placeholders and {sum(tokens)} features ({tokens}): the sizes in "
                "the processor's configuration are not those of the model"
            )
        found.append(" + ".join(map(str, tokens)))
    return f"features = placeholders for 1, 2 and 3 pictures: {'; '.join(found)}"


def check_never_sampled(probe: Probe) -> str:
    """Special ids that end no turn, and placeholders, are outside what is sampled, at any temperature."""
    model = probe.model
    forbidden = set(model.forbidden_ids.tolist())
    rows = model.model.get_output_embeddings().weight.shape[0]
    special = {i for i in range(rows) if model.tokenizer.decode([i], skip_special_tokens=True) == ""} & set(
        model.tokenizer.get_added_vocab().values()
    )
    named = {getattr(model.processor, f"{kind}_token_id", None) for kind in ("image", "video")} | {model.image_token_id}
    must = (special | {i for i in named if i is not None and i < rows}) - model.end_ids
    if missing := sorted(must - forbidden):
        words = [model.tokenizer.convert_ids_to_tokens(i) for i in missing[:5]]
        raise Failed(f"{len(missing)} ids could be sampled that no text holds, such as {words}")
    requests = [SampleRequest(probe.prompts[-1], seed, 32, HOT) for seed in range(8)]
    drawn = np.concatenate([c.token_ids for c in probe.policy.sample(requests) if c.token_ids is not None])
    if wrong := must & set(drawn.tolist()):
        words = [model.tokenizer.convert_ids_to_tokens(i) for i in sorted(wrong)[:5]]
        raise Failed(f"{words} were sampled at temperature {HOT:g}")
    return f"{len(forbidden)} ids, and none in {len(drawn)} tokens at temperature {HOT:g}"


def check_template(probe: Probe) -> str:
    """What the template does with turns; neither answer is a failure."""
    model = probe.model
    end = model.tokenizer.convert_ids_to_tokens(model.turn_end)
    system = (Message("system", (TextPart("Obey the rules."),)), *probe.prompt("Go.", int(probe.has_pictures)))
    says = "is kept" if model.takes_system else "is said by the user: the template has no such turn"
    if "Obey the rules." not in model.decode(model.encode(system, probe.images).ids):
        raise Failed("what the system says is not in the prompt")
    turns = "earlier turns stay as they were"
    if not model.family.splices_turns:
        turns = "prompts are made anew at each step: what stands first depends on what follows"
    elif not model.is_prefix_stable:
        turns = "it rewrites earlier turns, so each step of a conversation is a sample of its own"
    return f"{turns}; the system {says}; a turn ends with {end!r}"


def check_token_identity(probe: Probe) -> str:
    """Over three turns: what was sampled stands in later prompts by its ids, and in the samples."""
    model, played = probe.model, probe.conversation
    prompts = [model.encode(s.messages, probe.images) for s in played.steps]
    written = [np.asarray(s.completion.token_ids) for s in played.steps]
    samples = probe.samples_of([played])
    spans = [sample.ids[s.start : s.end] for sample in samples for s in sample.steps]
    if not all(np.array_equal(a, b) for a, b in zip(spans, written, strict=True)):
        raise Failed("a training sample holds other ids than were sampled")
    detail = f"{len(samples)} samples for {len(played.steps)} turns, each with the ids that were sampled"
    if not model.is_prefix_stable:
        if not (model.family.is_causal or len(samples) == len(played.steps)):
            raise Failed(detail)
        return detail
    for turn, (before, after) in enumerate(pairwise(prompts)):
        seen = np.concatenate([before.ids, written[turn]])
        if not np.array_equal(after.ids[: len(seen)], seen):
            raise Failed(f"the prompt of turn {turn + 2} does not begin with all of turn {turn + 1}")
    texts = [model.encode_text(s.completion.text)[:-1].tolist() for s in played.steps]
    again = sum(text != ids.tolist() for text, ids in zip(texts, written, strict=True))
    detail += f"; tokenised again {again} would have others"
    if len(samples) != 1:
        raise Failed(detail)
    return detail
