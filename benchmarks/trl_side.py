"""TRL's side of the comparison: GRPOTrainer with its best settings here, one update a generation."""

import tempfile
import time
import warnings
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
import turns
from datasets import Dataset
from eyas_side import first_prompts
from PIL import Image
from transformers import AutoModelForImageTextToText, TrainerCallback
from trl.trainer.grpo_config import GRPOConfig
from trl.trainer.grpo_trainer import GRPOTrainer

from eyas.bench.workload import MODEL
from eyas.models.nano import build_nano
from eyas.models.processors import load_processor

TOOL_CALL = '<tool_call>\n{"name": "move", "arguments": {"way": "up"}}\n</tool_call><|im_end|>'
BEST: dict[str, Any] = {  # no reference model, nothing computed twice, nothing written
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
    "beta": 0.0,
    "top_k": 0,
    "disable_dropout": True,
    "optim": "adamw_torch_fused",
    "logging_steps": 10_000,
    "disable_tqdm": True,
    "report_to": "none",
    "save_strategy": "no",
}


def measure(case: dict[str, Any]) -> dict[str, Any]:
    """Seconds of each step after the first, and the tokens of the longest row."""
    warnings.filterwarnings("ignore")
    model, processor = _model(case)
    clock = _Clock()
    with tempfile.TemporaryDirectory() as folder:
        trainer = _Trainer(
            model=model,
            processing_class=processor,
            args=_arguments(case, folder),
            train_dataset=_dataset(case),
            callbacks=[clock],
            **_kind(case, processor),
        )
        trainer.has_groups = case["group_size"] > 1
        if case["kind"] == "tool":
            trainer.forced = processor.tokenizer(TOOL_CALL, add_special_tokens=False)["input_ids"]
        trainer.train()
    pairs = list(pairwise(clock.marks))
    return {
        "cpu_s": [b[0] - a[0] for a, b in pairs],
        "elapsed_s": [b[1] - a[1] for a, b in pairs],
        "row_tokens": trainer.row_tokens,
        "prompt_tokens": trainer.prompt_tokens,
    }


class _Clock(TrainerCallback):
    def __init__(self) -> None:
        self.marks: list[tuple[float, float]] = []

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.marks.append((time.process_time(), time.perf_counter()))


class _Trainer(GRPOTrainer):
    """Notes the length of its rows. Without groups it takes a prompt for each completion, which costs it nothing."""

    has_groups = True
    forced: list[int] | None = None
    row_tokens = prompt_tokens = 0

    def _get_train_sampler(self, dataset: Any = None) -> Any:
        if self.has_groups:
            return super()._get_train_sampler(dataset)
        rows: Any = self.train_dataset
        passes = self.args.gradient_accumulation_steps  # it asks for a batch at each, and writes to the first
        size = self.args.per_device_train_batch_size * passes
        return [i for first in range(0, len(rows), size) for _ in range(passes) for i in range(first, first + size)]

    def _generate_single_turn(self, *args: Any, **kwargs: Any) -> Any:
        """Random weights call no tool: what they wrote, at its full cost, gives way to a call of the same length."""
        ids, logprobs = super()._generate_single_turn(*args, **kwargs)
        return ([list(self.forced) for _ in ids] if self.forced else ids), logprobs

    def _generate(self, prompts: list[Any]) -> Any:
        result = super()._generate(prompts)
        lengths = [len(p) + len(c) for p, c in zip(result[0], result[1], strict=True)]
        self.row_tokens, self.prompt_tokens = max(lengths), max(map(len, result[0]))
        return result


def _model(case: dict[str, Any]) -> tuple[Any, Any]:
    if case["model"]:
        return AutoModelForImageTextToText.from_pretrained(case["model"], dtype="float32"), load_processor(
            case["model"]
        )
    return build_nano(**MODEL.options)


def _arguments(case: dict[str, Any], folder: str) -> GRPOConfig:
    new_tokens, rows = case["new_tokens"], min(case["trl_rows"], case["episodes"])
    return GRPOConfig(
        output_dir=folder,
        per_device_train_batch_size=rows,
        gradient_accumulation_steps=case["episodes"] // rows,  # all are written together, and read `rows` at a time
        num_generations=max(2, case["group_size"]),
        max_completion_length=4000 if case["env_steps"] > 1 else new_tokens,
        max_tool_calling_iterations=case["env_steps"] - 1,  # the last call of an episode shows nothing
        generation_kwargs={"min_new_tokens": new_tokens, "max_new_tokens": new_tokens},
        learning_rate=1e-9,
        max_steps=case["updates"] + 1,
        seed=case["seed"],
        **BEST | {"bf16": case["dtype"] == "bfloat16"},
    )


