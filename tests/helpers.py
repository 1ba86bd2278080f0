"""Small environments, players and models that several tests share."""

from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces

from eyas.interface import FORMATS, Format, Interface, codec_for
from eyas.models.adapter import VisionLanguageModel
from eyas.models.nano import build_nano
from eyas.models.policy import Policy
from eyas.rollouts.actors import Decision, Turn
from eyas.rollouts.encoding import encode_completion
from eyas.rollouts.images import MemoryImageStore
from eyas.rollouts.task import Task
from eyas.samplers.in_process import InProcessSampler
from eyas.seeding import generator
from eyas.types import (
    Completion,
    ExecutedBy,
    ImagePart,
    Message,
    RewardBreakdown,
    Step,
    StopReason,
    TextPart,
    Trajectory,
)

SMALL = {"hidden_size": 64, "intermediate_size": 96, "vision_hidden_size": 32}

# ----------------------------------------------------------------------------------------------- models


def nano_policy(seed: int = 0, max_batch: int = 64, **options: Any) -> Policy:
    """A small nano with random weights, the value head's included."""
    images = MemoryImageStore()
    model = VisionLanguageModel(*build_nano(seed=seed, **(SMALL | options)))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Policy(model, InProcessSampler(model, images, max_batch), images)


def picture(seed: int = 0, height: int = 60, width: int = 60) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def values(policy: Policy, prompts: Sequence[Sequence[Message]]) -> np.ndarray:
    """V at the last token of each prompt: float32 (n,)."""
    encoded = [policy.model.encode(p, policy.images) for p in prompts]
    return np.concatenate(policy.values(encoded, [[len(e.ids) - 1] for e in encoded]))


def json_format(*names: str, fact_keys: tuple[str, ...] = (), thoughts: bool = True) -> Format:
    return FORMATS["json"](codec_for(spaces.Discrete(len(names)), names), fact_keys, thoughts)


def prompt(text: str, *image_hashes: str) -> tuple[Message, ...]:
    return (Message("user", (*(ImagePart(h) for h in image_hashes), TextPart(text))),)


# ----------------------------------------------------------------------------------------------- environments


class CountingEnv(gym.Env):
    """Text environment: its start is drawn from the seed; it ends after `length` steps, or never (None).

    The reward of step k is k + 1. Action 1 wins: success is that the last action was 1.
    """

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012
    observation_space = spaces.Text(100)
    action_space = spaces.Discrete(2)

    def __init__(self, length: int | None = 3, limit: int | None = None, says_success: bool = True, **info: Any):
        self.length, self.limit, self.says_success, self.extra_info = length, limit, says_success, info
        self.render_mode = None
        self.actions: list[int] = []

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        self.start, self.actions = int(self.np_random.integers(10**6)), []
        return self._words(), self._info()

    def step(self, action: int) -> tuple[str, float, bool, bool, dict[str, Any]]:
        self.actions.append(action)
        terminated = self.length is not None and len(self.actions) >= self.length
        truncated = self.limit is not None and len(self.actions) >= self.limit
        info = self._info()
        if (terminated or truncated) and self.says_success:
            info |= {"success": action == 1, "progress": 0.5}
        return self._words(), float(len(self.actions)), terminated, truncated, info

    def _words(self) -> str:
        return f"start {self.start:06d} played {self.actions}"

    def _info(self) -> dict[str, Any]:
        return {"facts": {"played": str(len(self.actions))}, **self.extra_info}


def text_task(make_env: Callable[[], gym.Env], rewards: tuple = (), reward_scale: float = 1.0, **options: Any) -> Task:
    return Task(make_env, Interface.for_env(make_env(), **options), rewards, reward_scale)


# ----------------------------------------------------------------------------------------------- players


class ScriptedPolicy:
    """Writes what `text` says for a turn: a function of the turn alone, as a seeded model is."""

    asks_expert = False

    def __init__(self, text: Callable[[Turn], str], context: int | None = None):
        self.text = text
        self.context = context  # in characters of the prompt
        self.batches: list[list[Turn]] = []

    def decide(self, turns: Sequence[Turn]) -> list[Decision]:
        self.batches.append(list(turns))
        completions = [Completion(self.text(t)) for t in turns]
        return [
            Decision(c, t.interface.parse(c, t.legal_actions), ExecutedBy.POLICY)
            for t, c in zip(turns, completions, strict=True)
        ]

    def fits(self, interface: Interface, messages: Sequence[Message]) -> bool:
        return self.context is None or len(prompt_text(messages)) <= self.context


def seeded_text(turn: Turn) -> str:
    """A random action of the turn's own seed; now and then nonsense."""
    rng = generator("fake policy", turn.seed)
    names = turn.interface.codec.names
    name = names[rng.integers(len(names))]
    return "nonsense" if rng.random() < 0.2 else f'{{"action": "{name}"}}'


def always(name: str) -> ScriptedPolicy:
    return ScriptedPolicy(lambda turn: f'{{"action": "{name}"}}')


def nonsense() -> ScriptedPolicy:
    return ScriptedPolicy(lambda turn: "nonsense")


def prompt_text(messages: Sequence[Message]) -> str:
    return " ".join(p.text for m in messages for p in m.parts if isinstance(p, TextPart))


# ----------------------------------------------------------------------------------------------- records


def step(
    completion: Completion | None = None,
    parse: Any = None,
    reward: float = 0.0,
    messages: tuple[Message, ...] = (),
    executed_by: ExecutedBy = ExecutedBy.POLICY,
    **fields: Any,
) -> Step:
    completion = completion or Completion("x")
    return Step(messages, completion, parse, 0, executed_by, RewardBreakdown({"environment": reward}), **fields)


def trajectory(steps: list[Step], stop_reason: StopReason = StopReason.TERMINATED, **fields: Any) -> Trajectory:
    return Trajectory(**({"task": 0, "episode": 0, "seed": 0} | fields), steps=steps, stop_reason=stop_reason)


def said(messages: Sequence[Message] | None) -> list[tuple] | None:
    """A prompt in plain values that can be compared: completions have no equality of their own."""
    if messages is None:
        return None
    return [(m.role, m.parts, m.completion and encode_completion(m.completion)) for m in messages]


def summary(trajectories: Sequence[Trajectory]) -> list[tuple]:
    """What was played, in plain values that can be compared."""
    return [
        (
            t.episode, t.seed, t.first_step, str(t.stop_reason), t.success, t.return_before, t.fallbacks_before,
            [(said(s.messages), s.completion.text, s.action, s.executed_by, dict(s.reward.terms), dict(s.facts)) for s in t.steps],
        )
        for t in trajectories
    ]  # fmt: skip
