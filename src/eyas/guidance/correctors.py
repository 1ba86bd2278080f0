"""Who corrects thoughts: a rule on the experts, or a model that is asked. Correctors are chosen by name."""

from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from typing import Any, Protocol, TypeVar

from eyas.errors import ConfigError
from eyas.guidance.options import GuidanceConfig
from eyas.interface import Interface
from eyas.interface.codecs import ReadFailure
from eyas.model_config import SERVED, ModelConfig
from eyas.models.loading import build_model
from eyas.models.policy import Policy
from eyas.rollouts.samples import as_texts
from eyas.rollouts.task import Task
from eyas.samplers.in_process import InProcessSampler
from eyas.samplers.openai import ServedSampler
from eyas.seeding import derive_seed
from eyas.types import Completion, ExpertMove, ImagePart, Message, ParsedAction, SampleRequest, Step, TextPart


class Corrector(Protocol):
    asks_expert: bool  # whether steps are to carry the expert's move
    costs: dict[str, float]  # what correcting took since the stage began, by name

    def __call__(self, task: Task, steps: Sequence[Step]) -> list[str | None]:
        """For each step of the task an answer whose thought is right: the step's own text where that is.

        Only what stands before its action is learned. None where nothing can be said.
        """
        ...

    def state_dict(self) -> dict[str, Any]:
        """What a resumed stage needs of it."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse; a subclass with nothing to remember has neither."""


Factory = TypeVar("Factory", bound=Callable[[GuidanceConfig, Policy], Corrector])
CORRECTORS: dict[str, Callable[[GuidanceConfig, Policy], Corrector]] = {}


def register_corrector(name: str) -> Callable[[Factory], Factory]:
    """Makes a class or function a corrector that recipes choose by name; it is called with the options and the policy."""

    def register(factory: Factory) -> Factory:
        CORRECTORS[name] = factory
        return factory

    return register


# ----------------------------------------------------------------------------------------------- by rule


def _follows(task: Task, move: ExpertMove, action: Any) -> bool:
    try:
        return task.fact_rule is not None and task.fact_rule(move.facts, action)
    except (KeyError, ValueError):  # the facts do not say what to play
        return False


def is_right(task: Task, step: Step, move: ExpertMove) -> bool:
    """Whether the written facts are the true ones, the action is a best one, and the thought names no other.

    An action is a best one where it follows from the true facts by the task's rule; without a rule, where it is the expert's.
    """
    interface, parse = task.interface, step.parse
    if not isinstance(parse, ParsedAction):
        return False
    if any(parse.facts.get(k, "").strip() != move.facts.get(k) for k in interface.format.fact_keys):
        return False
    action = interface.moves(parse.action)[0]
    taken = interface.name_of(action)
    if taken != interface.name_of(move.action) and not _follows(task, move, action):
        return False
    if not interface.codec.names:  # its words cannot be told from others
        return True
    try:
        return interface.name_of(interface.moves(interface.codec.read(parse.thought))[0]) == taken
    except ReadFailure:  # the thought names none, or several
        return True


@register_corrector("expert")
class ExpertCorrector(Corrector):
    """Leaves a right thought as it is, and else writes the expert's: no model is asked."""

    asks_expert = True

    def __init__(self, config: GuidanceConfig, policy: Policy):
        self.costs: dict[str, float] = {}

    def __call__(self, task: Task, steps: Sequence[Step]) -> list[str | None]:
        return [self._correct(task, step) for step in steps]

    @staticmethod
    def _correct(task: Task, step: Step) -> str | None:
        move = step.expert_move
        if move is None or not set(task.interface.format.fact_keys) <= set(move.facts):
            return None
        return step.completion.text if is_right(task, step, move) else task.interface.write(move)


# ----------------------------------------------------------------------------------------------- by a model

REQUEST = (
    "Check your answer against what was shown. Where it or its reasons are wrong, write it anew, and right; where all is "
    "right, write it again as it is."
)


