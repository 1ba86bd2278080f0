"""Time to a success rate on NumberLine, from the same weights: fine-tuned on demonstrations that read truthfully and play half
of their moves at random.

Three racers: Eyas as its recipe trains (PPO on whole episodes), Eyas's GRPO and TRL's GRPO on single steps with that step's
reward, in groups of eight. Success is that of whole episodes at temperature 1, measured by the same code on all; measuring
it takes no time of theirs. Each is a process of its own.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from math import inf
from pathlib import Path
from typing import Any

TARGET, EPISODES, MOST_S = 0.95, 200, 90.0  # CPU seconds of a racer
EVERY = 4  # updates between measurements
SFT_STEPS = 260
TASK = {
    "env": "eyas/NumberLine-v0",
    "interface": {"on_parse_failure": "penalty", "max_new_tokens": 36},
}
ONE_STEP = TASK | {"env_args": {"max_episode_steps": 1}}
PROMPTS, GROUP, MINIBATCH = 32, 8, 64
PPO_LR, GRPO_LRS = 2e-4, (1e-4, 2e-4, 4e-4)  # of the latter each racer gets its best


class Reached(Exception):
    """The target, or the end of the time."""


class Curve:
    """Success by CPU seconds; what measuring takes is left out."""

    def __init__(self) -> None:
        self.points: list[tuple[float, float]] = []
        self._left_out = 0.0  # what came before the first measurement, and all of them

    def add(self, model: Any, processor: Any, temperature: float = 1.0) -> None:
        """Raises Reached."""
        now = time.process_time()
        self._left_out = self._left_out if self.points else now
        spent = now - self._left_out
        self.points.append((round(spent, 2), success(model, processor, temperature)))
        self._left_out += time.process_time() - now
        print(self.points[-1], file=sys.stderr, flush=True)
        if self.points[-1][1] >= TARGET or spent > MOST_S:
            raise Reached


def success(model: Any, processor: Any, temperature: float) -> float:
    import torch

    from eyas.build import build_task
    from eyas.config import TaskConfig
    from eyas.evaluation.evaluate import play
    from eyas.models.adapter import VisionLanguageModel
    from eyas.models.policy import Policy
    from eyas.rollouts.actors import PolicyActor
    from eyas.rollouts.images import MemoryImageStore
    from eyas.samplers.in_process import InProcessSampler

    images = MemoryImageStore()
    wrapped = VisionLanguageModel(model, processor)
    policy = Policy(wrapped, InProcessSampler(wrapped, images), images)
    task = build_task(TaskConfig.model_validate(TASK))
    with torch.no_grad():
        played = play(task, PolicyActor(policy, temperature), images, 0, range(EPISODES))
    return sum(bool(t.success) for t in played.trajectories) / EPISODES


# ----------------------------------------------------------------------------------------------- the racers


def fine_tuned(folder: Path, seed: int, threads: int) -> None:
    """The weights that all begin with: they read the numbers, and play half of their moves by chance."""
    from eyas.bench.iterations import opened
    from eyas.training.loop import collect
    from eyas.training.sft import fine_tune

    stages = [
        {"kind": "collect", "policy": "expert", "random_share": 0.5, "episodes": 500},
        {
            "kind": "sft",
            "steps": SFT_STEPS,
            "optim": {"lr": 1e-3, "warmup_steps": 50, "schedule": "cosine", "final_lr_share": 0.05},
        },
    ]
    config = {"name": "race", "seed": seed, "threads": threads, "films": False, "tasks": [TASK], "stages": stages}
    with opened(config) as run:
        collect(run, run.config.stages[0])  # type: ignore[arg-type]
        fine_tune(run, run.config.stages[1])  # type: ignore[arg-type]
        run.policy.save(folder)


def eyas(folder: Path, seed: int, threads: int, algorithm: str, lr: float) -> Curve:
    from eyas.bench.iterations import iterate, opened

    ppo = {"name": "ppo", "thought_weight": 0.3, "gamma": 0.9, "gae_lambda": 0.95, "clip": 0.2}
    stage: dict[str, Any] = {"kind": "rl", "iterations": 60, "checkpoint_every": 0, "minibatch_size": MINIBATCH}
    if algorithm == "ppo":
        stage |= {"algorithm": ppo, "num_envs": 32, "rollout_steps": 8, "epochs": 2}
    else:
        stage |= {"algorithm": {"name": "grpo", "kl_coef": 0.0}, "group_size": GROUP, "epochs": 1}
        stage |= {"num_envs": PROMPTS * GROUP, "rollout_episodes": PROMPTS * GROUP}
    stage["optim"] = {"lr": lr, "lr_value_head": 1e-3 if algorithm == "ppo" else None}
    config = {"name": "race", "seed": seed, "threads": threads, "films": False, "model": {"name": str(folder)}}
    config |= {"tasks": [TASK if algorithm == "ppo" else ONE_STEP], "stages": [stage]}
    with opened(config) as run:
        curve = Curve()
        model = run.policy.model
        try:
            curve.add(model.model, model.processor)
            iterate(run, lambda iteration: curve.add(model.model, model.processor))
        except Reached:
            pass
    return curve


def trl(folder: Path, seed: int, threads: int, lr: float) -> Curve:
    import trl_side
    from datasets import Dataset
    from PIL import Image
    from transformers import AutoModelForImageTextToText, TrainerCallback
    from trl.trainer.grpo_config import GRPOConfig
    from trl.trainer.grpo_trainer import GRPOTrainer

    from eyas.build import build_task
    from eyas.config import TaskConfig
    from eyas.models.processors import load_processor
    from eyas.rollouts.images import MemoryImageStore
    from eyas.types import Completion, ParsedAction, TextPart

    task, images = build_task(TaskConfig.model_validate(ONE_STEP)), MemoryImageStore()
    env, rows = task.make_env(), []
    for i in range(2000):
        observation, info = env.reset(seed=seed * 10_000 + i)
        (message,) = task.interface.render(observation, info, None, images)
        words = " ".join(p.text for p in message.parts if isinstance(p, TextPart))
        prompt = [{"role": "user", "content": words}]
        rows.append({"prompt": prompt, "image": Image.fromarray(observation), "start": seed * 10_000 + i})

    def reward(completions: Any = (), start: Any = (), **kwargs: Any) -> list[float]:
        found = []
        for (message,), of_start in zip(completions, start, strict=True):
            parsed = task.interface.parse(Completion(message["content"]), None)
            env.reset(seed=of_start)
            is_read = isinstance(parsed, ParsedAction)
            action = parsed.action if is_read else env.action_space.sample()  # type: ignore[union-attr]
            found.append(float(env.step(action)[1]) - (not is_read))  # type: ignore[arg-type]
        return found

    model, processor = AutoModelForImageTextToText.from_pretrained(folder), load_processor(str(folder))
    curve = Curve()

    class Measure(TrainerCallback):
        def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
            curve.add(model, processor)

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step % EVERY == 0:
                try:
                    curve.add(model, processor)
                    model.train()
                except Reached:
                    control.should_training_stop = True

    with tempfile.TemporaryDirectory() as output:
        arguments = GRPOConfig(
            output_dir=output,
            per_device_train_batch_size=MINIBATCH,
            steps_per_generation=PROMPTS * GROUP // MINIBATCH,
            gradient_accumulation_steps=1,
            num_generations=GROUP,
            max_completion_length=36,
            learning_rate=lr,
            lr_scheduler_type="constant",
            max_grad_norm=1.0,
            adam_beta2=0.95,
            max_steps=10_000,
            seed=seed,
            **trl_side.BEST,
        )
        trainer = GRPOTrainer(
            model=model,
            processing_class=processor,
            args=arguments,
            reward_funcs=reward,  # pyright: ignore[reportArgumentType]
            train_dataset=Dataset.from_list(rows),
            callbacks=[Measure()],
        )
        trainer.train()
    return curve


# ----------------------------------------------------------------------------------------------- the race


def run(seed: int, threads: int) -> dict[str, Any]:
    """Seconds of each to the target, None where the time was up before, and the ratios of TRL's best to Eyas's."""
    lrs = {"eyas_ppo": (PPO_LR,), "eyas_grpo": GRPO_LRS, "trl_grpo": GRPO_LRS}
    curves: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        _process("sft", folder, seed, threads, 0.0)
        for name, tried in lrs.items():
            curves[name] = {f"{lr:g}": _process(name, folder, seed, threads, lr) for lr in tried}
    times = {name: min(map(_seconds_to_target, of_name.values())) for name, of_name in curves.items()}
    ratios = {n: round(min(times["trl_grpo"], MOST_S) / t, 3) for n, t in times.items() if n != "trl_grpo"}
    about = {"target": TARGET, "temperature": 1.0, "episodes": EPISODES, "seed": seed, "most_s": MOST_S}
    reached = {name: t if t < inf else None for name, t in times.items()}
    return about | {"ratios": ratios, "cpu_s": reached, "curves": curves}


def _seconds_to_target(curve: list[tuple[float, float]]) -> float:
    return curve[-1][0] if curve[-1][1] >= TARGET else inf


def _process(name: str, folder: str, seed: int, threads: int, lr: float) -> Any:
    env = os.environ | {"OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    command = [sys.executable, __file__, name, folder, str(seed), str(threads), str(lr)]
    done = subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"{name} failed")
    return json.loads(done.stdout.strip().splitlines()[-1])


def main() -> None:
    import torch

    name, folder, seed, threads, lr = sys.argv[1], Path(sys.argv[2]), *map(int, sys.argv[3:5]), float(sys.argv[5])
    torch.set_num_threads(threads)
    if name == "sft":
        fine_tuned(folder, seed, threads)
        points: Any = []
    elif name == "trl_grpo":
        points = trl(folder, seed, threads, lr).points
    else:
        points = eyas(folder, seed, threads, name.removeprefix("eyas_"), lr).points
    print("\n" + json.dumps(points))


if __name__ == "__main__":
    main()
