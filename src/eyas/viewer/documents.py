"""Small files of a run that anyone may have written: read up to a size, and never a crash."""

import json
import tomllib
from typing import Any

from eyas.viewer.folders import RunFolder

MAX_BYTES = 16 * 2**20


def read_text(run: RunFolder, *parts: str, notes: list[str]) -> str:
    """A text file of a run; empty where it is missing, too large or unreadable, the last two with a note."""
    file = run.file(*parts)
    name = "/".join(parts)
    if file is None:
        return ""
    if file.size > MAX_BYTES:
        notes.append(f"{name} is left out: it is larger than {MAX_BYTES >> 20} MiB")
        return ""
    try:
        return file.path.read_bytes().decode("utf-8", errors="replace")
    except OSError as error:
        notes.append(f"{name} cannot be read: {error.strerror}")
        return ""


def read_json(run: RunFolder, *parts: str, notes: list[str]) -> dict[str, Any]:
    """A JSON object of a run; empty, with a note, where it is none."""
    text = read_text(run, *parts, notes=notes)
    try:
        value = json.loads(text) if text else {}
    except (ValueError, RecursionError):
        notes.append(f"{'/'.join(parts)} is left out: it is no JSON, or only half written")
        return {}
    return value if isinstance(value, dict) else {}


def read_config(run: RunFolder, notes: list[str]) -> tuple[str, dict[str, Any]]:
    """A run's config.toml as text and as a table; the table is empty, with a note, where it is no TOML."""
    text = read_text(run, "config.toml", notes=notes)
    try:
        return text, tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError):
        notes.append("config.toml is no TOML: copy the folder again")
        return text, {}


def tables(config: dict[str, Any], key: str) -> list[dict[str, Any]]:
    """A list of tables in a configuration, without what is no table."""
    value = config.get(key)
    return [element for element in value if isinstance(element, dict)] if isinstance(value, list) else []


def number(value: Any) -> float | None:
    """A number as it is; None for anything else."""
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None
