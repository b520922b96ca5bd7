"""A checkpoint, read piece by piece."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from ts4s_core.artifacts.store import ArtifactStore
from ts4s_core.artifacts.versions.refs import ArtifactRef
from ts4s_core.errors import IntegrityError
from ts4s_core.models.weights import Array, read_weights
from ts4s_core.training.checkpoints.state import BEST_FILE, WEIGHTS_FILE
from ts4s_core.training.checkpoints.training_progress import TrainingProgress
from ts4s_core.training.exchange.buckets import Layout


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

    def progress(self) -> TrainingProgress:
        """The progress of the run when the checkpoint was made."""
        return TrainingProgress.of(self.folder)

    def weights(self) -> dict[str, Array]:
        """Trainable weights by stored name."""
        return read_weights(self.folder / WEIGHTS_FILE)

    def best(self) -> dict[str, Array] | None:
        """The best weights so far, where early stopping keeps them."""
        path = self.folder / BEST_FILE
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
