"""Checkpoints: sealed artifacts from which any number of workers goes on, bit for bit.

At a step that is due every rank copies its state; a thread then writes the copy while training goes on. Each rank writes
the moments of its own slices, rank 0 the weights and the position; names of the moments' tensors say which elements they
are, so that ranks of another world size find theirs. Rank 0 seals when every rank has written.
"""

from __future__ import annotations

import functools
import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ts4s_core.artifacts.store import ArtifactStore, ArtifactWriter, stage_file
from ts4s_core.artifacts.versions.manifest import FileEntry
from ts4s_core.artifacts.versions.refs import ArtifactRef
from ts4s_core.errors import LeaseHeldError, StoreError, Ts4sError
from ts4s_core.retries import retried
from ts4s_core.training.checkpoints.listing import place_of, prune
from ts4s_core.training.checkpoints.scratch_files import scratch_file, write_tensors
from ts4s_core.training.checkpoints.state import BEST_FILE, WEIGHTS_FILE, Snapshot
from ts4s_core.training.checkpoints.training_progress import STATE_FILE
from ts4s_core.training.control.client import ControlClient
from ts4s_core.training.job import TrainJob

log = logging.getLogger(__name__)

KEPT = 2
#: Longest time that ranks wait for each other's share of a checkpoint.
WRITE_LIMIT_S = 1_800.0


class CheckpointWriter:
    """Writes one snapshot at a time in a thread; every rank has one, and all get the same snapshots' steps."""

    def __init__(self, job: TrainJob, store: ArtifactStore, control: ControlClient, *, rank: int) -> None:
        self._job = job
        self._store = store
        self._control = control
        self._rank = rank
        self._thread: threading.Thread | None = None

    @property
    def busy(self) -> bool:
        """Whether a snapshot is still being written."""
        return self._thread is not None and self._thread.is_alive()

    def write(self, snapshot: Snapshot) -> None:
        """Start to write; the thread before has ended."""
        assert not self.busy
        self._thread = threading.Thread(target=self._write, args=(snapshot,), name="checkpoint", daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Wait until the last snapshot is written or given up."""
        if self._thread is not None:
            self._thread.join()

    def _write(self, snapshot: Snapshot) -> None:
        step = snapshot.progress.step
        started = time.monotonic()
        writer: ArtifactWriter | None = None
        try:
            if self._rank == 0:
                writer = self._begin(step)
            ref = self._gather(step, "ref", str(writer.ref) if writer else None)[0]
            if ref is None:
                return
            share = self._share(ArtifactRef.parse(ref), snapshot)
            shares = self._gather(step, "files", share)
            if writer is not None:
                self._seal(writer, shares)
                log.info("checkpoint of step %d sealed in %.1f s", step, time.monotonic() - started)
        except LeaseHeldError as exc:
            # Another run trains this model by now: what this one would come to is sealed nowhere.
            self._control.fail(exc)
        except (Ts4sError, OSError) as exc:
            # Training can go on without this one: the next is due soon, and a lost peer is the control channel's matter.
            log.warning("checkpoint of step %d was not written: %s", step, exc)
            if writer is not None:
                self._abandon(writer)

    def _begin(self, step: int) -> ArtifactWriter | None:
        """A new version; None, which the other ranks are told so that they wait for nothing, where there can be none now."""
        job = self._job
        settings, upstream = {"train": job.train, **place_of(job, step)}, {"dataset": job.dataset, "model": job.model}
        try:
            return retried(lambda: self._store.begin("checkpoint", job.name, job.key, settings=settings, upstream=upstream))
        except LeaseHeldError:
            raise  # the attempt fails
        except Exception as exc:
            log.warning("checkpoint of step %d was not begun: %s", step, exc)
            return None

    def _gather(self, step: int, what: str, value: Any) -> list[Any]:
        return self._control.gather(f"checkpoint/{step}/{what}", value, timeout_s=WRITE_LIMIT_S)

    def _share(self, ref: ArtifactRef, snapshot: Snapshot) -> list[dict[str, Any]] | str:
        """Write this rank's files; a failure is sent to rank 0 as text."""
        entries = []
        try:
            for name, write in _files(snapshot, rank=self._rank):
                entries.append(asdict(retried(functools.partial(self._put, ref, name, write))))
        except Exception as exc:  # whatever it is, the others wait for this rank's word
            return f"rank {self._rank}: {exc}"
        return entries

    def _put(self, ref: ArtifactRef, name: str, write: Callable[[Path], object]) -> FileEntry:
        with scratch_file() as local:
            write(local)
            return stage_file(self._store.storage, ref, name, local)

    def _seal(self, writer: ArtifactWriter, shares: list[Any]) -> None:
        failed = [share for share in shares if isinstance(share, str)]
        if failed:
            raise StoreError("; ".join(failed))
        for share in shares:
            for record in share:
                writer.register(FileEntry(record["path"], record["size"], record["sha256"]))
        retried(writer.seal)
        prune(self._store, self._job.name, self._job.key, keep=KEPT)

    def _abandon(self, writer: ArtifactWriter) -> None:
        try:
            writer.abandon()
        except (Ts4sError, OSError) as exc:
            log.warning("files of an unfinished checkpoint stay until gc: %s", exc)


def _files(snapshot: Snapshot, *, rank: int) -> Iterator[tuple[str, Callable[[Path], object]]]:
    """Names of a rank's files, and what writes them."""
    moments = {name: tensor.numpy() for name, tensor in snapshot.moments.items()}
    yield f"moments-{rank:05d}.safetensors", functools.partial(write_tensors, tensors=moments)
    for name, weights in ((WEIGHTS_FILE, snapshot.weights), (BEST_FILE, snapshot.best)):
        if weights is not None:
            yield name, functools.partial(write_tensors, tensors=weights)
    if snapshot.weights is not None:
        state = snapshot.progress.to_json()
        yield STATE_FILE, lambda local: local.write_bytes(state)
