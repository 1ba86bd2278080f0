"""What the viewer answers where it cannot answer."""

from eyas.errors import EyasError


class NotServed(EyasError):
    """There is no such run, episode or picture in the served folders."""


class BadQuestion(EyasError):
    """A parameter of a request cannot be used as written."""
