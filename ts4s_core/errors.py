"""Every error that ts4s raises on purpose, in one tree.

    Ts4sError                    failed at run time                         exit 1
    ├── InputError               settings or input are wrong                exit 2
    │   ├── SettingsError        a flag, a variable or a config file
    │   ├── SourceError          a model or data source cannot be read
    │   ├── DataError            the rows themselves (labels, sides, bad rows)
    │   ├── NotFoundError        no such artifact, model, alias or version
    │   └── UnsupportedModelError  a model, opset or operator that is not taken
    ├── StoreError               the store failed, or refused an operation
    │   ├── ConflictError        somebody else wrote that object first
    │   └── IntegrityError       a file is changed, cut or missing
    ├── LeaseHeldError           another run holds the model
    ├── ParityError              the imported model differs from the original
    ├── TrainingError            a training attempt failed
    │   ├── NonFiniteError       loss or gradient is not finite
    │   ├── WorkerFailedError    a worker raised an error that is not one of these
    │   └── WorkerLostError      a worker died or fell silent
    └── SparkError               Spark or Java failed
        └── SlotsError           fewer task slots than workers

A message says: what failed, for which, what was expected, what was found, what to do.
Foreign exceptions are wrapped once, at the edge, with ``raise ... from``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ts4s_core.addresses import without_secrets
from ts4s_core.shown_text import line

MAX_MESSAGE_CHARS = 2_000
MAX_LISTED = 10


class Ts4sError(Exception):
    """Base of all errors of this project; ``exit_code`` is what the command line ends with."""

    exit_code = 1

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


class InputError(Ts4sError):
    """Settings or input are wrong. Nothing was written; the remedy is the user's."""

    exit_code = 2


class SettingsError(InputError):
    """A flag, an environment variable or a configuration file is wrong."""


class SourceError(InputError):
    """A model source or a data source cannot be found or read."""


class DataError(InputError):
    """The data can be read, but cannot be trained on."""


class NotFoundError(InputError):
    """No artifact, model, alias or version has that name."""


class UnsupportedModelError(InputError):
    """A model family, an ONNX opset, an operator or a shape that is not taken."""


class StoreError(Ts4sError):
    """The artifact store failed, or refused an operation."""


class ConflictError(StoreError):
    """A create-only object exists already."""


class IntegrityError(StoreError):
    """A stored file does not have the size or the hash that its manifest says."""


class LeaseHeldError(Ts4sError):
    """Another run holds the model."""


class ParityError(Ts4sError):
    """The imported model does not compute what the original computes."""


class TrainingError(Ts4sError):
    """A training attempt failed."""


class NonFiniteError(TrainingError):
    """A loss or a gradient is not finite; no weight was updated in that step."""


class WorkerLostError(TrainingError):
    """A worker died, or was silent for longer than ``train.timeout_s``."""


class WorkerFailedError(TrainingError):
    """A worker raised an error that is not one of ours."""


class SparkError(Ts4sError):
    """Spark or Java could not be started, or failed."""


class SlotsError(SparkError):
    """Spark has fewer task slots than training needs."""


def one_line(text: str) -> str:
    """Fold a message onto one line without secrets of addresses, show what a terminal would obey, and bound its length."""
    folded = line(without_secrets(" ".join(text.split())))
    if len(folded) > MAX_MESSAGE_CHARS:
        folded = folded[: MAX_MESSAGE_CHARS - 4] + " ..."
    return folded


def listed(items: Iterable[object], most: int = MAX_LISTED) -> str:
    """``a, b, c and 4 more``: a list that stays short on big data."""
    names = [str(item) for item in items]
    if len(names) <= most:
        return ", ".join(names)
    return f"{', '.join(names[:most])} and {len(names) - most} more"


def _tree(root: type[Ts4sError]) -> Iterator[type[Ts4sError]]:
    yield root
    for child in root.__subclasses__():
        yield from _tree(child)


def to_wire(error: Ts4sError) -> dict[str, str]:
    """An error as JSON, to cross a process boundary."""
    return {"type": type(error).__name__, "message": str(error)}


def from_wire(record: dict[str, str]) -> Ts4sError:
    """The error that :func:`to_wire` wrote; an unknown type becomes the base class."""
    classes = {cls.__name__: cls for cls in _tree(Ts4sError)}
    return classes.get(record.get("type", ""), Ts4sError)(record.get("message", "unknown error"))
