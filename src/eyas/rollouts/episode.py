"""The episode that a slot plays: what its environment told, what was shown and done, and the record that comes of it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from eyas.envs.host import EnvOutcome
from eyas.interface import Interface
from eyas.interface.history import PastStep, Shown
from eyas.rollouts.actors import Decision, Turn
from eyas.rollouts.task import Task
from eyas.seeding import generator
from eyas.types import (
    Completion,
    ExecutedBy,
    ExpertMove,
    FailureEffect,
    FinishReason,
    ImageStore,
    Message,
    ParsedAction,
    RewardBreakdown,
    Step,
    StopReason,
    Trajectory,
)

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
    moves: tuple[Any, ...] = ()  # of that step; none where the environment is not stepped

    @property
    def interface(self) -> Interface:
        return self.task.interface

    def decide(self, turn: Turn, decision: Decision, fallback_seed: int, images: ImageStore) -> StopReason | None:
        """What a decision, or the configured effect of a parse failure, does: `moves` are to be played next.

        Where there are none, the same observation is shown again. Returns why the episode ends, where it does.
        """
        self.moves = ()
        if decision.completion.finish_reason is FinishReason.OVERFLOW:
            return StopReason.CONTEXT_OVERFLOW
        interface, action, effect = turn.interface, None, None
        if isinstance(decision.parse, ParsedAction):
            action = decision.parse.action
        else:
            effect = interface.on_parse_failure
            self.parse_failures += 1
            if effect in (FailureEffect.RANDOM_LEGAL, FailureEffect.PENALTY):
                action = interface.random_action(generator(fallback_seed), turn.legal_actions)
        step = self._record(turn, decision, action, effect)
        if action is not None:
            self.step, self.moves = step, interface.moves(action)
            return None
        self.add(step)
        if effect is FailureEffect.END or self.parse_failures >= interface.max_parse_failures:
            return StopReason.PARSE_FAILURE
        self.show_again(images)
        return None

    def _record(self, turn: Turn, decision: Decision, action: Any, effect: FailureEffect | None) -> Step:
        """The record of a decision, before the environment has answered."""
        terms = {"environment": 0.0}
        if effect in (FailureEffect.PENALTY, FailureEffect.END):
            terms["parse_failure"] = turn.interface.parse_failure_penalty
        return Step(
            messages=turn.messages,
            completion=decision.completion,
            parse=decision.parse,
            action=action,
            executed_by=decision.executed_by if effect is None else ExecutedBy.FALLBACK,
            reward=RewardBreakdown(terms, self.task.reward_scale),
            facts=self.told.facts,
            legal_actions=turn.legal_actions if turn.legal_actions is None else tuple(turn.legal_actions),
            action_name=None if action is None else turn.interface.name_of(action),
            expert_move=turn.expert_move,
        )

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
        """What was played since the last cut, without the extra rewards."""
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


def add_rewards(task: Task, trajectories: Sequence[Trajectory]) -> None:
    """Adds the task's extra terms to the steps of its trajectories. Raises whatever a reward raises."""
    for reward, coefficient in task.rewards:
        for trajectory, values in zip(trajectories, reward(trajectories), strict=True):
            for step, value in zip(trajectory.steps, values, strict=True):
                step.reward = replace(step.reward, terms={**step.reward.terms, reward.name: coefficient * value})
