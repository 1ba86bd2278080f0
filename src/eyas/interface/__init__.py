"""Between environment and model: observations become messages, completions become actions."""

from eyas.interface.actions import ActionCodec, codec_for
from eyas.interface.formats import FORMATS, Format, register_format
from eyas.interface.history import History
from eyas.interface.interface import Interface
from eyas.interface.observations import Observer, observer_for

__all__ = [
    "FORMATS",
    "ActionCodec",
    "Format",
    "History",
    "Interface",
    "Observer",
    "codec_for",
    "observer_for",
    "register_format",
]
