"""Of a model: what training needs, saving, adapters, the critic, memory; and which optimisations it gets."""

from copy import deepcopy
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from eyas.build import build_policy
from eyas.checks.model_probe import GRADIENT_SHARE, NO_PICTURES, TEXTS, Failed, Gap, Probe, agreed
from eyas.config import ModelConfig
from eyas.models.adapter import VisionLanguageModel
from eyas.models.parameters import choose_parameters
from eyas.models.policy import Policy
from eyas.models.reading import batch_of, read
from eyas.rollouts.images import MemoryImageStore
from eyas.types import SampleRequest

GIB = 2**30


def check_optimisations(probe: Probe) -> str:
    family = probe.model.family
    has, lacks = ([name for name, is_on in family.supports.items() if is_on is wanted] for wanted in (True, False))
    return f"family {family.name}: {', '.join(has)}" + (f"; not {', '.join(lacks)}" if lacks else "")


def check_several_pictures(probe: Probe) -> str:
    """Pictures are told apart by their places: two that are swapped give other log-probs."""
    if not probe.has_pictures:
        return NO_PICTURES
    first, second, third = probe.pictures
    square = probe.images.put(255 - probe.images.get(first))  # of the same shape
    logprobs = []
    for order in ((first, square), (square, first)):
        probe.pictures = [*order, third]
        logprobs.append(probe.prompt_logprobs(probe.prompt(TEXTS[0], 2))[-1])
    probe.pictures = [first, second, third]
    gap = Gap.of(logprobs[0], logprobs[1], probe.dtype)
    if gap.largest == 0:
        raise Failed("two pictures that are swapped change nothing")
    turns = len(probe.conversation.steps)
    return f"in one message and in {turns} turns; swapped, they move log-probs by up to {gap.largest:.1e} nats"


def check_saving(probe: Probe) -> str:
    """Save, load by name, and read the same."""
    config = ModelConfig(dtype="bfloat16" if probe.dtype == torch.bfloat16 else "float32")
    config = config.model_copy(update={"trust_remote_code": probe.policy.config.trust_remote_code})
    with TemporaryDirectory() as folder:
        probe.model.save(Path(folder))
        loaded = build_policy(config.model_copy(update={"name": folder}), MemoryImageStore())
        other = Probe(loaded)
    gaps = [Gap.of_all(other.prompt_logprobs(m), probe.prompt_logprobs(m), probe.dtype) for m in probe.prompts]
    advice = "Weights are lost or changed on the way: is a tied weight saved as one, and are all its names known?"
    return agreed("loaded = saved", advice, *gaps)


def check_adapters(probe: Probe) -> str:
    """Adapters begin as nothing, are the only ones that learn, change the output once trained, and can be left out."""
    model = VisionLanguageModel(deepcopy(probe.model.model), probe.model.processor)
    choose_parameters(model.model, ModelConfig(train="lora"))
    policy = Policy(model.to(probe.model.device), probe.policy.sampler, probe.images)
    other = Probe(policy)
    samples, plain = probe.samples, probe.logprobs(probe.samples)
    begins = Gap.of(other.logprobs(samples), plain, probe.dtype)
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    if not trained or any("lora_" not in n for n in trained):
        raise Failed("with LoRA other weights than the adapters learn")
    if not float(other.gradient([samples]).norm()) > 0:
        raise Failed("no gradient reaches the adapters")
    with torch.no_grad():
        for parameter in trained.values():
            parameter.normal_(std=0.05)
    on = Gap.of(other.logprobs(samples), plain, probe.dtype)
    model.model.disable_adapters()  # type: ignore[operator]
    off = Gap.of(other.logprobs(samples), plain, probe.dtype)
    if on.largest == 0:
        raise Failed("trained adapters change nothing")
    what = f"{len(trained) // 2} adapters with gradients; new or left out = without them"
    return agreed(what, "Adapters do not begin at zero, or cannot be left out", begins, off)


def check_value_head(probe: Probe) -> str:
    """The critic's gradient reaches its head and the model; what it says in an update is what it says of a prompt."""
    policy = probe.policy
    modules = policy.value_head, probe.model
    before = {n: p.detach().clone() for n, p in policy.value_head.named_parameters()}
    with torch.no_grad():
        for parameter in policy.value_head.parameters():  # they begin at zero, where no gradient passes
            parameter.normal_(std=0.1)
    policy.sampler.forget()
    policy.sample([SampleRequest(m, 0, 1) for m in probe.prompts])  # which may read the values too
    try:
        batch = batch_of(probe.model, probe.images, probe.samples)
        values = policy.batch_values(batch, read(probe.model, probe.images, batch))
        values.square().sum().backward()
        prompts = [probe.model.encode(m, probe.images) for m in probe.prompts]
        alone = np.concatenate(policy.values(prompts, [[len(p.ids) - 1] for p in prompts]))
        norms = [_gradient_norm(module) for module in modules]
    finally:
        policy.value_head.load_state_dict(before)
        policy.sampler.forget()
        for module in modules:
            module.zero_grad(set_to_none=True)
    difference = float(np.abs(values.detach().cpu().numpy() - alone).max() / np.abs(alone).max())
    detail = (
        f"gradient norms of head and model {norms[0]:.1e} and {norms[1]:.1e}; {len(alone)} values in an update differ "
        f"from those of the prompts by {difference:.1e} of the largest"
    )
    if not (all(norm > 0 for norm in norms) and difference <= GRADIENT_SHARE[probe.dtype]):
        raise Failed(detail)
    return detail


def _gradient_norm(module: torch.nn.Module) -> float:
    norms = [p.grad.norm() for p in module.parameters() if p.grad is not None]
    return float(torch.stack(norms).norm()) if norms else 0.0


def check_memory(probe: Probe) -> str:
    """What weights, training and a conversation take; activations are not counted."""
    model = probe.model
    parameters = sum(p.numel() for p in model.parameters())
    weights = sum(p.nbytes for p in model.parameters())
    training = sum(p.nbytes + p.numel() * 8 for p in model.parameters() if p.requires_grad)
    _, cache = probe.read_prompt(probe.prompts[-1], use_cache=True)
    per_token = sum(layer.keys[0, :, :1].nbytes + layer.values[0, :, :1].nbytes for layer in cache.layers)
    return (
        f"{parameters / 1e6:.2f} M parameters: {weights / GIB:.2f} GiB to sample, {(weights + training) / GIB:.2f} GiB to "
        f"train them all with AdamW; {per_token / 1024:.1f} KiB a token of a conversation, {model.context} tokens at most"
    )
