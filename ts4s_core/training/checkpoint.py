"""Checkpoints: sealed artifacts from which any number of workers goes on, bit for bit.

At a step that is due every rank copies its state; a thread then writes the copy while training goes on. Each rank writes
the moments of its own slices, rank 0 the weights and the position; names of the moments' tensors say which elements they
are, so that ranks of another world size find theirs. Rank 0 seals when every rank has written.
"""

from __future__ import annotations

import functools
import json
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import safe_open

from ts4s_core.artifacts.manifest import FileEntry
from ts4s_core.artifacts.refs import ArtifactRef
from ts4s_core.artifacts.store import ArtifactStore, ArtifactWriter, put_part
from ts4s_core.errors import IntegrityError, StoreError, Ts4sError
from ts4s_core.onnx.weights import Array, read_weights
from ts4s_core.training.control_client import ControlClient
from ts4s_core.training.flat import Layout
from ts4s_core.training.job import TrainJob
from ts4s_core.training.scratch import scratch_file, write_tensors

log = logging.getLogger(__name__)

KEPT = 2
#: Longest time that ranks wait for each other's share of a checkpoint.
WRITE_LIMIT_S = 1_800.0
_PAUSES_S = (0.5, 1.0, 2.0, 4.0, 8.0)
_WEIGHTS, _BEST, _STATE = "weights.safetensors", "best.safetensors", "state.json"

T = TypeVar("T")


@dataclass
class Progressed:
    """Where a run stands after ``step`` steps, beside weights and moments.

    Attributes:
        step: steps that are done.
        best_loss: best validation loss so far.
        best_step: when it was reached.
        worse: validations since then.
        metrics: a row a step.
        strategy: what the strategy says of the run, as of its last join.
    """

    step: int = 0
    best_loss: float | None = None
    best_step: int = 0
    worse: int = 0
    metrics: list[dict[str, Any]] = field(default_factory=list)
    strategy: dict[str, Any] = field(default_factory=dict)

    def copy(self) -> Progressed:
        """A copy that training does not change."""
        return Progressed(self.step, self.best_loss, self.best_step, self.worse, list(self.metrics), self.strategy)


@dataclass(frozen=True)
class Snapshot:
    """A rank's copy of its state; weights on rank 0 alone.

    Attributes:
        moments: by tensor name ``exp_avg/<bucket>/<start>/<stop>``.
        weights: trainable weights by stored name.
        best: the best weights, where early stopping keeps them.
    """

    progressed: Progressed
    moments: dict[str, torch.Tensor]
    weights: dict[str, Array] | None
    best: dict[str, Array] | None


def named_moments(slices: list[tuple[int, int]], moments: Sequence[tuple[torch.Tensor, ...]]) -> dict[str, torch.Tensor]:
    """A copy of a rank's moments, named by the elements that they are."""
    named = {}
    for bucket, ((start, stop), pair) in enumerate(zip(slices, moments, strict=True)):
        for kind, tensor in zip(("exp_avg", "exp_avg_sq"), pair, strict=True):
            if stop > start:
                named[f"{kind}/{bucket}/{start}/{stop}"] = tensor.clone()
    return named


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
        step = snapshot.progressed.step
        started = time.monotonic()
        writer: ArtifactWriter | None = None
        try:
            if self._rank == 0:
                writer = retried(lambda: self._begin(step))
            ref = self._gather(step, "ref", str(writer.ref) if writer else None)[0]
            if ref is None:
                return
            share = self._share(ArtifactRef.parse(ref), snapshot)
            shares = self._gather(step, "files", share)
            if writer is not None:
                self._seal(writer, shares)
                log.info("checkpoint of step %d sealed in %.1f s", step, time.monotonic() - started)
        except (Ts4sError, OSError) as exc:
            # Training can go on without this one: the next is due soon, and a lost peer is the control channel's matter.
            log.warning("checkpoint of step %d was not written: %s", step, exc)
            if writer is not None:
                self._abandon(writer)

    def _begin(self, step: int) -> ArtifactWriter:
        job = self._job
        settings = {"train": job.train, "step": step}
        return self._store.begin(
            "checkpoint", job.name, job.key, settings=settings, upstream={"dataset": job.dataset, "model": job.model}
        )

    def _gather(self, step: int, what: str, value: Any) -> list[Any]:
        return self._control.gather(f"checkpoint/{step}/{what}", value, timeout_s=WRITE_LIMIT_S)

    def _share(self, ref: ArtifactRef, snapshot: Snapshot) -> list[dict[str, Any]] | str:
        """Write this rank's files; a failure is told to rank 0 as text."""
        entries = []
        try:
            for name, write in _files(snapshot, rank=self._rank):
                entries.append(asdict(retried(functools.partial(self._put, ref, name, write))))
        except (Ts4sError, OSError) as exc:
            return f"rank {self._rank}: {exc}"
        return entries

    def _put(self, ref: ArtifactRef, name: str, write: Callable[[Path], object]) -> FileEntry:
        with scratch_file() as local:
            write(local)
            return put_part(self._store, ref, name, local)

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


