"""Pretrains the built-in model `nano`: the architecture of `nano-random` on procedural pictures and texts.

    python scripts/pretrain_nano.py train --samples 1504000 --bf16 --output runs/nano     trains, or goes on where it was stopped
    python scripts/pretrain_nano.py test --output runs/nano                       exact match by scene
    python scripts/pretrain_nano.py ship --output runs/nano                       writes the weights into the package

Items are made while training runs, in one process beside it; item and order follow from the number of the batch alone.
The loss is the mean cross-entropy of the answers' tokens, of all turns of a conversation.
"""

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from nano_forms import Item, in_form, make_item
from nano_scenes import COPYING, FOCUSED, SCENES
from safetensors.torch import save_file
from torch.utils.data import DataLoader, IterableDataset

from eyas.batch import SampleStep, TrainingSample
from eyas.collate import collate
from eyas.models.adapter import VisionLanguageModel
from eyas.models.logprobs import token_logprobs
from eyas.models.nano import build_nano
from eyas.rollouts.images import MemoryImageStore
from eyas.samplers.in_process import InProcessSampler
from eyas.seeding import generator
from eyas.training.memory import keep_freed_memory
from eyas.training.optim import learning_rate_factor
from eyas.types import ImagePart, Message, Sampler, SampleRequest, TextPart

WEIGHTS = Path(__file__).parents[1] / "src/eyas/models/assets/nano.safetensors"
BATCH, BLOCK = 32, 16  # samples a batch; batches that are made together and sorted by length
FOCUSED_FROM, COPYING_FROM = 180, 1140  # blocks
WARMUP_STEPS, FINAL_SHARE, LOGGED_EVERY, SAVED_EVERY = 200, 0.02, 100, 480


class Encoder:
    """Items to training samples, as the adapter would encode their messages."""

    def __init__(self, model: VisionLanguageModel):
        self.model = model
        images = MemoryImageStore()
        shown = Message("user", (ImagePart(images.put(np.zeros((96, 96, 3), np.uint8))),))
        written = model.tokenizer.decode(model.encode([shown], images).ids)
        self.picture = written.removeprefix("<|user|>").removesuffix("<|assistant|>")

    def __call__(self, item: Item) -> TrainingSample:
        parts: list[np.ndarray] = []
        steps, place = [], 0
        for turn, (prompt, answer) in enumerate(item.turns):
            picture = self.picture if item.picture is not None and not turn else ""
            asked = self.model.tokenizer(f"<|user|>{picture}{prompt}<|assistant|>", add_special_tokens=False)[
                "input_ids"
            ]
            parts += [np.array(asked), self.model.encode_text(answer)]
            start, place = place + len(asked), place + len(asked) + len(parts[-1])
            steps.append(SampleStep(start, start, place))
        return TrainingSample(np.concatenate(parts), (), tuple(steps))


def items_of(block: int) -> Iterator[Item]:
    """First the formats, on everything and ever more plain pictures; then mostly what reading begins with, ever less plain; then copying too."""
    rng = generator("nano pretraining", block)
    for _ in range(BATCH * BLOCK):
        if block < FOCUSED_FROM:
            yield make_item(rng, 0.0 if block < 60 else 0.8 - 0.7 * (block - 60) / 160)
        elif block < COPYING_FROM:
            yield make_item(rng, max(0.4, 0.9 - 0.5 * (block - FOCUSED_FROM) / 480), FOCUSED)
        else:
            yield make_item(rng, 0.7, COPYING)


class Batches(IterableDataset):
    """(training samples, pictures uint8 (n, 96, 96, 3)) without end, from a block on."""

    def __init__(self, first_block: int):
        self.first_block = first_block

    def __iter__(self) -> Iterator[tuple[list[TrainingSample], torch.Tensor]]:
        torch.set_num_threads(1)
        encode, block = Encoder(VisionLanguageModel(*build_nano())), self.first_block
        while True:
            made = [(encode(item), item.picture) for item in items_of(block)]
            made.sort(key=lambda pair: len(pair[0].ids))
            for i in generator("nano order", block).permutation(BLOCK):
                part = made[i * BATCH : (i + 1) * BATCH]
                pictures = [picture for _, picture in part if picture is not None]
                yield [sample for sample, _ in part], torch.from_numpy(np.stack(pictures))
            block += 1


def pixels(pictures: torch.Tensor, model: VisionLanguageModel) -> dict[str, torch.Tensor]:
    """As the processor makes them of pictures that have the model's size."""
    processor = model.processor.image_processor
    mean, std = processor.image_mean[0], processor.image_std[0]
    return {"pixel_values": ((pictures.permute(0, 3, 1, 2).float() / 255 - mean) / std)[None]}


