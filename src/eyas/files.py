"""Files that are whole or not there: atomic writes, locks, and the error of a full disk."""

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from .errors import ConfigError

NO_ROOM = {n: os.strerror(n) for n in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)}


def is_disk_full(error: BaseException) -> bool:
    """Whether an error, of any library, says that the disk, the quota or the largest file is full."""
    return getattr(error, "errno", None) in NO_ROOM or any(text in str(error) for text in NO_ROOM.values())


def fsync_directory(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomically(path: Path, write: Callable[[Any], None]) -> None:
    """Calls `write` with an open binary file and puts it at `path` in one move: a kill leaves the old file or the new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    fsync_directory(path.parent)


@contextmanager
def alone(folder: Path, name: str, problem: str, makes_folder: bool = True) -> Iterator[IO[str] | None]:
    """Holds the lock file `name` of a folder; None where there are no locks, or no folder. A kill releases it.

    Raises `ConfigError` with `problem` where another process holds it.
    """
    try:
        import fcntl
    except ImportError:  # no such locks on this system
        yield None
        return
    if makes_folder:
        folder.mkdir(parents=True, exist_ok=True)
    if not folder.is_dir():
        yield None
        return
    with (folder / name).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(problem) from None
        except OSError:  # a file system without locks
            yield None
            return
        yield lock
