"""Files that are whole or not there: atomic writes, and the error of a full disk."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

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
