"""Who decides: the policy, an expert, chance, or one constant action. All play through the same collector."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from eyas.errors import EyasError
from eyas.interface import Interface
from eyas.models.policy import Policy
from eyas.seeding import generator
from eyas.types import Completion, ExecutedBy, Expert, Message, ParsedAction, ParseResult


@dataclass(slots=True)
class Turn:
    """An environment that waits for a decision."""

    env: Any  # the unwrapped environment: experts read it, nobody else
    interface: Interface
    messages: tuple[Message, ...]
    legal_actions: Sequence[int]
    seed: int  # decides all randomness of this decision


@dataclass(slots=True)
class Decision:
    completion: Completion
    parse: ParseResult
    executed_by: ExecutedBy


class Actor(Protocol):
    def decide(self, turns: Sequence[Turn]) -> list[Decision]: ...

    def fits(self, interface: Interface, messages: Sequence[Message]) -> bool:
        """Whether the prompt leaves room for a completion."""
        ...


class PolicyActor:
    """Samples at a temperature; 0 is greedy."""

    def __init__(self, policy: Policy, temperature: float = 1.0):
        self.policy = policy
        self.temperature = temperature

    def decide(self, turns: Sequence[Turn]) -> list[Decision]:
        requests = [t.interface.request(t.messages, t.seed, self.temperature) for t in turns]
        return [
            Decision(completion, turn.interface.parse(completion, turn.legal_actions), ExecutedBy.POLICY)
            for turn, completion in zip(turns, self.policy.sample(requests), strict=True)
        ]

    def fits(self, interface: Interface, messages: Sequence[Message]) -> bool:
        return self.policy.fits(messages, interface.max_new_tokens)


class _ScriptedActor(ABC):
    """Decides each turn by itself."""

    def decide(self, turns: Sequence[Turn]) -> list[Decision]:
        return [self._decide(t) for t in turns]

    def fits(self, interface: Interface, messages: Sequence[Message]) -> bool:
        return True

    @abstractmethod
    def _decide(self, turn: Turn) -> Decision: ...


def _wordless(turn: Turn, action: int, executed_by: ExecutedBy) -> Decision:
    return Decision(Completion(""), ParsedAction(action, turn.interface.name_of(action), "", {}, 0), executed_by)


class RandomActor(_ScriptedActor):
    """A uniformly random legal action."""

    def _decide(self, turn: Turn) -> Decision:
        action = int(generator("random actor", turn.seed).choice(turn.legal_actions))
        return _wordless(turn, action, ExecutedBy.RANDOM)


class ConstantActor(_ScriptedActor):
    """Always the same action."""

    def __init__(self, action: int):
        self.action = action

    def _decide(self, turn: Turn) -> Decision:
        return _wordless(turn, self.action, ExecutedBy.RANDOM)


class ExpertActor(_ScriptedActor):
    """An expert that writes its thoughts. With `random_share` it plays that share of its moves at random instead.

    A random move is a uniformly random legal action; the thought still names the true facts, and the move made.
    """

    def __init__(self, expert: Expert, random_share: float = 0.0):
        self.expert = expert
        self.random_share = random_share

    def _decide(self, turn: Turn) -> Decision:
        move = self.expert(turn.env)
        action, executed_by = move.action, ExecutedBy.EXPERT
        rng = generator("expert actor", turn.seed)
        if rng.random() < self.random_share:
            action, executed_by = int(rng.choice(turn.legal_actions)), ExecutedBy.RANDOM
        text = turn.interface.write(action, move.facts)
        completion = Completion(text)
        parsed = turn.interface.parse(completion, turn.legal_actions)
        if not isinstance(parsed, ParsedAction) or parsed.action != action:
            raise EyasError(f"the format cannot carry the expert's action {action}: it wrote {text!r}")
        return Decision(completion, parsed, executed_by)
