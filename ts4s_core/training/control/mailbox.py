"""Small objects in the store, by which a training and its client hear of each other where no connection can be made between them.

They lie in the staging folder of the version that is trained, under a temporary name: whatever is left there goes with it.
The client writes one object, again and again: a nonce, a count that says that it lives, and its wish to end. Rank 0 writes
numbered lists of events, which the client deletes when it has read them.
"""

from __future__ import annotations

import json
import uuid
from dataclasses import asdict, dataclass
from typing import Annotated, Literal, TypeAlias

from pydantic import Field, TypeAdapter, ValidationError

from ts4s_core.artifacts.facts import Record, problems_of
from ts4s_core.artifacts.storage.storage import Storage
from ts4s_core.artifacts.versions.refs import TEMPORARY, ArtifactRef
from ts4s_core.errors import NotFoundError, SettingsError, StoreError, listed
from ts4s_core.training.control.messages import Failed, Progressing

_PREFIX = f"{TEMPORARY}control-"
_CLIENT = "client.json"


class ClientSign(Record):
    """What the client says.

    Attributes:
        nonce: the attempt's.
        beat: another number at each sign of life.
        ended: whether the attempt is to end.
    """

    nonce: str
    beat: int = 0
    ended: bool = False


class Joined(Record):
    """A worker has connected to rank 0."""

    rank: int
    host: str
    pid: int
    address: str
    type: Literal["joined"] = "joined"


class Said(Record):
    """A line of the log, with its level as in :mod:`logging`."""

    level: int
    text: str
    type: Literal["said"] = "said"


class Progressed(Record):
    """A worker's message for whoever follows the training."""

    rank: int
    message: Annotated[Progressing, Field(discriminator="type")]
    type: Literal["progress"] = "progress"


Event: TypeAlias = Joined | Said | Progressed | Failed
_EVENTS: TypeAdapter[list[Event]] = TypeAdapter(list[Annotated[Event, Field(discriminator="type")]])


@dataclass(frozen=True)
class MailAddress:
    """Where the objects of an attempt are.

    Attributes:
        folder: in the store: the version's, until it is sealed.
        generation: the attempt's.
        nonce: what the client's object holds, if it is this store.
    """

    folder: str
    generation: int
    nonce: str

    @classmethod
    def new(cls, storage: Storage, output: ArtifactRef, generation: int) -> MailAddress:
        """The address of an attempt that writes the version ``output``."""
        return cls(storage.stage(str(output)), generation, uuid.uuid4().hex)

    def path(self, name: str) -> str:
        """The path of an object."""
        return f"{self.folder}/{_PREFIX}{self.generation}-{name}"

    def to_wire(self) -> str:
        """As one line of JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_wire(cls, text: str) -> MailAddress:
        """The address that :meth:`to_wire` wrote."""
        return cls(**json.loads(text))


class Mailbox:
    """The objects of one attempt, for either end.

    Args:
        storage: the store as this end sees it.
        address: where in it.
    """

    def __init__(self, storage: Storage, address: MailAddress) -> None:
        self._storage = storage
        self._address = address

    def write_sign(self, *, beat: int, ended: bool = False) -> None:
        """The client's object, over the one before."""
        sign = ClientSign(nonce=self._address.nonce, beat=beat, ended=ended)
        self._storage.write_bytes(self._address.path(_CLIENT), json.dumps(sign.to_json()).encode())

    def read_sign(self) -> ClientSign:
        """The client's object.

        Raises:
            SettingsError: if it is not there, or another attempt's: this end's store is not the client's.
            StoreError: if the store fails.
        """
        path = self._address.path(_CLIENT)
        try:
            sign = ClientSign.model_validate_json(self._storage.read_bytes(path))
        except (NotFoundError, ValidationError):
            sign = None
        if sign is None or sign.nonce != self._address.nonce:
            raise SettingsError(
                f"storage.uri {self._storage.uri} is not the same store for the cluster's workers as for this program: expected "
                f"{path} in it, got {'none' if sign is None else 'another one'}. Give a folder that is mounted on every host, "
                "or s3://bucket/prefix"
            )
        return sign

    def write_events(self, number: int, events: list[Event]) -> None:
        """Rank 0's list with a number."""
        data = json.dumps([{"type": event.type, **event.to_json()} for event in events], allow_nan=False).encode()
        self._storage.write_bytes(self._events(number), data)

    def take_events(self, number: int) -> list[Event] | None:
        """Rank 0's list with a number, which is deleted; None if it is not there yet.

        Raises:
            StoreError: if the store fails, or what is there is no such list.
        """
        try:
            data = self._storage.read_bytes(self._events(number))
        except NotFoundError:
            return None
        try:
            events = _EVENTS.validate_json(data)
        except ValidationError as exc:
            raise StoreError(f"{self._events(number)}: expected events of a training, got {listed(problems_of(exc))}") from None
        self._storage.delete(self._events(number))
        return events

    def remove(self) -> None:
        """Delete all of them, and those of earlier attempts at the same version."""
        for entry in self._storage.list(self._address.folder, temporary=True):
            if entry.path.rpartition("/")[2].startswith(_PREFIX):
                self._storage.delete(entry.path)

    def _events(self, number: int) -> str:
        return self._address.path(f"events-{number:08d}.json")
