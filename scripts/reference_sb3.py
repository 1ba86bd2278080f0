"""A reference line: a Stable-Baselines3 agent on the observation that a recipe's model gets, without demonstrations.

    python scripts/reference_sb3.py frozenlake_ppo --steps 60000 --seeds 0 1 2

Pictures go through SB3's convolutional network, a mission's words beside them as which of its words occur; numbers go
through its MLP. Episodes of the evaluation are those of the recipe's own. Writes `docs/results/RECIPE/sb3.json`.
"""

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import stable_baselines3 as sb3
import torch
from gymnasium import spaces

from eyas.build import build_task
from eyas.config import EvalStage
from eyas.evaluation.statistics import student_t_interval, wilson_interval
from eyas.recipes import load_recipe
from eyas.rollouts.images import MemoryImageStore
from eyas.rollouts.task import Task
from eyas.seeding import Split, environment_seed
from eyas.types import ImagePart

SIDE = 64  # pixels of the pictures
RESULTS = Path(__file__).parents[1] / "docs/results"
WORDS = ("red", "green", "blue", "purple", "yellow", "grey", "ball", "key", "box", "door")  # of BabyAI's missions
PLAIN = {"n_epochs": 4, "gamma": 0.95}  # else PPO's defaults
# rl-baselines3-zoo's settings
TUNED: dict[str, dict[str, Any]] = {
    "MountainCarContinuous-v0": {
        "n_steps": 8, "batch_size": 256, "gae_lambda": 0.9, "gamma": 0.9999, "n_epochs": 10, "ent_coef": 0.00429,
        "learning_rate": 7.77e-5, "clip_range": 0.1, "max_grad_norm": 5, "vf_coef": 0.19, "use_sde": True,
        "policy_kwargs": {"log_std_init": -3.29, "ortho_init": False},
    }
}  # fmt: skip


class AsShown(gym.Wrapper):
    """The observation becomes what the interface shows: its picture, scaled, and which words of a mission it says."""

    def __init__(self, env: gym.Env, task: Task):
        super().__init__(env)
        self.task, self.images = task, MemoryImageStore()
        self.observation_space = spaces.Dict(
            {
                "image": spaces.Box(0, 255, (SIDE, SIDE, 3), np.uint8),
                "words": spaces.Box(0, 1, (len(WORDS),), np.float32),
            }
        )

    def _shown(self, observation: Any, info: dict[str, Any]) -> dict[str, np.ndarray]:
        from PIL import Image

        frame: Any = self.env.render() if self.task.interface.renders else None
        shown = self.task.interface.observe(observation, info, frame, self.images)
        (picture,) = (p for p in shown.pictures if isinstance(p, ImagePart))
        image = Image.fromarray(self.images.get(picture.image_hash)).resize((SIDE, SIDE))
        self.images.clear()
        said = " ".join(shown.words).split()
        return {"image": np.asarray(image), "words": np.array([w in said for w in WORDS], np.float32)}

    def reset(self, **options: Any) -> tuple[Any, dict[str, Any]]:
        observation, info = self.env.reset(**options)
        return self._shown(observation, info), info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        return self._shown(observation, info), reward, terminated, truncated, info


def make(task: Task) -> gym.Env:
    env = task.make_env()
    if isinstance(env.action_space, spaces.Discrete):
        return AsShown(env, task)
    return gym.wrappers.RescaleObservation(env, np.float32(-1), np.float32(1))  # the zoo normalises its numbers


def evaluate(agent: Any, env: gym.Env, task: Task, seed: int, episodes: int) -> dict[str, Any]:
    """The deterministic policy on the evaluation episodes."""
    returns, wins = [], []
    for episode in range(episodes):
        observation, info = env.reset(seed=environment_seed(seed, Split.EVAL, episode))
        total, is_over = 0.0, False
        while not is_over:
            action, _ = agent.predict(observation, deterministic=True)
            action = int(action) if isinstance(env.action_space, spaces.Discrete) else action
            observation, reward, terminated, truncated, info = env.step(action)
            total, is_over = total + float(reward), terminated or truncated
        returns.append(total)
        threshold = task.success_return
        if threshold is not None or "success" in info:
            wins.append(total >= threshold if threshold is not None else bool(info["success"]))
    return {
        "episodes": episodes,
        "success_rate": float(np.mean(wins)) if wins else None,
        "success_interval": wilson_interval(int(sum(wins)), episodes) if wins else None,
        "return_mean": float(np.mean(returns)),
    }


def run(recipe: str, steps: int, seeds: Sequence[int]) -> None:
    config = load_recipe(recipe)
    task = build_task(config.tasks[0])
    stage = next(s for s in config.stages if isinstance(s, EvalStage))
    rows = []
    for seed in seeds:
        begun = time.perf_counter()
        env = make(task)
        policy = "MultiInputPolicy" if isinstance(env.observation_space, spaces.Dict) else "MlpPolicy"
        agent = sb3.PPO(policy, env, seed=seed, device="cpu", **TUNED.get(task.env_id, PLAIN))
        agent.learn(steps)
        row = {"seed": seed} | evaluate(agent, make(task), task, stage.seed, stage.episodes)
        rows.append(row | {"duration_s": round(time.perf_counter() - begun, 1)})
        print(rows[-1], flush=True)
    rates = [row["success_rate"] for row in rows if row["success_rate"] is not None]
    about = {"recipe": recipe, "env": task.env_id, "algorithm": "PPO", "stable_baselines3": sb3.__version__}
    result = about | {"steps": steps, "rows": rows, "success_mean": float(np.mean(rates)) if rates else None}
    result["success_t_interval"] = student_t_interval(rates) if rates else None
    folder = RESULTS / recipe
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sb3.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("--steps", type=int, default=60_000, help="environment steps of training")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    run(arguments.recipe, arguments.steps, arguments.seeds)
