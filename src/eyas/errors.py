"""Errors that a user can act on: each says what was wrong and what to type instead."""


class EyasError(Exception):
    """Base class: shown by the command line as one line, without a traceback."""


class ConfigError(EyasError):
    """A recipe or an option cannot be used as written."""


class CheckpointError(EyasError):
    """A checkpoint is missing, incomplete or does not fit."""


class DatasetError(EyasError):
    """A dataset, a record or an image in it cannot be read."""


class EnvironmentFailure(EyasError):
    """An environment failed so often that the run cannot go on."""


class UnsupportedSpace(EyasError):
    """A space that the interface cannot put into words."""


class ModelError(EyasError):
    """A model or its processor cannot be driven."""


class LimitReached(ModelError):
    """A served model has been asked as much as it may be."""


class TrainingDiverged(EyasError):
    """Too many updates in a row were not finite."""
