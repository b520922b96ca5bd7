"""The ledger: which samples stood in which part of which step, for audit."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType

from ts4s_core.training.job import TrainJob


@contextlib.contextmanager
def ledger_of(job: TrainJob, *, rank: int) -> Iterator[Ledger | None]:
    """The ledger of a rank in a job; None if the job keeps none."""
    if job.ledger is None:
        yield None
        return
    with Ledger(Path(job.ledger), version=job.output_ref.version, attempt=job.attempt, rank=rank) as ledger:
        yield ledger


class Ledger:
    """One rank's lines ``step,part,sample sample ...``; steps count from 1.

    Each attempt has files of its own, named by the version that it makes, so that resumed runs add to the audit.
    """

    def __init__(self, folder: Path, *, version: str, attempt: int, rank: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        # Line by line: an attempt may end at any moment.
        self._file = (folder / f"{version}-{attempt:03d}-{rank:05d}.csv").open("w", encoding="ascii", buffering=1)
        self._file.write("step,part,samples\n")

    def write(self, step: int, part: int, samples: Sequence[str]) -> None:
        """Add the line of a part."""
        self._file.write(f"{step + 1},{part},{' '.join(samples)}\n")

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._file.close()
