"""The exception tree. Every message is one line that names the value, the limit and the remedy.

`cli.main` prints these without a traceback and exits with code 2; `--debug` shows the traceback.
"""


def shown(value, most: int = 200) -> str:
    """`value`, which may come from a file of anybody's, for a message: on one line, cut where it is long."""
    text = str(value) if isinstance(value, OSError) else repr(value)
    return text if len(text) <= most else text[: most - 3] + "..."


class PynanochatError(Exception):
    """Base of every error that is the user's to mend."""


class UsageError(PynanochatError):
    """A flag, a setting or an argument is wrong."""


class DataError(PynanochatError):
    """A data file or folder is missing, empty, corrupt or of the wrong form."""


class CheckpointError(PynanochatError):
    """A checkpoint is missing, damaged or belongs to other settings."""


class BackendError(PynanochatError):
    """A backend that was asked for cannot run this op here."""


class TrainingError(PynanochatError):
    """Training cannot go on: the loss stays non-finite, or memory or disk ran out."""


class EngineError(PynanochatError):
    """The engine could not answer: its process died or was stopped, or a model has no next token."""


class Interrupted(PynanochatError):
    """The run was stopped by a signal and has saved where it was."""
