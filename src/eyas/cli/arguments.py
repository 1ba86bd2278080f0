"""What several commands take."""

import tomllib
from typing import Any

from eyas.errors import ConfigError


def environment_arguments(pairs: list[str] | None) -> dict[str, Any]:
    """`["jitter=6", "mode=text"]` as keyword arguments: values are TOML, else strings."""
    arguments: dict[str, Any] = {}
    for pair in pairs or []:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise ConfigError(f"'{pair}': write it as key=value, as in 'jitter=6'")
        try:
            arguments[key] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            arguments[key] = value
    return arguments
