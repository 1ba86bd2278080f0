"""Episodes that a person and a policy play in turn. What a person had a hand in is kept as demonstrations."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

from eyas.envs.host import EnvError, EnvHosts, EnvOutcome, raised
from eyas.errors import ConfigError, EnvironmentFailure, EyasError
from eyas.interface.codecs import ReadFailure
from eyas.rollouts.actors import Decision, PolicyActor, Turn, wordless, written
from eyas.rollouts.episode import BROKEN, Running
from eyas.rollouts.task import Task
from eyas.seeding import Split, derive_seed, environment_seed
from eyas.types import ExecutedBy, ExpertMove, ImageStore, StopReason, Trajectory


class Playing:
    """One episode at a time; who calls says at each step whether the person or the policy acts.

    `keep` gets the record of every episode in which the person acted, also of one that is left before its end. `policy`
    is asked by `suggest`; None where a person plays alone.
    """

    def __init__(
        self, task: Task, images: ImageStore, policy: PolicyActor | None, seed: int, keep: Callable[[Trajectory], None]
    ):
        self.task, self.images, self.policy, self.keep = task, images, policy, keep
        self.run_seed = seed
        self.episode = -1
        self.running: Running | None = None
        self.record: Trajectory | None = None  # of the episode that ended last
        self.suggestion: Decision | None = None  # what the policy would do now
        self._draws = 0  # suggestions of this step so far
        self._env = EnvHosts([task.source(asks_expert=True)])

    # ------------------------------------------------------------------------------------- episodes

    def begin(self, seed: int | None = None) -> None:
        """Begins an episode: with this seed, or with that of the next demonstration. Raises EnvironmentFailure."""
        self.leave()
        self.episode += 1
        if seed is None:
            seed = environment_seed(self.run_seed, Split.DEMONSTRATION, self.episode)
        answer = self._env.start(0, 0, seed)
        self.record = None
        self.running = Running(0, self.task.index, self.task, self.episode, self.episode, seed)
        self._take(answer)

    def leave(self) -> None:
        """Gives up a running episode; the steps that it has are kept."""
        if self.running and self.record is None and self.running.steps:
            self._close(StopReason.INTERRUPTED)
        self.running, self.suggestion, self._draws = None, None, 0

    def close(self) -> None:
        self.leave()
        self._env.close()

    # ------------------------------------------------------------------------------------- decisions

    @property
    def turn(self) -> Turn:
        """Raises ConfigError where nothing is to be decided."""
        running = self.running
        if running is None or self.record is not None:
            raise ConfigError("the episode is over: begin another one")
        seed = derive_seed("play", running.seed, len(running.actions), self._draws)
        return Turn(running.interface, running.messages, running.told.legal_actions, seed, running.expert_move)

    def suggest(self, temperature: float) -> None:
        """Asks the policy, anew at each call."""
        if self.policy is None:
            raise ConfigError("no model plays here: start again with --checkpoint FOLDER, or nano-random")
        self.policy.temperature = temperature
        (self.suggestion,) = self.policy.decide([self.turn])
        self._draws += 1

    def follow(self, temperature: float) -> None:
        """Plays what the policy suggests; a parse failure has the effect that it has in training."""
        if self.suggestion is None:
            self.suggest(temperature)
        assert self.suggestion is not None
        self._apply(self.turn, self.suggestion)

    def act(self, action: Any) -> None:
        """Plays the person's action."""
        turn = self.turn
        self._apply(turn, demonstrated(turn, action))

    def read(self, words: str) -> Any:
        """The action that a person's words mean. Raises ConfigError where they mean none that is legal."""
        codec, legal = self.task.interface.codec, self.turn.legal_actions
        try:
            action = codec.read(words, legal)
        except ReadFailure as failure:
            raise ConfigError(f"{words!r} is no action here ({failure.detail}): type {codec.describe()}") from failure
        if not codec.is_legal(action, legal):
            raise ConfigError(f"{words!r} is not legal now: choose another action")
        return action

    def _apply(self, turn: Turn, decision: Decision) -> None:
        running = self.running
        assert running is not None
        reason = running.decide(turn, decision, turn.seed, self.images)
        self.suggestion, self._draws = None, 0
        if running.moves:
            self._take(self._env.step(0, running.moves))
        elif reason is None:
            self._check_room()
        else:
            self._close(reason)

    # ------------------------------------------------------------------------------------- outcomes

    def _take(self, answer: EnvOutcome | EnvError) -> None:
        running = self.running
        assert running is not None
        played = len(running.actions)
        try:
            reason = None if isinstance(answer, EnvError) else running.take(answer, self.images)
        except BROKEN as error:
            answer = raised(error)
        if isinstance(answer, EnvError):
            del running.steps[played:], running.actions[played:]  # what led to the failure has no outcome
            self.leave()
            raise EnvironmentFailure(f"the environment {answer.kind} ({answer.message}): begin another episode")
        if reason is None:
            self._check_room()
        else:
            self._close(reason)

    def _check_room(self) -> None:
        """Ends the episode where the model cannot read its next prompt."""
        running = self.running
        assert running is not None
        if self.policy and not self.policy.fits(running.interface, running.messages):
            self._close(StopReason.CONTEXT_OVERFLOW)

    def _close(self, reason: StopReason) -> None:
        running = self.running
        assert running is not None
        if reason is StopReason.CONTEXT_OVERFLOW:
            if not running.steps:
                self.running = None
                raise ConfigError(
                    "the first prompt leaves no room for a completion in the model's context: play without the checkpoint, "
                    "or with smaller pictures"
                )
            running.messages = running.steps[-1].messages  # the last prompt that a critic can read
        self.record = running.close(reason)
        if any(step.executed_by is ExecutedBy.HUMAN for step in self.record.steps):
            self.keep(self.record)


def demonstrated(turn: Turn, action: Any) -> Decision:
    """The person's action with what a model that chose it would have written.

    Facts, and the thought that they make, are the expert's where the environment has one; else there is no thought. Without
    words where the format cannot carry the action, or asks for facts that nobody tells.
    """
    interface, expert_move = turn.interface, turn.expert_move
    if expert_move is None:
        move = ExpertMove(action, thought="")
    elif interface.name_of(expert_move.action) == interface.name_of(action):
        move = replace(expert_move, action=action)
    else:
        move = ExpertMove(action, expert_move.facts)
    if set(interface.format.fact_keys) <= set(move.facts):
        with suppress(EyasError):  # the format cannot carry the action
            return written(turn, move, ExecutedBy.HUMAN)
    return wordless(turn, action, ExecutedBy.HUMAN)
