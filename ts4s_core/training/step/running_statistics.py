"""Running statistics: what batch normalisation learns beside the weights, in the same bits for any number of workers.

Every part of a step starts from the same statistics and moves them by what it saw; the step's are the mean over its parts,
summed in part order. So a part is normalised by its own rows, whoever computes it.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ts4s_core.errors import UnsupportedModelError
from ts4s_core.models.weights import Array
from ts4s_core.torch_internals import NormalisingLayer, version_of
from ts4s_core.training.exchange.exchange import Exchange

#: Numbers that a rank brings to one gather.
_AT_ONCE = 4_096


class RunningStatistics:
    """The statistics of a module's normalisation layers; none: every method returns at once."""

    def __init__(self, model: nn.Module) -> None:
        self._floats: dict[str, torch.Tensor] = {}
        self._counts: dict[str, torch.Tensor] = {}
        for path, module in model.named_modules():
            if isinstance(module, NormalisingLayer) and module.track_running_stats:
                for local, buffer in module.named_buffers(recurse=False):
                    place = self._floats if buffer.is_floating_point() else self._counts
                    place[f"{path}.{local}" if path else local] = buffer
        own = {id(buffer) for buffer in (*self._floats.values(), *self._counts.values())}
        self._others = [(name, buffer, version_of(buffer)) for name, buffer in model.named_buffers() if id(buffer) not in own]
        self._model = model
        self._start: NDArray[np.floating] = np.zeros(0, np.float32)
        self._start_counts: list[torch.Tensor] = []
        self._parts: list[NDArray[np.float64]] = []

    def values(self) -> dict[str, Array]:
        """The statistics by name; views."""
        return {name: buffer.numpy() for name, buffer in (self._floats | self._counts).items()}

    def begin(self) -> None:
        """A step begins."""
        if self._floats:
            self._start = self._flat()
            self._start_counts = [buffer.clone() for buffer in self._counts.values()]
            self._parts = []

    def end_part(self, *, computed: bool) -> None:
        """A part was computed, or is empty: note its statistics and go back to the step's first.

        Raises:
            UnsupportedModelError: if the module keeps other state that forward changes.
        """
        if computed:
            self._refuse_changes()
        if self._floats:
            self._parts.append(np.concatenate([[float(computed)], self._flat() if computed else np.zeros(len(self._start))]))
            self._fill(self._start)
            for buffer, count in zip(self._counts.values(), self._start_counts, strict=True):
                buffer.copy_(count)

    def end(self, exchange: Exchange) -> None:
        """The step is over: the mean of all parts' statistics, the same on every rank."""
        if not self._floats:
            return
        own = np.stack(self._parts)
        everybody = []
        for start in range(0, own.shape[1], _AT_ONCE):
            piece = np.ascontiguousarray(own[:, start : start + _AT_ONCE])
            # Row by row: the gather's room is made for one vector of that length.
            rows = [exchange.gather(row.copy())[:, None, :].copy() for row in piece]
            everybody.append(np.concatenate(rows, axis=1).reshape(-1, piece.shape[1]))
        parts = np.concatenate(everybody, axis=1)
        count = float(parts[:, 0].sum())
        if count:
            self._fill((parts[:, 1:].sum(axis=0) / count).astype(self._start.dtype))
            for buffer in self._counts.values():
                buffer.add_(1)

    def _flat(self) -> NDArray[np.floating]:
        flat: NDArray[np.floating] = np.concatenate([buffer.numpy().reshape(-1) for buffer in self._floats.values()])
        return flat

    def _fill(self, values: NDArray[np.floating]) -> None:
        """Set the statistics."""
        start = 0
        for buffer in self._floats.values():
            buffer.copy_(torch.from_numpy(values[start : start + buffer.numel()]).view_as(buffer))
            start += buffer.numel()

    def _refuse_changes(self) -> None:
        now = dict(self._model.named_buffers())
        for name, buffer, version in self._others:
            if now.get(name) is not buffer or version_of(buffer) != version:
                raise UnsupportedModelError(
                    f"Buffer {name} of the module is changed by forward: expected only the running statistics of "
                    "torch's normalisation layers to change. Make it a parameter, or compute it in every forward"
                )
