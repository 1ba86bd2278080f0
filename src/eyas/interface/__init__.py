"""Between environment and model: observations become messages, completions become actions."""

from eyas.interface.formats import FORMATS, JsonFormat
from eyas.interface.interface import Interface

__all__ = ["FORMATS", "Interface", "JsonFormat"]
