"""Recipes: TOML files that become a `RunConfig`.

    load_recipe("numberline_ppo", ["stages.rl.iterations=3"])

`extends = "other"` takes everything from another recipe and changes what this one names. Tables merge, key by key; a
list (also `[[tasks]]` and `[[stages]]`) replaces the other recipe's list as a whole.
"""

import difflib
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tomli_w

from eyas.config import RunConfig
from eyas.errors import ConfigError
from eyas.problems import hint

_RECIPES = Path(__file__).parent


def shipped_recipes() -> list[str]:
    """Names of the recipes inside the package, sorted."""
    return sorted(path.stem for path in _RECIPES.glob("*.toml"))


def load_recipe(source: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a shipped recipe by name, or a file, and apply `path=value` overrides.

    A path's list elements go by index or by stage name (`tasks.0.env_args.jitter=6`, `stages.rl.iterations=3`). A value
    is TOML, else a string; an empty one removes the key, so that its default holds. Raises `ConfigError`.
    """
    path = _find(source, Path())
    table = _read(path, ())
    table.setdefault("name", path.stem)
    for override in overrides:
        _override(table, override)
    try:
        return RunConfig.model_validate(table)
    except ConfigError as error:
        raise ConfigError(f"recipe '{source}': {error}") from None


def to_toml(config: RunConfig) -> str:
    """The resolved configuration as TOML that loads back equal."""
    return tomli_w.dumps(config.model_dump(exclude_none=True, by_alias=True))


def _find(source: str | Path, folder: Path) -> Path:
    if isinstance(source, str) and source in shipped_recipes():
        return _RECIPES / f"{source}.toml"
    path = (folder / Path(source).expanduser()).resolve()
    if path.is_file():
        return path
    shipped = shipped_recipes()
    nearest = difflib.get_close_matches(Path(source).stem, shipped, n=1)
    hint = f"did you mean '{nearest[0]}'? " if nearest else ""
    raise ConfigError(f"no recipe '{source}': {hint}Give a TOML file or a shipped recipe: {', '.join(shipped)}")


def _read(path: Path, readers: tuple[Path, ...]) -> dict[str, Any]:
    """The table of a recipe with those that it extends merged in. `readers` are the files that led here."""
    if path in readers:
        circle = " -> ".join(p.stem for p in (*readers[readers.index(path) :], path))
        raise ConfigError(f"recipes extend each other in a circle: {circle}")
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from None
    parent = table.pop("extends", None)
    if parent is None:
        return table
    if not isinstance(parent, str):
        raise ConfigError(f"{path}: extends should be the name of a recipe or a file, not {parent!r}")
    inherited = _read(_find(parent, path.parent), (*readers, path))
    inherited.pop("name", None)
    return _merged(inherited, table)


def _merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in changes.items():
        both_tables = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merged(merged[key], value) if both_tables else value
    return merged


def _override(table: dict[str, Any], override: str) -> None:
    path, equals, text = override.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        raise ConfigError(f"override '{override}': write it as key=value, as in 'stages.rl.iterations=3'")
    here: Any = table
    for depth, key in enumerate(keys[:-1]):
        here = _enter(here, key, ".".join(keys[:depth]))
    if isinstance(here, list):
        parent = ".".join(keys[:-1])
        raise ConfigError(f"override '{override}': '{parent}' is a list; set one key, as in '{parent}.0.KEY=VALUE'")
    if not isinstance(here, dict):
        raise ConfigError(f"override '{override}': '{'.'.join(keys[:-1])}' is a value and has no keys")
    if text.strip():
        here[keys[-1]] = toml_value(text.strip())
    elif keys[-1] in here:
        del here[keys[-1]]
    else:
        raise ConfigError(f"override '{override}': '{path}' is not set, so it cannot be removed{hint(keys[-1], here)}")


def _enter(here: Any, key: str, path: str) -> Any:
    if isinstance(here, dict):
        return here.setdefault(key, {})
    if isinstance(here, list):
        return here[_index(here, key, path)]
    raise ConfigError(f"override of '{path}.{key}': '{path}' is a value and has no keys")


def _index(elements: list[Any], key: str, path: str) -> int:
    if key.isdecimal():
        if int(key) < len(elements):
            return int(key)
        raise ConfigError(f"override of '{path}.{key}': '{path}' has {len(elements)} elements, counted from 0")
    kinds = [e.get("kind", "") if isinstance(e, dict) else "" for e in elements]
    names = [e.get("name", kind) if isinstance(e, dict) else "" for e, kind in zip(elements, kinds, strict=True)]
    for known in (names, kinds):
        if known.count(key) == 1:
            return known.index(key)
    advice = hint(key, filter(None, names)) or f"; use an index, as in '{path}.0'"
    raise ConfigError(f"override of '{path}.{key}': '{path}' has no single element '{key}'{advice}")


def toml_value(text: str) -> Any:
    """What was typed behind `key=`: TOML, else the text itself."""
    try:
        parsed = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    return parsed["value"] if len(parsed) == 1 else text
