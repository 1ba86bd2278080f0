"""Plays episodes: a fixed set of them, all awaited, or a fixed number of steps with the cut ones bootstrapped.

Never the first N to finish, which would favour short episodes. All randomness of an episode derives from
(run seed, split, episode, step), so neither the number of environments nor their order changes what is played.
"""

import logging
import math
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from eyas.errors import EnvironmentFailure, EyasError
from eyas.rollouts.actors import Actor, Decision, Turn
from eyas.rollouts.task import Task
from eyas.seeding import Split, derive_seed, environment_seed, generator
from eyas.types import (
    ExecutedBy,
    FailureEffect,
    ImagePart,
    ImageStore,
    Message,
    ParsedAction,
    RewardBreakdown,
    Step,
    StopReason,
    Trajectory,
)

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Slot:
    """One environment and the episode that it plays."""

    index: int
    task_index: int
    env: gym.Env
    episode: int = -1
    group: int = -1
    seed: int = 0
    observation: Any = None
    info: Mapping[str, Any] = field(default_factory=dict)
    messages: tuple[Message, ...] = ()
    actions: list[Any] = field(default_factory=list)  # of the whole episode; None where the environment was not stepped
    steps: list[Step] = field(default_factory=list)  # since the last cut
    return_before: float = 0.0
    fallbacks_before: int = 0
    parse_failures: int = 0
    is_active: bool = False