def loss_of(model: VisionLanguageModel, samples: list[TrainingSample], pictures: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy of the answers' tokens; `pictures` belong to those samples that have one, in order."""
    batch = collate(samples, model.pad_id)
    inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask, "position_ids": batch.position_ids}
    hidden = model.model.model(**inputs, **pixels(pictures, model), use_cache=False).last_hidden_state
    logprobs = token_logprobs(model.logits(hidden[batch.token_rows, batch.token_columns]), 1.0, model.forbidden_ids)
    return -logprobs.gather(-1, batch.token_ids[:, None]).mean()


def train(options: argparse.Namespace) -> None:
    keep_freed_memory()
    folder, total = options.output, options.samples // BATCH
    folder.mkdir(parents=True, exist_ok=True)
    model = VisionLanguageModel(*build_nano(seed=0))
    model.model.set_attn_implementation("eager")  # of the fused one the backward pass in bfloat16 is slow on a CPU
    adamw = torch.optim.AdamW(model.model.parameters(), lr=options.lr, betas=(0.9, 0.95), weight_decay=0.01, fused=True)
    begin, latest = 0, folder / "state.pt"
    if latest.exists():
        state = torch.load(latest)
        model.model.load_state_dict(state["model"])
        adamw.load_state_dict(state["adamw"])
        begin = state["step"]
    loader = iter(DataLoader(Batches(begin // BLOCK), batch_size=None, num_workers=1, prefetch_factor=16))
    recent, clock = [], time.perf_counter()
    for step in range(begin, total):
        for group in adamw.param_groups:
            group["lr"] = options.lr * learning_rate_factor(step, total, WARMUP_STEPS, "cosine", FINAL_SHARE)
        samples, pictures = next(loader)
        with torch.autocast("cpu", torch.bfloat16, enabled=options.bf16):
            loss = loss_of(model, samples, pictures)
        adamw.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adamw.step()
        recent.append(float(loss.detach()))
        if (step + 1) % LOGGED_EVERY == 0:
            seconds, clock = time.perf_counter() - clock, time.perf_counter()
            print(
                f"{step + 1}/{total} loss {np.mean(recent):.4f}, {BATCH * len(recent) / seconds:.0f} samples/s",
                flush=True,
            )
            recent = []
        if (step + 1) % SAVED_EVERY == 0 or step + 1 == total:
            state = {"model": model.model.state_dict(), "adamw": adamw.state_dict(), "step": step + 1}
            torch.save(state, folder / "state.tmp")
            (folder / "state.tmp").replace(latest)


# ----------------------------------------------------------------------------------------------- testing and shipping


def first_prompt(item: Item, images: MemoryImageStore) -> tuple[Message, ...]:
    shown = () if item.picture is None else (ImagePart(images.put(item.picture)),)
    return (Message("user", (*shown, TextPart(item.turns[0][0]))),)


def right_answers(sampler: Sampler, images: MemoryImageStore, items: list[Item]) -> float:
    """Share of first turns that greedy decoding answers exactly."""
    requests = [SampleRequest(first_prompt(item, images), seed=0, max_new_tokens=96, temperature=0.0) for item in items]
    answers = [completion.text for completion in sampler.sample(requests)]
    return float(np.mean([answer == item.turns[0][1] for answer, item in zip(answers, items, strict=True)]))


def test(options: argparse.Namespace) -> None:
    """Prints the exact match of fresh items of every scene: plain pictures, and all kinds."""
    model = VisionLanguageModel(*build_nano(seed=0))
    model.model.load_state_dict(torch.load(options.output / "state.pt")["model"])
    print("| scene | plain | all kinds |\n|---|---|---|")
    for scene in SCENES | COPYING:
        shares = []
        for ease in (1, 0):
            rng, images = generator("nano held out", scene.__name__, ease), MemoryImageStore()
            items = [in_form(rng, scene(rng, ease)) for _ in range(options.items)]
            shares.append(right_answers(InProcessSampler(model, images), images, items))
        print(
            f"| {scene.__name__.replace('_', ' ')} | " + " | ".join(f"{100 * share:.0f} %" for share in shares) + " |"
        )


def ship(options: argparse.Namespace) -> None:
    """The weights, each tensor once, in float32."""
    model, _ = build_nano(seed=0)
    model.load_state_dict(torch.load(options.output / "state.pt")["model"])
    save_file({name: p.detach().contiguous() for name, p in model.named_parameters()}, WEIGHTS)
    print(f"{WEIGHTS}: {WEIGHTS.stat().st_size / 2**20:.1f} MiB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("train", "test", "ship"))
    parser.add_argument("--output", type=Path, required=True, help="folder of the training's state")
    parser.add_argument("--samples", type=int, default=1_504_000)
    parser.add_argument("--lr", type=float, default=1.5e-3)
    parser.add_argument("--bf16", action="store_true", help="train under autocast")
    parser.add_argument("--items", type=int, default=200, help="test items a scene")
    options = parser.parse_args()
    {"train": train, "test": test, "ship": ship}[options.what](options)


if __name__ == "__main__":
    main()