def _dataset(case: dict[str, Any]) -> Dataset:
    """More rows than are asked for; each says its seed, from which an episode of several steps goes on."""
    number = case["episodes"] // case["group_size"] * (case["updates"] + 2)
    seeds = [case["seed"] * 10_000 + i for i in range(number)]
    rows: list[dict[str, Any]] = []
    with first_prompts(case, seeds) as found:
        for seed, (words, picture) in zip(seeds, found, strict=True):
            prompt = [{"role": "user", "content": words}]
            if case["kind"] == "rollout":
                prompt = [{"role": "user", "content": f"{seed} {words}"}]
            row = {"prompt": prompt, "seed": seed}
            if picture is not None and case["kind"] != "tool":
                row["image"] = Image.fromarray(picture)
            rows.append(row)
    return Dataset.from_list(rows)


def _kind(case: dict[str, Any], processor: Any) -> dict[str, Any]:
    """How episodes are played: in one step, by a rollout function, or by tool calls that return pictures."""
    if case["kind"] == "tool":
        return {"environment_factory": lambda: _Board(case)}
    if case["kind"] == "rollout":
        return {"rollout_func": _Rollout(case, processor.tokenizer), "reward_funcs": _episode_return}
    return {"reward_funcs": _length}


def _length(completions: Sequence[Any], **kwargs: Any) -> list[float]:
    return [float(len(c[0]["content"]) % 2) for c in completions]


def _episode_return(episode_return: Sequence[float], **kwargs: Any) -> list[float]:
    return list(episode_return)


# ----------------------------------------------------------------------------------------------- pictures by tool calls


class _Board:
    def __init__(self, case: dict[str, Any]) -> None:
        self._env = turns.Turns(case["env_steps"], "picture")
        self._total = 0.0

    def reset(self, seed: int = 0, **kwargs: Any) -> list[dict[str, Any]]:
        observation, _ = self._env.reset(seed=seed)
        self._total = 0.0
        return [{"type": "image", "image": Image.fromarray(observation)}]

    def get_reward(self) -> float:
        return self._total

    def move(self, way: str) -> list[dict[str, Any]]:
        """
        Moves one step and shows the next picture.

        Args:
            way: Where to move, either "up" or "down".

        Returns:
            The picture after the move.
        """
        observation, reward, *_ = self._env.step(int(way == "up"))
        self._total += reward
        return [{"type": "image", "image": Image.fromarray(observation)}]


# ----------------------------------------------------------------------------------------------- words by a rollout function


class _Rollout:
    """Plays a batch of episodes together: every turn is one call of `generate` on all that was said."""

    def __init__(self, case: dict[str, Any], tokenizer: Any) -> None:
        self.case, self.tokenizer = case, tokenizer

    def __call__(self, prompts: list[Any], trainer: GRPOTrainer) -> dict[str, Any]:
        envs = [turns.Turns(self.case["env_steps"], "text") for _ in prompts]
        said = [p[0]["content"] for p in prompts]
        for env, words in zip(envs, said, strict=True):
            env.reset(seed=int(words.split()[0]))
        prompt_ids = [self._ids(f"<|user|>{words.split(' ', 1)[1]}<|assistant|>") for words in said]
        completions: list[list[int]] = [[] for _ in prompts]
        masks: list[list[int]] = [[] for _ in prompts]
        returns = [0.0] * len(prompts)
        for turn in range(self.case["env_steps"]):
            rows = [p + c for p, c in zip(prompt_ids, completions, strict=True)]
            for row, new in enumerate(self._write(trainer, rows)):
                observation, reward, *_ = envs[row].step(len(new) % 2)
                returns[row] += reward
                is_last = turn + 1 == self.case["env_steps"]
                shown = [] if is_last else self._ids(f"<end_of_utterance><|user|>{observation}<|assistant|>")
                completions[row] += new + shown
                masks[row] += [1] * len(new) + [0] * len(shown)
        result = {"prompt_ids": prompt_ids, "completion_ids": completions, "logprobs": None}
        return result | {"env_mask": masks, "episode_return": returns}

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def _write(self, trainer: GRPOTrainer, rows: Sequence[Sequence[int]]) -> list[list[int]]:
        width = max(map(len, rows))
        pad = self.tokenizer.pad_token_id
        ids = torch.tensor([[pad] * (width - len(r)) + list(r) for r in rows])
        mask = torch.tensor([[0] * (width - len(r)) + [1] * len(r) for r in rows])
        model: Any = trainer.model
        with torch.no_grad():
            written = model.generate(input_ids=ids, attention_mask=mask, generation_config=trainer.generation_config)
        return written[:, width:].tolist()
