"""Checkpoints as folders that are either whole or not there.

A checkpoint is written beside its place, synced, sealed with a manifest of sizes and SHA-256, and then renamed. A kill or
a full disk at any moment costs at most the checkpoint being written, never the last good one. No torch: what stands in
the folder is up to the caller.
"""

import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from eyas.errors import CheckpointError
from eyas.files import fsync_directory, is_disk_full

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
_SCHEMA_VERSION = 1
_TEMPORARY = ".tmp-"
_REPLACED = ".old-"
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.=-]*")
_NEARLY_FULL_BYTES = 2**20


def save_checkpoint(
    root: str | Path, iteration_name: str, write: Callable[[Path], None], keep_last: int | None = None
) -> Path:
    """Lets `write` fill a folder and puts it at `root/iteration_name` in one move; returns that path.

    `keep_last` keeps this many of the numbered checkpoints with the same stem (`iteration_000010`); others, such as `sft`,
    are never removed. Raises `CheckpointError` where the disk is full; any other error of `write` goes through. Either
    way the checkpoints that were there stay.
    """
    if not _NAME.fullmatch(iteration_name):
        raise CheckpointError(
            f"{iteration_name!r} cannot be a checkpoint's name: use letters, digits, '_', '-' and '.'"
        )
    if keep_last is not None and keep_last < 1:
        raise CheckpointError(f"keep_last is at least 1, not {keep_last}")
    root = Path(root)
    root.mkdir(parents=True, exist_ok=True)
    _clean(root)
    temporary = root / f"{_TEMPORARY}{iteration_name}"
    try:
        temporary.mkdir()
        write(temporary)
        _seal(temporary, _next_sequence(root))
    except BaseException as error:
        is_full = is_disk_full(error) or shutil.disk_usage(root).free < _NEARLY_FULL_BYTES
        shutil.rmtree(temporary, ignore_errors=True)
        if is_full and isinstance(error, Exception):
            raise _disk_full(root, iteration_name) from error
        raise
    _put_in_place(temporary, root / iteration_name)
    if keep_last is not None:
        _prune(root, iteration_name, keep_last)
    return root / iteration_name


def latest_checkpoint(root: str | Path) -> Path | None:
    """The checkpoint that was saved last, of those that are whole; damaged ones are skipped with a warning."""
    root = Path(root)
    for path in reversed(_checkpoints(root)):
        try:
            validate_checkpoint(path)
        except CheckpointError as error:
            logger.warning("skipped a checkpoint: %s", error)
        else:
            return path
    return None


def validate_checkpoint(path: str | Path) -> None:
    """Reads every file against the manifest. Raises `CheckpointError` naming the first file that does not match."""
    path = Path(path)
    _recover(path)
    if not path.is_dir():
        raise CheckpointError(f"there is no checkpoint at {path}: type one of the folders in {path.parent}")
    for name, expected in _read_manifest(path)["files"].items():
        file = path / name
        if not file.is_file():
            raise _damaged(file, "is missing")
        if file.stat().st_size != expected["size"]:
            raise _damaged(file, f"holds {file.stat().st_size} bytes instead of {expected['size']}")
        if _sha256(file) != expected["sha256"]:
            raise _damaged(file, "does not match its SHA-256")


# ----------------------------------------------------------------------------------------------- writing


def _seal(folder: Path, sequence: int) -> None:
    """Syncs every file and folder, then writes and syncs the manifest."""
    files = {}
    for file in sorted(f for f in folder.rglob("*") if f.is_file()):
        _fsync_file(file)
        files[file.relative_to(folder).as_posix()] = {"size": file.stat().st_size, "sha256": _sha256(file)}
    manifest = {"schema_version": _SCHEMA_VERSION, "sequence": sequence, "files": files}
    with (folder / MANIFEST).open("w") as file:
        json.dump(manifest, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    for subfolder in [f for f in folder.rglob("*") if f.is_dir()] + [folder]:
        fsync_directory(subfolder)


def _put_in_place(temporary: Path, final: Path) -> None:
    # A folder cannot replace a folder that holds files, so the old one steps aside; `_recover` undoes a kill in between.
    replaced = final.with_name(f"{_REPLACED}{final.name}")
    if final.exists():
        final.replace(replaced)
    temporary.replace(final)
    fsync_directory(final.parent)
    shutil.rmtree(replaced, ignore_errors=True)


def _recover(path: Path) -> None:
    replaced = path.with_name(f"{_REPLACED}{path.name}")
    if not path.exists() and replaced.is_dir():
        replaced.replace(path)


def _recover_all(root: Path) -> None:
    for replaced in root.glob(f"{_REPLACED}*"):
        _recover(root / replaced.name.removeprefix(_REPLACED))


def _clean(root: Path) -> None:
    _recover_all(root)
    for pattern in (_TEMPORARY, _REPLACED):
        for stale in root.glob(f"{pattern}*"):
            shutil.rmtree(stale, ignore_errors=True)


def _prune(root: Path, newest: str, keep_last: int) -> None:
    # The newest was read back and sealed a moment ago: whatever goes, a valid one stays.
    stem = re.fullmatch(r"(.*?)\d+", newest)
    if stem is None:
        return
    family = [p for p in _checkpoints(root) if re.fullmatch(re.escape(stem[1]) + r"\d+", p.name) and p.name != newest]
    for path in family[: max(0, len(family) - (keep_last - 1))]:
        shutil.rmtree(path, ignore_errors=True)


# ----------------------------------------------------------------------------------------------- reading


def _checkpoints(root: Path) -> list[Path]:
    """The checkpoints in the order in which they were saved; those without a readable manifest come first."""
    if not root.is_dir():
        return []
    _recover_all(root)
    return sorted((p for p in root.iterdir() if p.is_dir() and not p.name.startswith(".")), key=_order)


def _order(path: Path) -> tuple[int, str]:
    try:
        return _read_manifest(path)["sequence"], path.name
    except CheckpointError:
        return -1, path.name


def _next_sequence(root: Path) -> int:
    return max((_order(p)[0] for p in _checkpoints(root)), default=-1) + 1


def _read_manifest(path: Path) -> dict[str, Any]:
    file = path / MANIFEST
    try:
        manifest = json.loads(file.read_bytes())
        if manifest["schema_version"] != _SCHEMA_VERSION:
            raise CheckpointError(
                f"{path} has schema version {manifest['schema_version']}, this Eyas reads version {_SCHEMA_VERSION}: "
                "load it with the version of Eyas that wrote it"
            )
        return {"sequence": int(manifest["sequence"]), "files": dict(manifest["files"])}
    except FileNotFoundError:
        raise _damaged(file, "is missing") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _damaged(file, f"cannot be read ({error})") from error


def _damaged(file: Path, what: str) -> CheckpointError:
    return CheckpointError(
        f"{file} {what}: this checkpoint is damaged. Delete its folder, then `eyas train RECIPE --resume` goes on from the "
        "one before"
    )


def _disk_full(root: Path, name: str) -> CheckpointError:
    kept = _checkpoints(root)
    last = f"the last one, {kept[-1]}, is untouched" if kept else "there is none before it"
    return CheckpointError(
        f"the disk is full: checkpoint {root / name} could not be written; {last}. Free some space, then go on with "
        "`eyas train RECIPE --resume`"
    )


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _fsync_file(file: Path) -> None:
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
