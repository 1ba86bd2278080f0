"""What asking a served model takes, and where it has to stop."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

from eyas.errors import ConfigError, LimitReached, ModelError

_SPENT = ("requests", "input_tokens", "output_tokens", "uncounted")


@dataclass
class Spending:
    """Counts requests, the sent-again ones included, and tokens as the server counts them; limits are None where none is set.

    Raises ConfigError for a limit of cost without a price.
    """

    most_requests: int | None = None
    most_tokens: int | None = None  # of input and output together
    most_cost: float | None = None  # in the currency of the price
    price: tuple[float, float] | None = None  # of a million input tokens, and of a million output tokens
    requests: int = field(default=0, init=False)
    input_tokens: int = field(default=0, init=False)
    output_tokens: int = field(default=0, init=False)
    uncounted: int = field(default=0, init=False)  # answers whose tokens the server did not tell
    _lock: Lock = field(default_factory=Lock, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.most_cost is not None and self.price is None:
            raise ConfigError("a limit of cost needs the prices of a million input and output tokens: --price IN OUT")

    @property
    def cost(self) -> float | None:
        if self.price is None:
            return None
        return (self.input_tokens * self.price[0] + self.output_tokens * self.price[1]) / 1e6

    def begin(self) -> None:
        """Before each request. Raises LimitReached where one is; requests under way still come to their end."""
        with self._lock:
            tokens = self.input_tokens + self.output_tokens
            for name, most, spent in (
                ("requests", self.most_requests, self.requests),
                ("tokens", self.most_tokens, tokens),
                ("cost", self.most_cost, self.cost or 0.0),
            ):
                if most is not None and spent >= most:
                    raise LimitReached(
                        f"the limit of {most} {name} is reached, with {self}: raise most_{name} (--most-{name} on the "
                        "command line; in its config.toml for a run that is to go on), or play fewer episodes"
                    )
            self.requests += 1

    def add(self, usage: Any) -> int:
        """Counts an answer's `usage`; returns the tokens of its prompt, 0 where the server does not tell.

        Raises ModelError where a limit needs what the server does not tell.
        """
        try:
            read, written = int(usage["prompt_tokens"]), int(usage["completion_tokens"])
            is_counted = True
        except (KeyError, TypeError, ValueError):
            read, written, is_counted = 0, 0, False
        if not is_counted and (self.most_tokens is not None or self.most_cost is not None):
            raise ModelError("the server does not tell how many tokens it used: limit the requests (--most-requests)")
        with self._lock:
            self.input_tokens += read
            self.output_tokens += written
            self.uncounted += not is_counted
        return read

    def state_dict(self) -> dict[str, int]:
        """What was spent so far, for a run that is resumed."""
        with self._lock:
            return {name: getattr(self, name) for name in _SPENT}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        with self._lock:
            for name in _SPENT:
                setattr(self, name, state[name])

    def __str__(self) -> str:
        text = f"{self.requests:,} requests, {self.input_tokens:,} input and {self.output_tokens:,} output tokens"
        if self.uncounted:
            text += f", {self.uncounted:,} answers of unknown length"
        return text if self.cost is None else f"{text}, a cost of {self.cost:.4g}"