def retried(action: Callable[[], T]) -> T:
    """Do it again after a pause while the store fails, some fifteen seconds in all.

    Raises:
        StoreError, OSError: the last failure.
    """
    for pause in _PAUSES_S:
        try:
            return action()
        except IntegrityError:
            raise
        except (StoreError, OSError) as exc:
            log.warning("the store failed, again in %.1f s: %s", pause, exc)
            time.sleep(pause)
    return action()


def _files(snapshot: Snapshot, *, rank: int) -> Iterator[tuple[str, Callable[[Path], object]]]:
    """Names of a rank's files, and what writes them."""
    moments = {name: tensor.numpy() for name, tensor in snapshot.moments.items()}
    yield f"moments-{rank:05d}.safetensors", functools.partial(write_tensors, tensors=moments)
    for name, weights in ((_WEIGHTS, snapshot.weights), (_BEST, snapshot.best)):
        if weights is not None:
            yield name, functools.partial(write_tensors, tensors=weights)
    if snapshot.weights is not None:
        state = json.dumps(asdict(snapshot.progressed), allow_nan=False) + "\n"
        yield _STATE, lambda local: local.write_text(state, encoding="utf-8")


def prune(store: ArtifactStore, name: str, key: str, *, keep: int) -> None:
    """Delete all but the newest checkpoints of a key."""
    for old in checkpoints(store, name, key)[keep:]:
        try:
            store.delete(old)
        except (Ts4sError, OSError) as exc:
            log.warning("old checkpoint %s stays until gc: %s", old, exc)


def checkpoints(store: ArtifactStore, name: str, key: str) -> list[ArtifactRef]:
    """Sealed checkpoints of a training step, newest first."""
    refs = [ref for ref in store.versions("checkpoint", name) if ref.version.endswith(f"-{key[:8]}")]
    return [ref for ref in reversed(refs) if store.manifest(ref).key == key]


def _read_elements(file: Any, name: str, start: int | None, stop: int | None) -> torch.Tensor:
    found: torch.Tensor = file.get_tensor(name) if start is None else file.get_slice(name)[start:stop]
    return found


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint in a local, verified folder."""

    folder: Path

    @classmethod
    def open(cls, store: ArtifactStore, ref: ArtifactRef) -> Checkpoint:
        """Fetch and verify a checkpoint."""
        return cls(store.local(ref))

    def progressed(self) -> Progressed:
        """Where the run stood."""
        return Progressed(**json.loads((self.folder / _STATE).read_text(encoding="utf-8")))

    def weights(self) -> dict[str, Array]:
        """Trainable weights by stored name."""
        return read_weights(self.folder / _WEIGHTS)

    def best(self) -> dict[str, Array] | None:
        """The best weights so far, where early stopping keeps them."""
        path = self.folder / _BEST
        return read_weights(path) if path.exists() else None

    def pieces(self) -> Iterator[tuple[str, str, int, int, Callable[[int | None, int | None], torch.Tensor]]]:
        """Every rank's tensors of optimiser state: kind, bucket, start, stop, and what reads elements of it (None: all)."""
        for path in sorted(self.folder.glob("moments-*.safetensors")):
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118 (a safetensors file is no mapping)
                    kind, bucket, start, stop = name.split("/")
                    yield kind, bucket, int(start), int(stop), functools.partial(_read_elements, file, name)

    def restore_moments(
        self, layout: Layout, slices: list[tuple[int, int]], moments: list[tuple[torch.Tensor, torch.Tensor]]
    ) -> None:
        """Fill a rank's moments from whichever ranks wrote those elements.

        Raises:
            IntegrityError: if elements are missing.
        """
        filled = [0] * len(layout.bucket_sizes)
        for kind, name, start, stop, read in self.pieces():
            bucket = int(name)
            own_start, own_stop = slices[bucket]
            begin, end = max(own_start, start), min(own_stop, stop)
            if begin < end:
                target = moments[bucket][kind == "exp_avg_sq"]
                target[begin - own_start : end - own_start] = read(begin - start, end - start)
                filled[bucket] += end - begin
        for bucket, (start, stop) in enumerate(slices):
            if filled[bucket] != 2 * (stop - start):
                raise IntegrityError(
                    f"Checkpoint {self.folder.name} lacks moments of bucket {bucket}: it was made for another model"
                )
