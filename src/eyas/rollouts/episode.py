"""The episode that a slot plays: what its environment told, what was shown and done, and the record that comes of it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from eyas.envs.host import EnvOutcome
from eyas.interface import Interface
from eyas.interface.history import PastStep, Shown
from eyas.rollouts.task import Task
from eyas.types import Completion, ExpertMove, ImageStore, Message, Step, StopReason, Trajectory

# Ends that the task knows nothing of.
_OUTSIDE = {StopReason.PARSE_FAILURE, StopReason.CONTEXT_OVERFLOW, StopReason.GUIDANCE}

# What reading a broken answer of an environment raises, and an observer that meets one: they cost the episode alone.
BROKEN = (ValueError, TypeError, KeyError, IndexError, AttributeError)


# ----------------------------------------------------------------------------------------------- what info says


@dataclass(frozen=True, slots=True)
class Told:
    """What an environment says in its info, in the types that records hold."""

    facts: Mapping[str, str] = field(default_factory=dict)
    success: bool | None = None
    progress: float | None = None
    legal_actions: tuple[Any, ...] | None = None  # None: every action, or nothing is decided any more


def told(interface: Interface, info: Mapping[str, Any], goes_on: bool) -> Told:
    """Reads an info; legal actions only where the episode goes on.

    `facts` that are no mapping are those of another library, and left out. Raises ValueError or TypeError for what is not
    of its type, and where no action is legal.
    """
    facts, success, progress = info.get("facts"), info.get("success"), info.get("progress")
    legal = interface.legal_actions(info) if goes_on else None
    if legal is not None and not len(legal):
        raise ValueError("the environment left no legal action: an episode without one has to end")
    return Told(
        {str(k): str(v) for k, v in facts.items()} if isinstance(facts, Mapping) else {},  # it may reuse its info
        None if success is None else bool(np.asarray(success).item()),
        None if progress is None else _finite(progress),
        legal,
    )


def _finite(progress: Any) -> float:
    number = float(np.asarray(progress).item())
    if not math.isfinite(number):
        raise ValueError(f'info["progress"] is {progress}: it must be a number from 0 to 1')
    return number


# ----------------------------------------------------------------------------------------------- a running episode


@dataclass(slots=True)
class Running:
    """The episode that a slot plays."""

    slot: int
    task_index: int
    task: Task
    episode: int
    group: int
    seed: int
    told: Told = field(default_factory=Told)
    expert_move: ExpertMove | None = None
    messages: tuple[Message, ...] = ()  # the prompt of the next step
    shown: Shown | None = None  # what it shows of the last observation
    past: list[PastStep] = field(default_factory=list)  # of the whole episode
    actions: list[Any] = field(default_factory=list)  # of the whole episode; None where the environment was not stepped
    steps: list[Step] = field(default_factory=list)  # since the last cut
    return_before: float = 0.0
    fallbacks_before: int = 0
    parse_failures: int = 0
    step: Step | None = None  # whose outcome the environment has not told yet
    moves: tuple[Any, ...] = ()  # of that step

    @property
    def interface(self) -> Interface:
        return self.task.interface

    def take(self, outcome: EnvOutcome, images: ImageStore) -> StopReason | None:
        """What a reset or a step led to. Returns why the episode ended, where it did; raises one of BROKEN."""
        step, self.step = self.step, None
        if step is not None:
            step.reward = replace(step.reward, terms={**step.reward.terms, "environment": outcome.reward})
            if outcome.num_moves < len(self.moves):  # the record holds what was played
                step.action = step.action[: outcome.num_moves]
                step.action_name = self.interface.name_of(step.action)
            self.add(step)
        self.look(outcome, images)
        if outcome.terminated:
            return StopReason.TERMINATED
        return StopReason.TRUNCATED if outcome.truncated else None

    def look(self, outcome: EnvOutcome, images: ImageStore) -> None:
        """Reads what the environment says, and makes the prompt of what it shows. Raises one of BROKEN."""
        self.told, self.expert_move = told(self.interface, outcome.info, not outcome.has_ended), outcome.expert_move
        if not outcome.terminated:  # nothing is decided, nor bootstrapped, after the end
            self.show(self.interface.observe(outcome.observation, outcome.info, outcome.frame, images), images)

    def show(self, shown: Shown, images: ImageStore) -> None:
        """Makes the prompt of the next step."""
        self.messages = self.interface.prompt(self.past, self.messages, shown, images)
        self.shown = shown

    def show_again(self, images: ImageStore) -> None:
        """The same observation once more."""
        assert self.shown is not None
        self.show(self.shown, images)

    def add(self, step: Step) -> None:
        self.steps.append(step)
        self.remember(step.completion, step.action)

    def remember(self, completion: Completion, action: Any) -> None:
        """What later prompts may show of a step; no more of it than the history looks back."""
        assert self.shown is not None
        self.actions.append(action)
        name = None if action is None else self.interface.name_of(action)
        self.past.append(PastStep(self.shown, completion, name))
        depth = self.interface.history.depth
        if depth is not None:
            del self.past[: max(0, len(self.past) - depth)]

    # ------------------------------------------------------------------------------------- the record

    def close(self, reason: StopReason) -> Trajectory:
        """What was played since the last cut. Raises whatever a reward raises."""
        is_over = reason is not StopReason.CUT
        trajectory = Trajectory(
            task=self.task_index,
            episode=self.episode,
            seed=self.seed,
            steps=self.steps,
            stop_reason=reason,
            final_messages=self.messages if reason.is_bootstrapped else None,
            group=self.group,
            progress=self.told.progress if is_over else None,
            first_step=len(self.actions) - len(self.steps),
            return_before=self.return_before,
            fallbacks_before=self.fallbacks_before,
        )
        if is_over:
            trajectory.success = self._success(trajectory)
        for reward, coefficient in self.task.rewards:
            for step, value in zip(trajectory.steps, reward(trajectory), strict=True):
                step.reward = replace(step.reward, terms={**step.reward.terms, reward.name: coefficient * value})
        self.return_before, self.fallbacks_before = trajectory.total_return, trajectory.num_fallbacks
        self.steps = []
        return trajectory

    def _success(self, trajectory: Trajectory) -> bool | None:
        """What the environment says; else what the task's return says; else that an end outside it is no success."""
        if self.told.success is not None:
            return self.told.success
        if self.task.success_return is not None:
            return trajectory.total_return >= self.task.success_return
        is_outside = trajectory.stop_reason in _OUTSIDE
        return False if is_outside else None