class Collector:
    """Keeps `num_envs` environments busy. Use `episodes` or `steps`; both return trajectories ordered by episode."""

    def __init__(
        self,
        tasks: Sequence[Task],
        images: ImageStore,
        run_seed: int,
        split: Split,
        num_envs: int,
        group_size: int = 1,
        max_failures_in_a_row: int = 5,
        first_episode: int = 0,
    ):
        self.tasks = tasks
        self.images = images
        self.run_seed = run_seed
        self.split = split
        self.group_size = group_size
        self.max_failures_in_a_row = max_failures_in_a_row
        self.slots: list[Slot | None] = [None] * num_envs
        self.next_episode = first_episode
        self.env_failures = 0  # since the last call
        self.lost_episodes: list[int] = []  # in the last call
        self._failures_in_a_row = [0] * num_envs  # of each slot: in lock-step many may fail before any episode ends
        self._done: list[Trajectory] = []

    # ------------------------------------------------------------------------------------- the two ways to collect

    def episodes(
        self, actor: Actor, episodes: Sequence[int], on_step: Callable[[int], None] | None = None
    ) -> list[Trajectory]:
        """Plays just these episodes to their ends. Lost ones are left out and named in `lost_episodes`."""
        self._begin()
        waiting = list(reversed(episodes))
        while waiting or any(s and s.is_active for s in self.slots):
            for index in range(len(self.slots)):
                while waiting and not self._is_active(index):
                    self._start(index, waiting.pop())
            self._advance(actor)
            if on_step:
                on_step(len(self._done))
        return self._finish()

    def steps(self, actor: Actor, steps_per_env: int) -> list[Trajectory]:
        """Steps every environment this often. Episodes that still run are cut, and go on in the next call."""
        self._begin()
        for _ in range(steps_per_env):
            for index in range(len(self.slots)):
                while not self._is_active(index):
                    self._start(index, self.next_episode)
                    self.next_episode += 1
            self._advance(actor)
        for slot in self.slots:
            if slot and slot.is_active and slot.steps:
                if actor.fits(self.tasks[slot.task_index].interface, slot.messages):
                    self._close(slot, StopReason.CUT)
                else:
                    self._overflow(slot)
        return self._finish()

    def close(self) -> None:
        for slot in self.slots:
            if slot:
                slot.env.close()
        self.slots = [None] * len(self.slots)

    def image_hashes(self, episodes_below: int = 0) -> set[str]:
        """The pictures that running episodes show, and those of finished episodes with a lower number."""
        prompts = [s.messages for s in self.slots if s and s.is_active]
        prompts += [step.messages for t in self._done if t.episode < episodes_below for step in t.steps]
        return {p.image_hash for messages in prompts for m in messages for p in m.parts if isinstance(p, ImagePart)}

    def _begin(self) -> None:
        self._done, self.env_failures, self.lost_episodes = [], 0, []

    def _finish(self) -> list[Trajectory]:
        return sorted(self._done, key=lambda t: (t.episode, t.first_step))

    def _is_active(self, index: int) -> bool:
        slot = self.slots[index]
        return slot is not None and slot.is_active

    # ------------------------------------------------------------------------------------- one episode

    def _task_of(self, group: int) -> int:
        weights = np.array([t.weight for t in self.tasks])
        if len(weights) == 1:
            return 0
        return int(
            generator("task", self.run_seed, int(self.split), group).choice(len(weights), p=weights / weights.sum())
        )

    def _start(self, index: int, episode: int) -> None:
        """Begins an episode in a slot; where the environment fails, the episode is lost and the slot stays idle."""
        group = episode // self.group_size
        task_index = self._task_of(group)
        slot = self.slots[index]
        try:
            if slot is None or slot.task_index != task_index:
                if slot:
                    slot.env.close()
                self.slots[index] = slot = Slot(index, task_index, self.tasks[task_index].make_env())
            seed = environment_seed(self.run_seed, self.split, group)
            slot = self.slots[index] = Slot(index, task_index, slot.env, episode, group, seed, is_active=True)
            slot.observation, slot.info = slot.env.reset(seed=seed)
            self._render(slot)
        except EyasError:
            raise
        except Exception as error:
            self._lose(index, episode, error)

    def _render(self, slot: Slot) -> None:
        interface = self.tasks[slot.task_index].interface
        frame = slot.env.render() if interface.image_source == "render" else None
        slot.messages = interface.render(slot.observation, slot.info, frame, self.images)  # type: ignore[arg-type]

    def _lose(self, index: int, episode: int, error: Exception) -> None:
        """Drops an episode whose environment raised, and its environment with it. It never becomes a reward."""
        slot = self.slots[index]
        self.slots[index] = None
        self.env_failures += 1
        self.lost_episodes.append(episode)
        self._failures_in_a_row[index] += 1
        log.warning("episode %d was lost, its environment raised %r", episode, error)
        if slot:
            try:
                slot.env.close()
            except Exception as closing:
                log.warning("closing the failed environment raised %r", closing)
        if self._failures_in_a_row[index] >= self.max_failures_in_a_row:
            raise EnvironmentFailure(
                f"{self._failures_in_a_row[index]} environment failures in a row; the last:\n"
                + "".join(traceback.format_exception(error))
            ) from error

    def _close(self, slot: Slot, reason: StopReason) -> None:
        """Records what the slot saw since the last cut as a trajectory."""
        task = self.tasks[slot.task_index]
        is_over = reason is not StopReason.CUT
        success, progress = slot.info.get("success"), slot.info.get("progress")
        trajectory = Trajectory(
            task=slot.task_index,
            episode=slot.episode,
            seed=slot.seed,
            steps=slot.steps,
            stop_reason=reason,
            final_messages=slot.messages if reason.is_bootstrapped else None,
            group=slot.group,
            success=(bool(success) if success is not None else self._default_success(reason)) if is_over else None,
            progress=float(progress) if is_over and progress is not None else None,
            first_step=len(slot.actions) - len(slot.steps),
            return_before=slot.return_before,
            fallbacks_before=slot.fallbacks_before,
        )
        for reward, coefficient in task.rewards:
            for step, value in zip(trajectory.steps, reward(trajectory), strict=True):
                terms = dict(step.reward.terms) | {reward.name: coefficient * value}
                step.reward = RewardBreakdown(terms, step.reward.environment_scale)
        self._done.append(trajectory)
        slot.return_before, slot.fallbacks_before = trajectory.total_return, trajectory.num_fallbacks
        slot.steps = []
        slot.is_active = not is_over
        self._failures_in_a_row[slot.index] = 0

    @staticmethod
    def _default_success(reason: StopReason) -> bool | None:
        """An episode that ends outside the environment did not succeed; else the task alone can say."""
        return False if reason in (StopReason.PARSE_FAILURE, StopReason.CONTEXT_OVERFLOW) else None

    # ------------------------------------------------------------------------------------- one step of every slot

    def _advance(self, actor: Actor) -> None:
        waiting = []
        for index, slot in enumerate(self.slots):
            if slot is None or not slot.is_active:
                continue
            if actor.fits(self.tasks[slot.task_index].interface, slot.messages):
                waiting.append((index, slot))
            else:
                self._overflow(slot)
        turns = [self._turn(slot) for _, slot in waiting]
        for (index, slot), decision in zip(waiting, actor.decide(turns) if turns else [], strict=True):
            try:
                reason = self._apply(slot, decision)
            except EyasError:
                raise
            except Exception as error:
                self._lose(index, slot.episode, error)
                continue
            if reason:  # not among what may fail above: a mistake in a reward is no failure of the environment
                self._close(slot, reason)

    def _overflow(self, slot: Slot) -> None:
        if not slot.steps:
            raise EyasError(
                f"the prompt of {self.tasks[slot.task_index].env_id or 'the task'} does not fit into the model's context: "
                "shorten the task text, lower max_new_tokens, or take a model with a longer context"
            )
        slot.messages = slot.steps[-1].messages  # the last prompt that the critic can read
        self._close(slot, StopReason.CONTEXT_OVERFLOW)

    def _legal_actions(self, slot: Slot) -> tuple[int, ...]:
        legal = slot.info.get("legal_actions")
        if legal is not None:
            return tuple(int(a) for a in legal)
        space = slot.env.action_space
        assert isinstance(space, spaces.Discrete)
        return tuple(range(int(space.start), int(space.start + space.n)))

    def _seed(self, purpose: str, slot: Slot) -> int:
        return derive_seed(purpose, self.run_seed, int(self.split), slot.episode, len(slot.actions))

    def _turn(self, slot: Slot) -> Turn:
        interface = self.tasks[slot.task_index].interface
        return Turn(slot.env.unwrapped, interface, slot.messages, self._legal_actions(slot), self._seed("turn", slot))

    def _apply(self, slot: Slot, decision: Decision) -> StopReason | None:
        """Executes a decision, or the configured effect of a parse failure, and records the step.

        Returns why the episode ended, where it did. Raises what the environment raises, and ValueError for a reward
        that is not finite.
        """
        task = self.tasks[slot.task_index]
        legal = self._legal_actions(slot)
        messages, facts = slot.messages, dict(slot.info.get("facts") or {})  # environments reuse their info
        if isinstance(decision.parse, ParsedAction):
            action, effect = decision.parse.action, None
        else:
            effect = task.interface.on_parse_failure
            action = self._fallback_action(slot, effect, legal)
        terminated = truncated = False
        terms = {"environment": 0.0}
        if action is not None:
            slot.observation, reward, terminated, truncated, slot.info = slot.env.step(action)
            terms["environment"] = float(reward)
            if not math.isfinite(terms["environment"]):
                raise ValueError(f"the environment's reward for action {action} is {reward}: it must be finite")
            if not terminated:  # nothing is decided, nor bootstrapped, after the end
                self._render(slot)
        if effect in (FailureEffect.PENALTY, FailureEffect.END):
            terms["parse_failure"] = task.interface.parse_failure_penalty
        slot.parse_failures += effect is not None
        slot.actions.append(action)
        slot.steps.append(
            Step(
                messages=messages,
                completion=decision.completion,
                parse=decision.parse,
                action=action,
                executed_by=decision.executed_by if effect is None else ExecutedBy.FALLBACK,
                reward=RewardBreakdown(terms, task.reward_scale),
                facts=facts,
                legal_actions=legal,
                action_name=None if action is None else task.interface.name_of(action),
            )
        )
        return self._stop_reason(slot, effect, terminated, truncated)

    def _fallback_action(self, slot: Slot, effect: FailureEffect, legal: Sequence[int]) -> int | None:
        if effect in (FailureEffect.RANDOM_LEGAL, FailureEffect.PENALTY):
            return int(generator(self._seed("fallback", slot)).choice(legal))
        return None

    def _stop_reason(
        self, slot: Slot, effect: FailureEffect | None, terminated: bool, truncated: bool
    ) -> StopReason | None:
        if terminated:
            return StopReason.TERMINATED
        if truncated:
            return StopReason.TRUNCATED
        limit = self.tasks[slot.task_index].interface.max_parse_failures
        if effect is FailureEffect.END or (effect is FailureEffect.NOOP and slot.parse_failures >= limit):
            return StopReason.PARSE_FAILURE
        return None

    # ------------------------------------------------------------------------------------- resuming

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs: running episodes are replayed from their seeds and actions."""
        running = [
            (i, s.episode, list(s.actions), s.return_before, s.fallbacks_before, s.parse_failures)
            for i, s in enumerate(self.slots)
            if s and s.is_active
        ]
        return {"next_episode": self.next_episode, "running": running}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.next_episode = state["next_episode"]
        for index, episode, actions, return_before, fallbacks_before, parse_failures in state["running"]:
            self._start(index, episode)
            slot = self.slots[index]
            if slot is None:
                continue
            try:
                self._replay(slot, actions)
            except Exception as error:
                self._lose(index, episode, error)
                continue
            slot.return_before, slot.fallbacks_before = return_before, fallbacks_before
            slot.parse_failures = parse_failures

    def _replay(self, slot: Slot, actions: Sequence[Any]) -> None:
        for action in actions:
            slot.actions.append(action)
            if action is not None:
                slot.observation, _, _, _, slot.info = slot.env.step(action)
        self._render(slot)
