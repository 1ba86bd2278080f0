"""What a check found, and the verdict that follows from it."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Level(StrEnum):
    INFO = "info"
    WARNING = "warning"  # it can be used so, at a price
    ERROR = "error"  # it cannot be used so


@dataclass(frozen=True)
class Check:
    """One finding. `detail` says what was seen and, where that is no good, what to write instead."""

    name: str
    detail: str
    level: Level = Level.INFO
    traceback: str = ""  # of what the environment raised

    @property
    def ok(self) -> bool:
        """Whether it is no error: warnings do not fail."""
        return self.level is not Level.ERROR

    def to_json(self) -> dict[str, Any]:
        more = {"traceback": self.traceback} if self.traceback else {}
        return {"name": self.name, "ok": self.ok, "level": str(self.level), "detail": self.detail, **more}


@dataclass
class Report:
    """Every check of an environment, the prompt that a model gets, and what to do next."""

    id: str
    checks: list[Check] = field(default_factory=list)
    prompt: dict[str, Any] = field(default_factory=dict)  # "messages", and "pictures": the files
    baselines: dict[str, dict[str, Any]] = field(default_factory=dict)  # "random" and "expert": an evaluation row
    preflight: dict[str, Any] = field(default_factory=dict)  # numbers with a model
    recipe: str = ""  # TOML that runs; "" where nothing can
    recipe_path: str | None = None

    @property
    def ok(self) -> bool:
        return all(check.ok for check in self.checks)

    @property
    def verdict(self) -> str:
        """`ready`, `usable, but ...` or `not usable: ...`, with every reason."""
        for level, told in ((Level.ERROR, "not usable: "), (Level.WARNING, "usable, but ")):
            if found := self.of(level):
                return told + "; ".join(f"{c.name}: {c.detail.splitlines()[0]}" for c in found)
        return "ready"

    def add(self, name: str, detail: str, level: Level = Level.INFO, traceback: str = "") -> None:
        self.checks.append(Check(name, detail, level, traceback))

    def of(self, level: Level) -> list[Check]:
        return [check for check in self.checks if check.level is level]

    def named(self, name: str) -> list[Check]:
        return [check for check in self.checks if check.name == name]

    def to_json(self) -> dict[str, Any]:
        told = {"id": self.id, "ok": self.ok, "verdict": self.verdict}
        return told | vars(self) | {"checks": [check.to_json() for check in self.checks]}
