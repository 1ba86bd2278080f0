"""Plays episodes: a fixed set of them, all awaited, or a fixed number of steps with the cut ones bootstrapped.

Never the first N to finish, which would favour short episodes. All randomness of an episode derives from
(run seed, split, episode, step), and which episodes a slot plays from its number, so that neither the number of worker
processes nor their speed changes what is played.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from eyas.config import WorkersConfig
from eyas.envs.host import EnvError, EnvOutcome, raised
from eyas.envs.pool import EnvPool, LocalPool, make_pool
from eyas.errors import EnvironmentFailure, EyasError, ModelError
from eyas.rollouts.actors import Actor, Decision, Turn
from eyas.rollouts.encoding import image_hashes
from eyas.rollouts.episode import BROKEN, Running, add_rewards
from eyas.rollouts.resume import repeat, state_of
from eyas.rollouts.task import Task
from eyas.seeding import Split, derive_seed, environment_seed, generator
from eyas.types import ExpertMove, ImageStore, Message, Step, StopReason, Trajectory

log = logging.getLogger(__name__)


# By a step and the expert's next move: what the step earns beside its rewards where the episode ends here; None: it goes on.
EarlyEnd = Callable[[Step, ExpertMove | None], float | None]


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
        self.early_end: EarlyEnd | None = None  # where guidance ends episodes
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
        self.moves_asked = self.moves_dropped = 0  # since the last call; dropped: after the end, or not legal any more
        self.pool: EnvPool = make_pool(
            [t.source(actor.asks_expert) for t in tasks], workers.count, workers.reset_timeout_s, workers.step_timeout_s
        )
        self._running: dict[int, Running] = {}  # slot -> the episode that it plays
        self._pending: set[int] = set()  # slots whose environment works
        self._begun = [0] * num_envs  # episodes that each slot began in `steps`
        self._failures_in_a_row = [0] * num_envs  # of each slot: many may fail before any episode ends
        self._failures_since_an_end = 0  # of all slots: a cut shows only that some steps could be played
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
        hashes = {h for messages in prompts for h in image_hashes(messages)}
        looked_back_at = [p for r in self._running.values() if r.interface.history.depth for p in r.past]
        return hashes | {p.image_hash for step in looked_back_at for p in step.shown.pictures}

    def _begin(self) -> None:
        self._done, self.env_failures, self.lost_episodes = [], 0, []
        self.moves_asked = self.moves_dropped = 0

    def _finish(self) -> list[Trajectory]:
        self.lost_episodes.sort()
        if self.split is Split.TRAIN:  # nothing else reads extra rewards, and one may cost something
            for index, task in enumerate(self.tasks):
                add_rewards(task, [t for t in self._done if t.task == index])
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
        self._running[slot] = Running(slot, task_index, self.tasks[task_index], episode, group, seed)
        self._pending.add(slot)
        self.pool.start(slot, task_index, seed)

    def _take_answers(self) -> None:
        for slot, answer in self.pool.answers():
            self._pending.discard(slot)
            self._take(self._running[slot], answer)

    def _take(self, running: Running, answer: EnvOutcome | EnvError) -> None:
        """What a reset or a step led to: the next prompt, the end of the episode, or its loss."""
        if isinstance(answer, EnvError):
            self._lose(running, answer)
            return
        has_begun = running.step is not None
        if has_begun:
            self.moves_dropped += len(running.moves) - answer.num_moves
        try:
            reason = running.take(answer, self.images)
        except BROKEN as error:
            self._lose(running, raised(error))
            return
        if not has_begun:
            self._check_group(running)
        elif reason is None:
            reason = self._guided_end(running)
        if reason is StopReason.TERMINATED or reason is StopReason.GUIDANCE:
            self._close(running, reason)
        else:
            self._go_on(running, reason)

    def _guided_end(self, running: Running) -> StopReason | None:
        step = running.steps[-1]
        earned = self.early_end(step, running.expert_move) if self.early_end else None
        if earned is None:
            return None
        step.reward = replace(step.reward, terms={**step.reward.terms, "early_end": earned})
        return StopReason.GUIDANCE

    def _go_on(self, running: Running, reason: StopReason | None = None) -> None:
        """Ends the episode where a limit outside the task was reached, or the model cannot read the next prompt."""
        try:
            fits = self.actor.fits(running.interface, running.messages)
        except ModelError as error:  # the environment may say what the model takes for a picture
            self._lose(running, raised(error))
            return
        if not fits:
            self._overflow(running, reason or StopReason.CONTEXT_OVERFLOW)
        elif reason:
            self._close(running, reason)

    def _overflow(self, running: Running, reason: StopReason = StopReason.CONTEXT_OVERFLOW) -> None:
        """Ends an episode whose next prompt the model cannot read; one whose first prompt that is, is lost."""
        if running.steps:
            running.messages = running.steps[-1].messages  # the last prompt that the critic can read
            self._close(running, reason)
        else:
            message = (
                f"the prompt of {running.task.env_id or 'the task'} does not fit into the model's context: "
                "shorten the task text, lower max_new_tokens, or take a model with a longer context"
            )
            self._lose(running, EnvError("raised", message))

    def _check_group(self, running: Running) -> None:
        """The episodes of a group share their seed, so they have to begin alike: what is learned compares them."""
        first, _ = self._starts.get(running.group, (running.messages, 0))
        if first and first != running.messages:
            raise EyasError(
                f"two episodes of {running.task.env_id or 'the task'} with seed {running.seed} began "
                "differently: reset(seed=...) has to decide the start (type `eyas env check ID`), or use groups of one"
            )
        self._count_start(running.group, running.messages)

    def _count_start(self, group: int, messages: tuple[Message, ...]) -> None:
        """Remembers how a group begins as long as more of it may begin, in a later call too; () where one was lost before."""
        first, begun = self._starts.pop(group, ((), 0))
        if begun + 1 < self.group_size:
            self._starts[group] = first or messages, begun + 1

    def _lose(self, running: Running, error: EnvError) -> None:
        """Drops an episode whose environment failed. It never becomes a reward."""
        slot = running.slot
        del self._running[slot]
        self.env_failures += 1
        self.lost_episodes.append(running.episode)
        if not running.messages:
            self._count_start(running.group, ())
        self._failures_in_a_row[slot] += 1
        self._failures_since_an_end += 1
        log.warning("episode %d was lost, its environment %s: %s", running.episode, error.kind, error.message)
        is_slot_broken = self._failures_in_a_row[slot] >= self.max_failures_in_a_row
        if is_slot_broken or self._failures_since_an_end >= self.max_failures_in_a_row * self.num_envs:
            count = self._failures_in_a_row[slot] if is_slot_broken else self._failures_since_an_end
            reason = f"{count} environment failures in a row; the last ({error.kind}): {error.message}"
            raise EnvironmentFailure(f"{reason}\n{error.traceback}".strip())

    def _close(self, running: Running, reason: StopReason) -> None:
        """Records what the slot saw since the last cut as a trajectory."""
        self._done.append(running.close(reason))
        self._failures_in_a_row[running.slot] = 0
        if reason is not StopReason.CUT:
            self._failures_since_an_end = 0
            del self._running[running.slot]

    # ------------------------------------------------------------------------------------- one step of some slots

    def _seed(self, purpose: str, running: Running) -> int:
        return derive_seed(purpose, self.run_seed, int(self.split), running.episode, len(running.actions))

    def _decide(self, ready: Sequence[Running]) -> None:
        turns = [
            Turn(r.interface, r.messages, r.told.legal_actions, self._seed("turn", r), r.expert_move) for r in ready
        ]
        for running, turn, decision in zip(ready, turns, self.actor.decide(turns), strict=True):
            self._apply(running, turn, decision)

    def _apply(self, running: Running, turn: Turn, decision: Decision) -> None:
        """Hands a decision to the environment, or the configured effect of a parse failure."""
        reason = running.decide(turn, decision, self._seed("fallback", running), self.images)
        if running.moves:
            self.moves_asked += len(running.moves)
            self._pending.add(running.slot)
            self.pool.step(running.slot, running.moves)
        elif reason is StopReason.CONTEXT_OVERFLOW:
            self._overflow(running)
        elif reason:
            self._close(running, reason)
        else:
            self._go_on(running)

    # ------------------------------------------------------------------------------------- resuming

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs: running episodes are replayed from their seeds and actions."""
        running = [state_of(r) for _, r in sorted(self._running.items())]
        return {"next_episode": self.next_episode, "begun": list(self._begun), "running": running}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Plays the running episodes again. One that cannot be is lost."""
        self.next_episode, self._begun = state["next_episode"], list(state["begun"])
        waiting = {of_slot["slot"]: of_slot for of_slot in state["running"]}
        for slot, of_slot in waiting.items():
            self._start(slot, of_slot["episode"])
        while self._pending:
            for slot, answer in self.pool.answers():
                self._pending.discard(slot)
                self._replay(self._running[slot], answer, waiting[slot])

    def _replay(self, running: Running, answer: EnvOutcome | EnvError, state: Mapping[str, Any]) -> None:
        """Takes one outcome of an episode that is played again, and plays its next action."""
        if isinstance(answer, EnvOutcome) and answer.has_ended:  # a running episode had not
            message = "the episode ended before the record does: the environment does not repeat itself"
            answer = EnvError("raised", message)
        if isinstance(answer, EnvError):
            self._lose(running, answer)
            return
        try:
            running.look(answer, self.images)
            if not running.actions:
                self._check_group(running)
            moves = repeat(running, state, self.images)
        except BROKEN as error:
            self._lose(running, raised(error))
            return
        if moves is not None:
            self._pending.add(running.slot)
            self.pool.step(running.slot, moves)
