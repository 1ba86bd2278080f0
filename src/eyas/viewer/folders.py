"""Which runs are served, and which of their files: nothing outside the given folders, whatever a name or a link says."""

import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from eyas.errors import ConfigError
from eyas.viewer.problems import NotServed

MARKS = ("config.toml", "dataset.json")  # a folder with one of them is a run or a dataset
MAX_DEPTH = 3
MAX_FOLDERS = 20_000  # looked into at most: a home directory given by mistake must not hold the server up


@dataclass(frozen=True, slots=True)
class File:
    """A regular file that lies inside the served folder, and what tells a later version of it from this one."""

    place: str  # a path; thousands of them are compared at each question, which is slow for `Path`
    size: int
    changed_ns: int

    @property
    def path(self) -> Path:
        return Path(self.place)

    @property
    def name(self) -> str:
        return os.path.basename(self.place)


@dataclass(frozen=True, slots=True)
class RunFolder:
    """A run. `path` and `root`, the served folder it lies in, hold no symbolic link."""

    id: str
    path: Path
    root: Path

    def file(self, *parts: str) -> File | None:
        """A file by its place in the run; None where there is none, or where a link leads out of the served folder."""
        return _inside(self.path.joinpath(*parts), self.root)

    def files(self, *parts: str, suffix: str) -> list[File]:
        """The files of a folder in the run with that suffix, by name; those that are hidden or lead out are left out."""
        folder = self.path.joinpath(*parts)
        if not _is_inside(folder, self.root):
            return []
        try:
            with os.scandir(folder) as entries:
                named = [e for e in entries if e.name.endswith(suffix) and not e.name.startswith(".")]
                files = [_entry(e, self.root) for e in named]
        except OSError:
            return []
        return sorted((file for file in files if file is not None), key=lambda file: file.place)

    def folders(self, *parts: str) -> list[str]:
        """The names of the folders in a folder of the run, by name; those that are hidden or lead out are left out."""
        folder = self.path.joinpath(*parts)
        if not _is_inside(folder, self.root):
            return []
        return [path.name for path in _subfolders(folder) if _is_inside(path, self.root)]


class Library:
    """The runs in the given folders. Raises `ConfigError` for a folder that does not exist."""

    def __init__(self, roots: Sequence[str | Path]) -> None:
        for root in roots:
            if not Path(root).is_dir():
                raise ConfigError(
                    f"there is no folder {root}: give a run's folder, or one that holds runs, as in `eyas view runs`"
                )
        self.roots = list(dict.fromkeys(Path(root).resolve() for root in roots))
        self._runs: dict[str, RunFolder] = {}

    def runs(self) -> list[RunFolder]:
        """Every run that is there now. Its id is its path in the served folder; a served run's own is its name."""
        found: dict[str, RunFolder] = {}
        seen: set[Path] = set()
        for root in self.roots:
            for path in _find(root):
                if path not in seen:
                    seen.add(path)
                    name = path.relative_to(root).as_posix() if path != root else root.name
                    if name in found:
                        name = f"{root.name}/{name}"
                    while name in found:
                        name += "~"
                    found[name] = RunFolder(name, path, root)
        self._runs = found
        return list(found.values())

    def run(self, run_id: str) -> RunFolder:
        """Raises `NotServed` for any other id: an id is looked up, never joined to a path."""
        known = self._runs.get(run_id)
        if known is None or not known.path.is_dir():
            self.runs()
        if run_id not in self._runs:
            raise NotServed(f"there is no run {run_id!r} here: choose one of the list")
        return self._runs[run_id]


def _find(root: Path) -> Iterator[Path]:
    """The runs at or below `root`, by name; what lies inside a run is not searched."""
    level, looked_into = [root], 0
    for depth in range(MAX_DEPTH + 1):
        below: list[Path] = []
        for folder in level:
            looked_into += 1
            if looked_into > MAX_FOLDERS:
                return
            if any(_inside(folder / mark, root) for mark in MARKS):
                yield folder
            elif depth < MAX_DEPTH:
                below += (path.resolve() for path in _subfolders(folder) if _is_inside(path, root))
        level = below


def _subfolders(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            return sorted(folder / e.name for e in entries if not e.name.startswith(".") and _is_folder(e))
    except OSError:
        return []


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False


def _entry(entry: os.DirEntry[str], root: Path) -> File | None:
    """What `_inside` says of an entry of a folder that lies inside; without a link there is nothing to resolve."""
    try:
        if entry.is_symlink():
            return _inside(Path(entry.path), root)
        status = entry.stat(follow_symlinks=False)
    except OSError:  # it went since
        return None
    return File(entry.path, status.st_size, status.st_mtime_ns) if stat.S_ISREG(status.st_mode) else None


def _inside(path: Path, root: Path) -> File | None:
    try:
        status = path.stat()
    except (OSError, ValueError):  # a name may hold a null byte
        return None
    # A pipe or a device of that name would hold the reader up for ever.
    if not stat.S_ISREG(status.st_mode) or not _is_inside(path, root):
        return None
    return File(str(path), status.st_size, status.st_mtime_ns)


def _is_inside(path: Path, root: Path) -> bool:
    try:
        return path.resolve().is_relative_to(root)
    except (OSError, RuntimeError, ValueError):  # the same, or a name with a null byte
        return False
