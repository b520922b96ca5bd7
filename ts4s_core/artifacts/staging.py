"""A version before it is sealed: its reservation, and the files that other processes stage for it."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from ts4s_core.artifacts.leases.lease import Fence, check_fences
from ts4s_core.artifacts.storage.storage import Storage
from ts4s_core.artifacts.versions.manifest import MAX_MANIFEST_BYTES, FileEntry, Manifest, RowGroup
from ts4s_core.artifacts.versions.refs import MANIFEST, TEMPORARY, ArtifactRef, check_content, check_path
from ts4s_core.artifacts.versions.verified import hash_file
from ts4s_core.errors import ConflictError, IntegrityError, StoreError, listed

_PARALLEL = 6


@dataclass(frozen=True)
class Reservation:
    """The writer of a version, and the leases and marks that it writes under.

    Attributes:
        token: the writer's own.
        fences: leases and marks that were held when the version was begun.
    """

    token: str
    fences: tuple[Fence, ...] = ()

    @classmethod
    def new(cls, storage: Storage) -> Reservation:
        """A new writer's reservation, under all leases and marks that the user of a storage holds.

        Raises:
            LeaseHeldError: if one of them was lost.
        """
        made = cls(uuid.uuid4().hex, tuple(storage.fences))
        made.check(storage)
        return made

    def check(self, storage: Storage) -> None:
        """Make sure that the leases and marks that it was made under still hold.

        Raises:
            LeaseHeldError: if one of them was lost.
        """
        check_fences(storage, self.fences)

    def to_json(self) -> bytes:
        """As it is stored."""
        return json.dumps({"token": self.token, "fences": [fence.to_json() for fence in self.fences]}).encode()

    @classmethod
    def from_json(cls, data: bytes, path: str) -> Reservation:
        """Read a reservation; that of an earlier ts4s is empty.

        Raises:
            IntegrityError: if the data are not a valid reservation.
        """
        try:
            record = json.loads(data or b'{"token": "", "fences": []}')
            return cls(str(record["token"]), tuple(Fence.from_json(fence) for fence in record["fences"]))
        except (ValueError, TypeError, KeyError, RecursionError) as exc:
            raise IntegrityError(f"Reservation {path} is damaged: expected one as a writer makes it, got {exc}") from exc


def reservation_of(storage: Storage, ref: ArtifactRef) -> Reservation | None:
    """The reservation of a version; None if it has no writer (any more)."""
    data = storage.reservation(str(ref))
    return None if data is None else Reservation.from_json(data, storage.stage(str(ref)))


def stage_file(
    storage: Storage, ref: ArtifactRef, path: str, local_file: Path, row_groups: Sequence[RowGroup] | None = None
) -> FileEntry:
    """Write one file of a version that another process began: for executors. The last attempt that is registered counts.

    Returns:
        the entry to send back, for :meth:`ts4s_core.artifacts.writer.ArtifactWriter.register`.

    Raises:
        ConflictError: if the version is sealed, or was given up or taken away.
        LeaseHeldError: if a lease that it was begun under was lost.
    """
    check_content(check_path(path))
    before = reservation_of(storage, ref)
    if before is None:
        raise _too_late(ref, path)
    before.check(storage)
    size, sha256 = hash_file(local_file)
    entry = FileEntry(path, size, sha256, True, None if row_groups is None else tuple(row_groups))
    stored = f"{storage.stage(str(ref))}/{staged_name(entry)}"
    if storage.put_file(local_file, stored) != (size, sha256):
        raise StoreError(f"File {path!r} of {ref} changed while it was sent: {local_file}. Run the command again")
    # The upload may have taken long.
    after = reservation_of(storage, ref)
    if after is None or after.token != before.token:
        storage.delete(stored)
        raise _too_late(ref, path)
    return entry


def staged_name(entry: FileEntry) -> str:
    """The name of a staged file until its version is sealed; attempts that wrote other bytes get other names."""
    name = hashlib.sha256(f"{entry.path}\0{entry.sha256}".encode()).hexdigest()[:40]
    return f"{TEMPORARY}part-{name}"


def check_files(storage: Storage, ref: ArtifactRef, files: Sequence[FileEntry], staged: Sequence[FileEntry]) -> None:
    """Give staged files their final names, and make sure that every file of a version is there with its size.

    Raises:
        IntegrityError: naming those that are not.
    """
    stage = storage.stage(str(ref))
    found = _sizes(storage, stage)
    moves = [(f"{stage}/{name}", f"{stage}/{entry.path}") for entry in staged if (name := staged_name(entry)) in found]
    if moves:
        with ThreadPoolExecutor(_PARALLEL, thread_name_prefix="seal") as pool:
            list(pool.map(lambda move: storage.move(*move), moves))
        found = _sizes(storage, stage)
    wrong = [
        f"{entry.path} (expected {entry.size} bytes, got {found.get(entry.path, 'none')})"
        for entry in files
        if found.get(entry.path) != entry.size
    ]
    if wrong:
        raise IntegrityError(
            f"Version {ref} cannot be sealed, files are not there as they were written: {listed(wrong)}. Run it again"
        )


def readable(manifest: Manifest) -> bytes:
    """A manifest as it is stored.

    Raises:
        StoreError: if it is larger than one that is read again.
    """
    data = manifest.to_json()
    if len(data) > MAX_MANIFEST_BYTES:
        raise StoreError(
            f"Version {manifest.ref} cannot be sealed: its {MANIFEST} would have {len(data):,} bytes for {len(manifest.files):,} "
            f"files, expected at most {MAX_MANIFEST_BYTES:,}. Write fewer files, or smaller facts"
        )
    return data


def _sizes(storage: Storage, stage: str) -> dict[str, int]:
    return {entry.path.removeprefix(f"{stage}/"): entry.size for entry in storage.list(stage, temporary=True)}


def _too_late(ref: ArtifactRef, path: str) -> ConflictError:
    return ConflictError(
        f"File {path!r} comes too late for {ref}: that version was sealed, given up or deleted meanwhile. Run the command again"
    )
