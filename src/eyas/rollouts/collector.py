"""Plays episodes: a fixed set of them, all awaited, or a fixed number of steps with the cut ones bootstrapped.

Never the first N to finish, which would favour short episodes. All randomness of an episode derives from
(run seed, split, episode, step), and which episodes a slot plays from its number, so that neither the number of worker
processes nor their speed changes what is played.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from eyas.config import WorkersConfig
from eyas.envs.host import EnvError, EnvOutcome, EnvSource
from eyas.envs.pool import EnvPool, LocalPool, make_pool
from eyas.errors import EnvironmentFailure, EyasError
from eyas.interface.history import PastStep, Shown
from eyas.rollouts.actors import Actor, Decision, Turn
from eyas.rollouts.encoding import decode_action, decode_completion, encode_action, encode_completion
from eyas.rollouts.task import Task
from eyas.seeding import Split, derive_seed, environment_seed, generator
from eyas.types import (
    Completion,
    ExecutedBy,
    ExpertMove,
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
class Running:
    """The episode that a slot plays."""

    slot: int
    task_index: int
    episode: int
    group: int
    seed: int
    info: Mapping[str, Any] = field(default_factory=dict)
    legal_actions: tuple[Any, ...] | None = None
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


class Collector:
    """Keeps `num_envs` environments busy. Use `episodes` or `steps`; both return trajectories ordered by episode."""

    def __init__(
        self,
        actor: Actor,
        tasks: Sequence[Task],
        images: ImageStore,
        run_seed: int,
        split: Split,
        num_envs: int,
        group_size: int = 1,
        max_failures_in_a_row: int = 5,
        first_episode: int = 0,
        workers: WorkersConfig = WorkersConfig(),  # noqa: B008  (frozen)
    ):
        self.actor = actor
        self.tasks = tasks
        self.images = images
        self.run_seed = run_seed
        self.split = split
        self.num_envs = num_envs
        self.group_size = group_size
        self.max_failures_in_a_row = max_failures_in_a_row
        self.first_episode = first_episode
        self.next_episode = first_episode  # of `episodes`, for the caller to count
        self.env_failures = 0  # since the last call
        self.lost_episodes: list[int] = []  # in the last call
        self.pool: EnvPool = make_pool(
            [EnvSource(t.make_env, t.interface.renders, t.expert if actor.asks_expert else None) for t in tasks],
            workers.count,
            workers.reset_timeout_s,
            workers.step_timeout_s,
        )
        self._running: dict[int, Running] = {}  # slot -> the episode that it plays
        self._pending: set[int] = set()  # slots whose environment works
        self._begun = [0] * num_envs  # episodes that each slot began in `steps`
        self._failures_in_a_row = [0] * num_envs  # of each slot: many may fail before any episode ends
        self._starts: dict[int, tuple[tuple[Message, ...], int]] = {}  # group -> first prompt, and how many began
        self._done: list[Trajectory] = []

    # ------------------------------------------------------------------------------------- the two ways to collect

    def episodes(self, episodes: Sequence[int], on_step: Callable[[int], None] | None = None) -> list[Trajectory]:
        """Plays just these episodes to their ends. Lost ones are left out and named in `lost_episodes`."""
        self._begin()
        waiting = list(reversed(episodes))

        def next_of(slot: int) -> int | None:
            return waiting.pop() if waiting else None

        def on_decisions(slots: Sequence[int]) -> None:
            if on_step:
                on_step(len(self._done))

        self._play(next_of, lambda slot: True, on_decisions)
        return self._finish()

    def steps(self, steps_per_env: int) -> list[Trajectory]:
        """Steps every environment this often. Episodes that still run are cut, and go on in the next call."""
        self._begin()
        left = [steps_per_env] * self.num_envs

        def next_of(slot: int) -> int | None:
            if not left[slot]:
                return None
            self._begun[slot] += 1
            return self.first_episode + (self._begun[slot] - 1) * self.num_envs + slot

        def on_decisions(slots: Sequence[int]) -> None:
            for slot in slots:
                left[slot] -= 1

        self._play(next_of, lambda slot: left[slot] > 0, on_decisions)
        for running in list(self._running.values()):
            if running.steps:
                self._close(running, StopReason.CUT)
        return self._finish()

    def _play(
        self,
        next_of: Callable[[int], int | None],
        goes_on: Callable[[int], bool],
        on_decisions: Callable[[Sequence[int]], None],
    ) -> None:
        """Until no slot has anything left to play. `next_of` names a free slot's next episode, None where there is none."""
        while True:
            self._fill(next_of)
            ready = [s for s in sorted(self._running) if s not in self._pending and goes_on(s)]
            if self._pending and (isinstance(self.pool, LocalPool) or len(ready) < len(self._pending)):
                self._take_answers()
            elif ready:
                self._decide([self._running[s] for s in ready])
                on_decisions(ready)
            else:
                return

    def close(self) -> None:
        self.pool.close()
        self._running, self._pending = {}, set()

    def image_hashes(self, episodes_below: int = 0) -> set[str]:
        """The pictures that running episodes show, and all those of episodes with a lower number."""
        prompts = [r.messages for r in self._running.values()]
        prompts += [step.messages for r in self._running.values() if r.episode < episodes_below for step in r.steps]
        prompts += [step.messages for t in self._done if t.episode < episodes_below for step in t.steps]
        prompts += [t.final_messages or () for t in self._done if t.episode < episodes_below]
        hashes = {p.image_hash for messages in prompts for m in messages for p in m.parts if isinstance(p, ImagePart)}
        looked_back_at = [p for r in self._running.values() if self._interface(r).history.depth for p in r.past]
        return hashes | {p.image_hash for step in looked_back_at for p in step.shown.pictures}

    def _begin(self) -> None:
        self._done, self.env_failures, self.lost_episodes = [], 0, []

    def _finish(self) -> list[Trajectory]:
        self.lost_episodes.sort()
        return sorted(self._done, key=lambda t: (t.episode, t.first_step))

    # ------------------------------------------------------------------------------------- one episode

    def _task_of(self, group: int) -> int:
        weights = np.array([t.weight for t in self.tasks])
        if len(weights) == 1:
            return 0
        return int(
            generator("task", self.run_seed, int(self.split), group).choice(len(weights), p=weights / weights.sum())
        )

    def _fill(self, next_of: Callable[[int], int | None]) -> None:
        for slot in range(self.num_envs):
            if slot not in self._running:
                episode = next_of(slot)
                if episode is not None:
                    self._start(slot, episode)

    def _start(self, slot: int, episode: int) -> None:
        group = episode // self.group_size
        task_index = self._task_of(group)
        seed = environment_seed(self.run_seed, self.split, group)
        self._running[slot] = Running(slot, task_index, episode, group, seed)
        self._pending.add(slot)
        self.pool.start(slot, task_index, seed)

    def _take_answers(self) -> None:
        for slot, answer in self.pool.answers():
            self._pending.discard(slot)
            running = self._running[slot]
            if isinstance(answer, EnvError):
                self._lose(running, answer)
                continue
            try:
                reason = self._take(running, answer)
            except ValueError as error:  # what cannot be shown, or legal actions that are none of the space's
                self._lose(running, EnvError("raised", f"{type(error).__name__}: {error}", str(error)))
                continue
            if reason is not StopReason.TERMINATED and not self.actor.fits(self._interface(running), running.messages):
                self._overflow(running, reason or StopReason.CONTEXT_OVERFLOW)
            elif reason:  # not among what may fail above: a mistake in a reward is no failure of the environment
                self._close(running, reason)

    def _take(self, running: Running, outcome: EnvOutcome) -> StopReason | None:
        """What a reset or a step led to. Returns why the episode ended, where it did."""
        running.info, running.expert_move = outcome.info, outcome.expert_move
        step, running.step = running.step, None
        if step is not None:
            step.reward = replace(step.reward, terms={**step.reward.terms, "environment": outcome.reward})
            self._add(running, step)
        if not outcome.terminated:  # nothing is decided, nor bootstrapped, after the end
            interface = self._interface(running)
            shown = interface.observe(outcome.observation, outcome.info, outcome.frame, self.images)
            running.legal_actions = interface.legal_actions(outcome.info)
            self._show(running, shown)
            if step is None:
                self._check_group(running)
        if outcome.terminated:
            return StopReason.TERMINATED
        return StopReason.TRUNCATED if outcome.truncated else None

    def _show(self, running: Running, shown: Shown) -> None:
        """Makes the prompt of the next step."""
        interface = self._interface(running)
        running.messages = interface.prompt(running.past, running.messages, shown, self.images)
        running.shown = shown

    def _check_group(self, running: Running) -> None:
        """The episodes of a group share their seed, so they have to begin alike: what is learned compares them."""
        first, begun = self._starts.pop(running.group, (running.messages, 0))
        if first != running.messages:
            raise EyasError(
                f"two episodes of {self.tasks[running.task_index].env_id or 'the task'} with seed {running.seed} began "
                "differently: reset(seed=...) has to decide the start (type `eyas env check ID`), or use groups of one"
            )
        if begun + 1 < self.group_size:  # the others may begin in a later call
            self._starts[running.group] = first, begun + 1

    def _lose(self, running: Running, error: EnvError) -> None:
        """Drops an episode whose environment failed. It never becomes a reward."""
        slot = running.slot
        del self._running[slot]
        self.env_failures += 1
        self.lost_episodes.append(running.episode)
        self._failures_in_a_row[slot] += 1
        log.warning("episode %d was lost, its environment %s: %s", running.episode, error.kind, error.message)
        if self._failures_in_a_row[slot] >= self.max_failures_in_a_row:
            raise EnvironmentFailure(
                f"{self._failures_in_a_row[slot]} environment failures in a row; the last ({error.kind}):\n"
                + (error.traceback or error.message)
            )

    def _close(self, running: Running, reason: StopReason) -> None:
        """Records what the slot saw since the last cut as a trajectory."""
        task = self.tasks[running.task_index]
        is_over = reason is not StopReason.CUT
        progress = running.info.get("progress")
        trajectory = Trajectory(
            task=running.task_index,
            episode=running.episode,
            seed=running.seed,
            steps=running.steps,
            stop_reason=reason,
            final_messages=running.messages if reason.is_bootstrapped else None,
            group=running.group,
            progress=float(progress) if is_over and progress is not None else None,
            first_step=len(running.actions) - len(running.steps),
            return_before=running.return_before,
            fallbacks_before=running.fallbacks_before,
        )
        if is_over:
            trajectory.success = self._success(task, running.info, trajectory)
        for reward, coefficient in task.rewards:
            for step, value in zip(trajectory.steps, reward(trajectory), strict=True):
                step.reward = replace(step.reward, terms={**step.reward.terms, reward.name: coefficient * value})
        self._done.append(trajectory)
        running.return_before, running.fallbacks_before = trajectory.total_return, trajectory.num_fallbacks
        running.steps = []
        if is_over:
            del self._running[running.slot]
        self._failures_in_a_row[running.slot] = 0

    @staticmethod
    def _success(task: Task, info: Mapping[str, Any], trajectory: Trajectory) -> bool | None:
        """What the environment says; else what the task's return says; else that an end outside it is no success."""
        if info.get("success") is not None:
            return bool(info["success"])
        if task.success_return is not None:
            return trajectory.total_return >= task.success_return
        is_outside = trajectory.stop_reason in (StopReason.PARSE_FAILURE, StopReason.CONTEXT_OVERFLOW)
        return False if is_outside else None

    # ------------------------------------------------------------------------------------- one step of some slots

    def _interface(self, running: Running) -> Any:
        return self.tasks[running.task_index].interface

    def _overflow(self, running: Running, reason: StopReason = StopReason.CONTEXT_OVERFLOW) -> None:
        if not running.steps:
            raise EyasError(
                f"the prompt of {self.tasks[running.task_index].env_id or 'the task'} does not fit into the model's context: "
                "shorten the task text, lower max_new_tokens, or take a model with a longer context"
            )
        running.messages = running.steps[-1].messages  # the last prompt that the critic can read
        self._close(running, reason)

    def _seed(self, purpose: str, running: Running) -> int:
        return derive_seed(purpose, self.run_seed, int(self.split), running.episode, len(running.actions))

    def _decide(self, ready: Sequence[Running]) -> None:
        turns = [
            Turn(self._interface(r), r.messages, r.legal_actions, self._seed("turn", r), r.expert_move) for r in ready
        ]
        for running, turn, decision in zip(ready, turns, self.actor.decide(turns), strict=True):
            self._apply(running, turn, decision)

    def _apply(self, running: Running, turn: Turn, decision: Decision) -> None:
        """Hands a decision to the environment, or the configured effect of a parse failure."""
        task, interface = self.tasks[running.task_index], turn.interface
        if isinstance(decision.parse, ParsedAction):
            action, effect = decision.parse.action, None
        else:
            effect = interface.on_parse_failure
            action = self._fallback_action(running, effect, turn)
        terms = {"environment": 0.0}
        if effect in (FailureEffect.PENALTY, FailureEffect.END):
            terms["parse_failure"] = interface.parse_failure_penalty
        running.parse_failures += effect is not None
        step = Step(
            messages=running.messages,
            completion=decision.completion,
            parse=decision.parse,
            action=action,
            executed_by=decision.executed_by if effect is None else ExecutedBy.FALLBACK,
            reward=RewardBreakdown(terms, task.reward_scale),
            facts=dict(running.info.get("facts") or {}),  # environments reuse their info
            legal_actions=None if turn.legal_actions is None else tuple(turn.legal_actions),
            action_name=None if action is None else interface.name_of(action),
        )
        if action is not None:
            running.step = step
            self._pending.add(running.slot)
            self.pool.step(running.slot, interface.moves(action))
            return
        self._add(running, step)
        if effect is FailureEffect.END or running.parse_failures >= interface.max_parse_failures:
            self._close(running, StopReason.PARSE_FAILURE)
            return
        assert running.shown is not None
        self._show(running, running.shown)  # the same observation once more
        if not self.actor.fits(interface, running.messages):
            self._overflow(running)

    def _add(self, running: Running, step: Step) -> None:
        running.steps.append(step)
        self._remember(running, step.completion, step.action)

    def _remember(self, running: Running, completion: Completion, action: Any) -> None:
        """What later prompts may show of a step; no more of it than the history looks back."""
        assert running.shown is not None
        interface = self._interface(running)
        running.actions.append(action)
        name = None if action is None else interface.name_of(action)
        running.past.append(PastStep(running.shown, completion, name))
        depth = interface.history.depth
        if depth is not None:
            del running.past[: max(0, len(running.past) - depth)]

    def _fallback_action(self, running: Running, effect: FailureEffect, turn: Turn) -> Any:
        if effect in (FailureEffect.RANDOM_LEGAL, FailureEffect.PENALTY):
            return turn.interface.random_action(generator(self._seed("fallback", running)), turn.legal_actions)
        return None

    # ------------------------------------------------------------------------------------- resuming

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs: running episodes are replayed from their seeds and actions."""
        running = [
            {
                "slot": r.slot,
                "episode": r.episode,
                "actions": [encode_action(a) for a in r.actions],
                # in a conversation, what the model wrote belongs to the prompts to come
                "completions": [encode_completion(m.completion) for m in r.messages if m.completion is not None],
                "return_before": r.return_before,
                "fallbacks_before": r.fallbacks_before,
                "parse_failures": r.parse_failures,
            }
            for _, r in sorted(self._running.items())
        ]
        return {"next_episode": self.next_episode, "begun": list(self._begun), "running": running}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.next_episode, self._begun = state["next_episode"], list(state["begun"])
        for told in state["running"]:
            self._start(told["slot"], told["episode"])
        waiting = {told["slot"]: told for told in state["running"]}
        while self._pending:
            for slot, answer in self.pool.answers():
                self._pending.discard(slot)
                self._replay(self._running[slot], answer, waiting[slot])

    def _replay(self, running: Running, answer: EnvOutcome | EnvError, told: Mapping[str, Any]) -> None:
        """Takes one outcome of an episode that is played again, and plays its next action."""
        if isinstance(answer, EnvError):
            self._lose(running, answer)
            return
        if answer.has_ended:  # a running episode had not
            message = "the episode ended before the record does: the environment does not repeat itself"
            self._lose(running, EnvError("raised", message))
            return
        interface = self._interface(running)
        running.info, running.expert_move = answer.info, answer.expert_move
        shown = interface.observe(answer.observation, answer.info, answer.frame, self.images)
        running.legal_actions = interface.legal_actions(answer.info)
        self._show(running, shown)
        if not running.actions:
            self._check_group(running)
        while len(running.actions) < len(told["actions"]):
            index = len(running.actions)
            action = decode_action(told["actions"][index])
            written = decode_completion(told["completions"][index]) if told["completions"] else Completion("")
            self._remember(running, written, action)
            if action is not None:
                self._pending.add(running.slot)
                self.pool.step(running.slot, interface.moves(action))
                return
            self._show(running, shown)
        running.return_before, running.fallbacks_before = told["return_before"], told["fallbacks_before"]
        running.parse_failures = told["parse_failures"]
