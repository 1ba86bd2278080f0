"""What the checks of a model share: prompts, completions, both sides of a comparison, and how far apart they may be."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from eyas.algorithms.supervised import Supervised
from eyas.batch import Denominators, TrainingSample
from eyas.config import OptimConfig
from eyas.models.logprobs import token_logprobs
from eyas.models.policy import Policy
from eyas.models.reading import batch_of
from eyas.rollouts.samples import build_samples
from eyas.training.learner import Learner
from eyas.training.optim import Optimizer
from eyas.types import (
    Completion,
    ExecutedBy,
    ImagePart,
    Message,
    ParsedAction,
    RewardBreakdown,
    SampleRequest,
    Step,
    StopReason,
    TextPart,
    Trajectory,
)

UNLIKELY = -14.0  # nats: one token in a million
NATS = 1e-4  # float32: of every log-prob
BFLOAT16_LIMITS = (0.02, 0.1, 0.5, 1e-3)  # mean, 99th percentile and maximum of the differences in nats, and KL
GRADIENT_SHARE = {torch.float32: 1e-3, torch.bfloat16: 0.1}  # of the gradient's norm
SIZES = ((60, 60), (48, 80), (72, 40))  # of the pictures: rows, columns
TURN_TOKENS = 6
TEXTS = ("Go.", "Which way now, and why that way and no other? Say what you see.", "Left or right?")
NO_PICTURES = "does not apply: the model takes no pictures"


class Failed(Exception):
    """A check found what must not be; it says what, and what to do about it."""


@dataclass(frozen=True)
class Gap:
    """How far log-probs of the same tokens lie apart, in nats."""

    found: tuple[float, ...]  # mean, 99th percentile, largest; and the k3 estimate of KL(theirs || ours)
    dtype: torch.dtype

    @classmethod
    def of(cls, ours: np.ndarray | Tensor, theirs: np.ndarray | Tensor, dtype: torch.dtype) -> "Gap":
        """Theirs are those of the side that sampled."""
        d = torch.as_tensor(ours).double().cpu().flatten() - torch.as_tensor(theirs).double().cpu().flatten()
        size = d.abs().nan_to_num(torch.inf)
        found = size.mean(), size.quantile(0.99), size.max(), (d.exp() - 1 - d).mean()
        return cls(tuple(map(float, found)), dtype)

    @classmethod
    def of_all(cls, ours: Tensor, theirs: Tensor, dtype: torch.dtype) -> "Gap":
        """Of whole distributions, without what is as good as never sampled: there rounding is large and means nothing."""
        return cls.of(ours[theirs > UNLIKELY], theirs[theirs > UNLIKELY], dtype)

    @property
    def largest(self) -> float:
        return self.found[2]

    @property
    def is_small(self) -> bool:
        if self.dtype == torch.float32:
            return self.largest <= NATS
        return all(found <= limit for found, limit in zip(self.found, BFLOAT16_LIMITS, strict=True))

    def __str__(self) -> str:
        if self.dtype == torch.float32:
            return f"largest difference {self.largest:.1e} nats (limit {NATS:.0e})"
        found = "mean {:.1e}, p99 {:.1e}, maximum {:.1e} nats, KL {:.1e}".format(*self.found)
        return f"{found} (limits {', '.join(f'{x:g}' for x in BFLOAT16_LIMITS)})"


def agreed(what: str, advice: str, *gaps: Gap, gradient_share: float | None = None) -> str:
    """What comparisons found, by the worst of them. Raises Failed, with the advice, where one is too far apart.

    `gradient_share`: how far two gradients lie apart, as a share of their norm.
    """
    worst = max(gaps, key=lambda gap: (not gap.is_small, gap.largest))
    told, is_good = f"{what}: {worst}", worst.is_small
    if gradient_share is not None:
        limit = GRADIENT_SHARE[worst.dtype]
        told += f"; gradient differs by {gradient_share:.1e} of its norm (limit {limit:g})"
        is_good = is_good and gradient_share <= limit
    if not is_good:
        raise Failed(f"{told}. {advice}")
    return told


def num_shared(ids: np.ndarray, other: np.ndarray) -> int:
    """How many tokens two texts begin with in common."""
    count = min(len(ids), len(other))
    differs = np.flatnonzero(ids[:count] != other[:count])
    return int(differs[0]) if len(differs) else count


class Probe:
    """A policy that is asked the same things in several ways. What is sampled is sampled once."""

    def __init__(self, policy: Policy):
        self.policy = policy
        self.model, self.images = policy.model, policy.images
        self.dtype: torch.dtype = self.model.model.dtype
        rng = np.random.default_rng(0)
        self.pictures = [self.images.put(rng.integers(0, 256, (*size, 3), dtype=np.uint8)) for size in SIZES]
        self.has_pictures = self.model.vision.image_processor is not None

    # ------------------------------------------------------------------------------------- prompts

    def prompt(self, text: str, num_pictures: int = 0) -> tuple[Message, ...]:
        pictures = [ImagePart(h) for h in self.pictures[:num_pictures]]
        return (Message("user", (*pictures, TextPart(text))),)

    @cached_property
    def takes_text_alone(self) -> bool:
        """Some processors refuse prompts without pictures (PaliGemma)."""
        try:
            self.bare_inputs(self.prompt(TEXTS[0]))
        except ValueError:
            return False
        return True

    @property
    def prompts(self) -> list[tuple[Message, ...]]:
        """Without pictures, with one and with two, short and long, as far as the model takes them."""
        counts = [n for n in (0, 1, 2) if (self.has_pictures or n == 0) and (self.takes_text_alone or n > 0)]
        return [self.prompt(text, n) for n in counts for text in TEXTS[:2]]

    def bare_inputs(self, messages: Sequence[Message]) -> dict[str, Tensor]:
        """What the processor itself makes of messages, as its own chat method would."""
        processor, tokenizer = self.model.processor, self.model.tokenizer
        shown = {ImagePart: lambda _: {"type": "image"}, TextPart: lambda part: {"type": "text", "text": part.text}}
        chat: list[dict[str, Any]] = [
            {"role": m.role, "content": [shown[type(p)](p) for p in m.parts]} for m in messages
        ]
        if not self.has_pictures:
            chat = [{**m, "content": "".join(p["text"] for p in m["content"])} for m in chat]
        template = (
            getattr(processor, "chat_template", None) or tokenizer.chat_template or self.model.family.chat_template
        )
        text = tokenizer.apply_chat_template(chat, chat_template=template, add_generation_prompt=True, tokenize=False)
        begins = tokenizer.bos_token is not None and text.startswith(tokenizer.bos_token)
        options: dict[str, Any] = {"add_special_tokens": self.has_pictures and not begins, "return_tensors": "pt"}
        hashes = [p.image_hash for m in messages for p in m.parts if isinstance(p, ImagePart)]
        if self.has_pictures:
            pictures = [[Image.fromarray(self.images.get(h)) for h in hashes]] if hashes else None
            inputs = processor(text=[text], images=pictures, **options)
        else:
            inputs = tokenizer([text], **options)
        return {k: v.to(self.model.device) for k, v in inputs.items() if k != "labels"}

    # ------------------------------------------------------------------------------------- what was sampled

    def sampled(self, messages: Sequence[tuple[Message, ...]], temperature: float = 1.0) -> list[Trajectory]:
        """Episodes of one step, with completions of mixed length."""
        requests = [SampleRequest(m, i, 2 + 5 * i % 9, temperature) for i, m in enumerate(messages)]
        completions = self.policy.sample(requests)
        return [_episode([(m, c)]) for m, c in zip(messages, completions, strict=True)]

    @cached_property
    def samples(self) -> list[TrainingSample]:
        return self.samples_of(self.sampled(self.prompts))

    @cached_property
    def conversation(self) -> Trajectory:
        """Three turns, each with a picture where the model takes them."""
        steps: list[tuple[tuple[Message, ...], Completion]] = []
        messages: tuple[Message, ...] = (Message("system", (TextPart("You play a game."),)),)
        for turn, text in enumerate(TEXTS):
            shown = (ImagePart(self.pictures[turn]),) if self.has_pictures else ()
            messages = (*messages, Message("user", (*shown, TextPart(text))))
            (completion,) = self.policy.sample([SampleRequest(messages, turn, TURN_TOKENS, is_continued=True)])
            steps.append((messages, completion))
            messages = (*messages, Message("assistant", (TextPart(completion.text),), completion))
        return _episode(steps)

    def samples_of(self, trajectories: Sequence[Trajectory]) -> list[TrainingSample]:
        return build_samples(trajectories, self.model, self.images)

    # ------------------------------------------------------------------------------------- the learner's side

    @cached_property
    def learner(self) -> Learner:
        optimizer = Optimizer(self.model, self.policy.critic, OptimConfig(), 1)
        return Learner(self.policy, Supervised(), optimizer)

    @torch.no_grad()
    def logprobs(self, samples: Sequence[TrainingSample], shares_prompts: bool = False) -> Tensor:
        """Of the samples' completion tokens, read together: float32 (N,)."""
        return self.learner.forward(batch_of(self.model, self.images, samples, shares_prompts)).logprobs

    def alone(self, samples: Sequence[TrainingSample]) -> Tensor:
        return torch.cat([self.logprobs([s]) for s in samples])

    def gradient(self, parts: Sequence[Sequence[TrainingSample]], shares_prompts: bool = False) -> Tensor:
        """Of the mean log-prob over all parts, each read in a pass of its own: float32 (P,)."""
        trained = [p for p in self.model.parameters() if p.requires_grad]
        denominators = Denominators.of([s for part in parts for s in part])
        for part in parts:
            batch = batch_of(self.model, self.images, part, shares_prompts)
            self.learner.algorithm.loss(batch, self.learner.forward(batch), denominators).total.backward()
        found = [torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in trained]
        for p in trained:
            p.grad = None
        return torch.cat(found).float()

    def gradient_share(
        self,
        parts: Sequence[Sequence[TrainingSample]],
        others: Sequence[Sequence[TrainingSample]],
        shares_prompts=False,
    ) -> float:
        """How far the gradients of both lie apart, as a share of the first one's norm; `shares_prompts` for the second."""
        gradient, other = self.gradient(parts), self.gradient(others, shares_prompts)
        return float((gradient - other).norm() / gradient.norm().clamp(min=1e-12))

    # ------------------------------------------------------------------------------------- forward passes

    @torch.no_grad()
    def read_prompt(self, messages: Sequence[Message], columns_left: int = 0, use_cache: bool = False) -> Any:
        """Hidden states and cache of a prompt behind so many columns of padding."""
        model, prompt = self.model, self.model.encode(messages, self.images)
        positions = torch.from_numpy(model.positions(prompt.ids, prompt.image_hashes, self.images)).to(model.device)
        ids = torch.from_numpy(prompt.ids).to(model.device)[None]
        ids = torch.cat([torch.full_like(ids[:, :1], model.pad_id).expand(-1, columns_left), ids], dim=1)
        # counted on to the left: where positions begin anew, the library takes what is before for another sequence
        padding = torch.arange(-columns_left, 0, device=model.device) + positions[:, :1]
        positions = torch.cat([padding, positions], dim=1)
        mask = torch.ones_like(ids, dtype=torch.bool)
        mask[:, :columns_left] = False
        features = model.features([prompt.image_hashes], self.images)
        positions = positions if len(positions) == 1 else positions[:, None]
        return model.hidden(ids, mask, positions, features, use_cache=use_cache)

    @torch.no_grad()
    def prompt_logprobs(self, messages: Sequence[Message], columns_left: int = 0) -> Tensor:
        """Of the whole vocabulary at each token of a prompt, behind so many columns of padding: float32 (T, V)."""
        hidden, _ = self.read_prompt(messages, columns_left)
        return self.of_logits(self.model.logits(hidden[0, columns_left:]))

    def of_logits(self, logits: Tensor) -> Tensor:
        """Over what may be sampled."""
        kept = torch.ones(logits.shape[-1], dtype=torch.bool, device=logits.device)
        kept[self.model.forbidden_ids] = False
        return token_logprobs(logits, 1.0, self.model.forbidden_ids)[..., kept]


def _episode(steps: Sequence[tuple[tuple[Message, ...], Completion]]) -> Trajectory:
    nothing = ParsedAction(0, "", "", {}, 0)
    played = [Step(m, c, nothing, 0, ExecutedBy.POLICY, RewardBreakdown({})) for m, c in steps]
    return Trajectory(task=0, episode=0, seed=0, steps=played, stop_reason=StopReason.TERMINATED)


def separate(samples: Sequence[TrainingSample]) -> list[TrainingSample]:
    """The same steps, each as a sample of its own."""
    parts = []
    for sample in samples:
        done = 0
        assert sample.sampling_logprobs is not None
        for span in sample.steps:
            logprobs = sample.sampling_logprobs[done : done + span.num_elements]
            done += span.num_elements
            hashes = sample.image_hashes[: span.num_images]
            own = replace(sample, ids=sample.ids[: span.end], image_hashes=hashes, steps=(span,))
            parts.append(replace(own, sampling_logprobs=logprobs))
    return parts