@register_corrector("model")
class ModelCorrector:
    """Asks a model: the policy itself, a frozen one, or one behind a server.

    What it answered to a prompt and a completion is remembered for as long as its weights stay the same. It is asked again
    after an answer that does not parse, at most `retries` times, and not at all after `most_calls`.
    """

    def __init__(self, config: GuidanceConfig, policy: Policy):
        self.config = config
        self.asks_expert = config.knows_truth
        self.asked = _asked(config, policy)
        self.costs = {"corrector_calls_count": 0.0, "corrector_cached_count": 0.0, "corrector_tokens_count": 0.0}
        self._answers: dict[str, str | None] = {}
        self._version = -1

    def __call__(self, task: Task, steps: Sequence[Step]) -> list[str | None]:
        interface = task.interface
        version = getattr(self.asked, "version", 0)  # of a served model nobody knows
        if version != self._version:
            self._answers, self._version = {}, version
        prompts = [self._prompt(interface, step) for step in steps]
        keys = [_key(p) for p in prompts]
        todo = {k: i for i, k in enumerate(keys) if k not in self._answers}
        self.costs["corrector_cached_count"] += len(keys) - len(todo)
        tokens = self.config.max_new_tokens or interface.most_tokens
        for attempt in range(self.config.retries + 1):
            asked = [(k, i) for k, i in todo.items() if self.asked.fits(prompts[i], tokens)]
            if self.config.most_calls is not None:
                asked = asked[: max(0, self.config.most_calls - int(self.costs["corrector_calls_count"]))]
            requests = [
                SampleRequest(
                    prompts[i],
                    derive_seed("corrector", k, attempt),
                    tokens,
                    self.config.temperature,
                    interface.format.stop,
                )
                for k, i in asked
            ]
            for (key, i), answer in zip(asked, self._ask(requests), strict=True):
                self._answers[key] = text = _usable(interface, steps[i], answer)
                if text is not None:
                    del todo[key]
        return [self._answers.get(k) for k in keys]

    def _ask(self, requests: Sequence[SampleRequest]) -> list[Completion]:
        before = self._served_tokens
        answers = self.asked.sample(requests) if requests else []
        self.costs["corrector_calls_count"] += len(requests)
        written = sum(len(a.token_ids) for a in answers if a.token_ids is not None)
        self.costs["corrector_tokens_count"] += written + self._served_tokens - before
        return answers

    @property
    def _served_tokens(self) -> int:
        return self.asked.spending.output_tokens if isinstance(self.asked, ServedSampler) else 0

    def _prompt(self, interface: Interface, step: Step) -> tuple[Message, ...]:
        text, truth = step.completion.text, ""
        if self.config.knows_truth and (move := step.expert_move):
            facts = "".join(f"{name}: {fact}; " for name, fact in move.facts.items())
            truth = f" The truth: {facts}best action: {interface.name_of(move.action)}."
        answer = Message("assistant", (TextPart(text),), Completion(text))
        request = Message("user", (TextPart(f"{REQUEST}{truth} {interface.format.instruction()}"),))
        return (*as_texts(step.messages), answer, request)

    def state_dict(self) -> dict[str, Any]:
        return {"answers": dict(self._answers), "version": self._version, "costs": dict(self.costs)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._answers, self._version = dict(state["answers"]), state["version"]
        self.costs = dict(state["costs"])


def _asked(config: GuidanceConfig, policy: Policy) -> Policy | ServedSampler:
    if config.model == "self":
        return policy
    if config.is_served:
        assert config.base_url is not None
        name = config.model.removeprefix(SERVED)
        return ServedSampler(name, config.base_url, policy.images, api_key_env=config.api_key_env)
    model, resolved = build_model(ModelConfig(name=config.model))
    return Policy(model.requires_grad_(False), InProcessSampler(model, policy.images), policy.images, config=resolved)


def _key(messages: Sequence[Message]) -> str:
    """Equal where all that is asked is: the prompt with its pictures, and the completion."""
    digest = blake2b(digest_size=16)
    for message in messages:
        for part in message.parts:
            shown = part.image_hash if isinstance(part, ImagePart) else part.text
            digest.update(f"{message.role}\x1f{shown}\x1e".encode())
    return digest.hexdigest()


def _usable(interface: Interface, step: Step, answer: Completion) -> str | None:
    """The answer, where it has an action, a thought, and all the facts."""
    parse = interface.parse(answer, step.legal_actions)
    if not isinstance(parse, ParsedAction) or not parse.thought.strip():
        return None
    return answer.text if set(interface.format.fact_keys) <= set(parse.facts) else None


# ----------------------------------------------------------------------------------------------- by name


def corrector_factory(name: str) -> Callable[[GuidanceConfig, Policy], Corrector]:
    """Raises ConfigError for a name that nobody registered."""
    if name not in CORRECTORS:
        raise ConfigError(f"unknown corrector '{name}': choose from {', '.join(CORRECTORS)}")
    return CORRECTORS[name]
