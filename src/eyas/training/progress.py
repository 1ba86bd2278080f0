"""Progress on stderr: a bar with the main numbers on a terminal, a line now and then elsewhere."""

import time
from collections.abc import Mapping
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

LINE_EVERY_S = 10.0


def format_numbers(numbers: Mapping[str, float | None]) -> str:
    """`success 0.93  return 0.88`: short names, three digits, unknown ones left out."""
    return "  ".join(f"{name} {value:.3g}" for name, value in numbers.items() if value is not None)


class StageProgress:
    """Counts the work of one stage. Use as a context manager."""

    def __init__(self, console: Console, title: str, total: int, completed: int = 0):
        self.console, self.title, self.total, self.completed = console, title, total, completed
        self._last_line = time.monotonic()
        self._bar: Progress | None = None
        if console.is_terminal:
            self._bar = Progress(
                TextColumn(f"[bold]{title}"),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[numbers]}"),
                console=console,
            )
            self._task = self._bar.add_task(title, total=total, completed=completed, numbers="")

    def update(self, completed: int, numbers: Mapping[str, float | None] | None = None) -> None:
        self.completed = completed
        text = format_numbers(numbers or {})
        if self._bar:
            self._bar.update(self._task, completed=completed)
            if text:
                self._bar.update(self._task, numbers=text)
        elif completed == self.total or time.monotonic() - self._last_line > LINE_EVERY_S:
            self._last_line = time.monotonic()
            self.console.print(f"{self.title} {completed}/{self.total}  {text}", highlight=False, soft_wrap=True)

    def __enter__(self) -> Self:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()
