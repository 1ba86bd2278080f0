"""Who decides: the policy, an expert, chance, or one constant action. All play through the same collector."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from eyas.errors import EyasError
from eyas.interface import Interface
from eyas.models.policy import Policy
from eyas.seeding import generator
from eyas.types import Completion, ExecutedBy, ExpertMove, Message, ParsedAction, ParseResult


@dataclass(slots=True)
class Turn:
    """An environment that waits for a decision."""

    interface: Interface
    messages: tuple[Message, ...]
    legal_actions: Sequence[Any] | None  # None: every action of the space
    seed: int  # decides all randomness of this decision
    expert_move: ExpertMove | None = None  # where the actor asked for experts


@dataclass(slots=True)
class Decision:
    completion: Completion
    parse: ParseResult
    executed_by: ExecutedBy


class Actor(Protocol):
    asks_expert: bool  # whether turns are to carry the expert's move

    def decide(self, turns: Sequence[Turn]) -> list[Decision]: ...

    def fits(self, interface: Interface, messages: Sequence[Message]) -> bool:
        """Whether the prompt leaves room for a completion."""
        ...


class PolicyActor:
    """Samples at a temperature; 0 is greedy."""

    def __init__(self, policy: Policy, temperature: float = 1.0, asks_expert: bool = False):
        self.policy = policy
        self.temperature = temperature
        self.asks_expert = asks_expert

    def decide(self, turns: Sequence[Turn]) -> list[Decision]:
        requests = [t.interface.request(t.messages, t.legal_actions, t.seed, self.temperature) for t in turns]
        return [
            Decision(completion, turn.interface.parse(completion, turn.legal_actions), ExecutedBy.POLICY)
            for turn, completion in zip(turns, self.policy.sample(requests), strict=True)
        ]

    def fits(self, interface: Interface, messages: Sequence[Message]) -> bool:
        return self.policy.fits(messages, interface.most_tokens)


class _ScriptedActor(ABC):
    """Decides each turn by itself."""

    asks_expert = False

    def decide(self, turns: Sequence[Turn]) -> list[Decision]:
        return [self._decide(t) for t in turns]

    def fits(self, interface: Interface, messages: Sequence[Message]) -> bool:
        return True

    @abstractmethod
    def _decide(self, turn: Turn) -> Decision: ...


def wordless(turn: Turn, action: Any, executed_by: ExecutedBy) -> Decision:
    return Decision(Completion(""), ParsedAction(action, turn.interface.name_of(action), "", {}, 0), executed_by)


def written(turn: Turn, move: ExpertMove, executed_by: ExecutedBy) -> Decision:
    """The move in the words of a demonstrator. Raises EyasError where the format cannot carry it."""
    text = turn.interface.write(move)
    completion = Completion(text)
    parsed = turn.interface.parse(completion, turn.legal_actions)
    if not isinstance(parsed, ParsedAction) or parsed.name != turn.interface.name_of(move.action):
        raise EyasError(f"the format cannot carry the action {move.action}: it wrote {text!r}")
    return Decision(completion, parsed, executed_by)


class RandomActor(_ScriptedActor):
    """A uniformly random legal action. With `is_writing` it writes it down, so that a model can learn the format.

    It stays wordless where the format asks for facts and the environment has no expert that tells them.
    """

    def __init__(self, is_writing: bool = False):
        self.is_writing = self.asks_expert = is_writing

    def _decide(self, turn: Turn) -> Decision:
        interface, expert_move = turn.interface, turn.expert_move
        action = interface.random_action(generator("random actor", turn.seed), turn.legal_actions)
        facts = expert_move.facts if expert_move else {}
        if not self.is_writing or not set(interface.format.fact_keys) <= set(facts):
            return wordless(turn, action, ExecutedBy.RANDOM)
        thought = None if expert_move else f"I choose {interface.name_of(action)}."
        return written(turn, ExpertMove(action, facts, thought), ExecutedBy.RANDOM)


class ConstantActor(_ScriptedActor):
    """Always the same action; a random legal one where that is not legal."""

    def __init__(self, action: Any):
        self.action = action

    def _decide(self, turn: Turn) -> Decision:
        action = self.action
        if not turn.interface.codec.is_legal(action, turn.legal_actions):
            action = turn.interface.random_action(generator("constant actor", turn.seed), turn.legal_actions)
        return wordless(turn, action, ExecutedBy.RANDOM)


class ExpertActor(_ScriptedActor):
    """An expert that writes its thoughts. With `random_share` it plays that share of its moves at random instead.

    A random move is a uniformly random legal action; the thought still names the true facts, and the move made.
    """

    asks_expert = True

    def __init__(self, random_share: float = 0.0):
        self.random_share = random_share

    def _decide(self, turn: Turn) -> Decision:
        move = turn.expert_move
        if move is None:
            raise EyasError("this environment has no expert: register one with eyas.envs.experts.register_expert")
        executed_by = ExecutedBy.EXPERT
        rng = generator("expert actor", turn.seed)
        if rng.random() < self.random_share:
            random_action = turn.interface.random_action(rng, turn.legal_actions)
            (action, *_), executed_by = turn.interface.moves(random_action), ExecutedBy.RANDOM
            move = replace(move, action=action)
        return written(turn, move, executed_by)
