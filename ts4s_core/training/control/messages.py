"""What travels over the control channel: one class for each message, one JSON object a line, distinguished by its ``type``.

The first line of a connection is a :class:`Hello`; everything else a worker says is a :data:`FromWorker`, and what the driver
answers a :data:`FromDriver`. Values that ranks gather are JSON of whoever gathers them.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal, TypeAlias, TypeVar

from pydantic import Field, TypeAdapter, ValidationError

from ts4s_core.artifacts.facts import Record, problems_of
from ts4s_core.artifacts.versions.manifest import FileEntry
from ts4s_core.errors import TrainingError, Ts4sError, from_wire, listed, to_wire
from ts4s_core.training.facts import StrategyFacts
from ts4s_core.training.step_rows import StepRow

#: Longest line that is read: everybody's share of what ranks gather.
MAX_LINE_BYTES = 64 * 2**20
#: Longest introduction; who sends it may be anybody.
MAX_HELLO_BYTES = 4_096


class Hello(Record):
    """A worker introduces itself.

    Attributes:
        secret: the attempt's.
        address: interface by which peers reach the worker.
    """

    secret: str = Field(repr=False)
    rank: int
    host: str
    pid: int
    address: str
    type: Literal["hello"] = "hello"


class Beat(Record):
    """A worker lives, and has done so many steps."""

    step: int
    type: Literal["beat"] = "beat"


class Gather(Record):
    """A worker's value under a key; the driver answers with everybody's."""

    key: str
    value: Any = None
    type: Literal["gather"] = "gather"


class ErrorRecord(Record):
    """An error of ours as its class name and text; see :func:`ts4s_core.errors.to_wire`."""

    type: str
    message: str


class Failed(Record):
    """Why a worker ends."""

    error: ErrorRecord
    type: Literal["error"] = "error"

    @classmethod
    def by(cls, error: Ts4sError) -> Failed:
        """The message of an error."""
        return cls(error=ErrorRecord(**to_wire(error)))

    def raised(self) -> Ts4sError:
        """The error that the worker raised."""
        return from_wire({"type": self.error.type, "message": self.error.message})


class Note(Record):
    """A worker's log record of level INFO."""

    message: str
    type: Literal["note"] = "note"


class Warned(Record):
    """A worker's log record of level WARNING."""

    message: str
    type: Literal["warning"] = "warning"


class Started(Record):
    """Rank 0 begins to step.

    Attributes:
        step: steps that were done before.
        steps: of the whole run.
    """

    step: int
    steps: int
    type: Literal["start"] = "start"


class Stepped(Record):
    """Rows of rank 0's steps since the last such message."""

    rows: list[StepRow]
    type: Literal["metrics"] = "metrics"


class Validated(Record):
    """The loss on the validation side after ``step`` steps."""

    step: int
    loss: float
    type: Literal["validation"] = "validation"


class TrainedWeights(Record):
    """What rank 0 wrote into the output version, and when it was best.

    Attributes:
        weights: the file.
        weights_sha256: over the trained tensors alone.
        best_step: step of the best validation loss; 0 without validation.
        validation_loss: the best one.
        strategy: what the strategy says of the run.
    """

    weights: FileEntry
    weights_sha256: str
    best_step: int
    validation_loss: float | None = None
    strategy: StrategyFacts


class WorkerResult(Record):
    """How a rank ended: its number, the steps it took, and on rank 0 what it wrote."""

    rank: int
    steps: int
    trained: TrainedWeights | None = None


class Result(Record):
    """A worker's result."""

    result: WorkerResult
    type: Literal["result"] = "result"


class Done(Record):
    """A worker has sent its last message."""

    type: Literal["done"] = "done"


class Welcome(Record):
    """The driver lets a worker in.

    Attributes:
        timeout_s: longest silence, of either end.
        store_secrets: the store's secrets, by the name of their setting.
    """

    timeout_s: float
    store_secrets: dict[str, str] = Field(default_factory=dict, repr=False)
    type: Literal["welcome"] = "welcome"


class DriverBeat(Record):
    """The driver's heartbeat."""

    type: Literal["beat"] = "beat"


class Gathered(Record):
    """All ranks' values under a key, in rank order."""

    key: str
    values: list[Any]
    type: Literal["gathered"] = "gathered"


class Bye(Record):
    """The driver has a worker's result."""

    type: Literal["bye"] = "bye"


class Abort(Record):
    """The attempt failed: end."""

    type: Literal["abort"] = "abort"


#: Messages that are for whoever follows the training; the channel itself takes the others.
Progressing: TypeAlias = Started | Stepped | Validated | Result
FromWorker: TypeAlias = Beat | Gather | Failed | Note | Warned | Progressing | Done
FromDriver: TypeAlias = Welcome | DriverBeat | Gathered | Bye | Abort

_Message = TypeVar("_Message")
_HELLO: TypeAdapter[Hello] = TypeAdapter(Hello)
_FROM_WORKER: TypeAdapter[FromWorker] = TypeAdapter(Annotated[FromWorker, Field(discriminator="type")])
_FROM_DRIVER: TypeAdapter[FromDriver] = TypeAdapter(Annotated[FromDriver, Field(discriminator="type")])


def encoded(message: Hello | FromWorker | FromDriver) -> bytes:
    """A message as a line.

    Raises:
        TrainingError: if it is longer than is read at the other end.
        ValueError: on a number that JSON has not.
    """
    line = json.dumps({"type": message.type, **message.to_json()}, allow_nan=False).encode() + b"\n"
    if len(line) > MAX_LINE_BYTES:
        what = f"{message.type} {message.key!r}" if isinstance(message, Gather | Gathered) else message.type
        raise TrainingError(
            f"Message {what} of the control channel is too large: expected at most {MAX_LINE_BYTES / 2**20:.0f} MiB, "
            f"got {len(line) / 2**20:.0f}. Train with fewer workers, or a model with fewer running statistics"
        )
    return line


def hello_of(line: bytes) -> Hello:
    """The introduction in a line.

    Raises:
        ValueError: if the line is not a valid introduction.
    """
    return _read(_HELLO, line)


def from_worker(line: bytes) -> FromWorker:
    """A worker's message.

    Raises:
        ValueError: if the line is not a valid message of a worker.
    """
    return _read(_FROM_WORKER, line)


def from_driver(line: bytes) -> FromDriver:
    """The driver's message.

    Raises:
        ValueError: if the line is not a valid message of the driver.
    """
    return _read(_FROM_DRIVER, line)


def _read(adapter: TypeAdapter[_Message], line: bytes) -> _Message:
    try:
        return adapter.validate_json(line)
    except ValidationError as exc:
        raise ValueError(f"expected a message of the control channel, got one with {listed(problems_of(exc))}") from None
