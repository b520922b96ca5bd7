"""Trainable parameters in a few flat buckets, reduced, stepped and exchanged as whole blocks: FP32, or FP64 where all are.

Legend: a *block* is 4,096 elements, the unit in which slices are dealt out to ranks and gradient norms are summed; a
*chunk* is 16 blocks, the unit in which the optimiser is called. The layout follows from the model alone, so it is the same
on every rank and for every number of workers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from ts4s_core.errors import UnsupportedModelError, listed

BLOCK = 4_096
CHUNK = 16 * BLOCK
ALIGNMENT = 64
#: A bucket is closed when it holds this many elements (6 MB): small enough that its exchange overlaps with backward.
BUCKET_ELEMENTS = 1_572_864


@dataclass(frozen=True)
class Slot:
    """One parameter's place: ``bucket`` and ``offset`` in elements."""

    name: str
    shape: tuple[int, ...]
    bucket: int
    offset: int

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Layout:
    """All slots and buckets.

    Attributes:
        slots: one a trainable parameter.
        bucket_sizes: elements of each bucket, multiples of ``BLOCK``.
        decays: for each bucket whether weight decay applies (it does not to biases and norms: fewer than two axes).
        dtype: of all of them.
    """

    slots: tuple[Slot, ...]
    bucket_sizes: tuple[int, ...]
    decays: tuple[bool, ...]
    dtype: torch.dtype = torch.float32

    @property
    def blocks(self) -> int:
        """Number of blocks of all buckets."""
        return sum(self.bucket_sizes) // BLOCK

    @property
    def elements(self) -> int:
        """Number of elements of all buckets, padding included."""
        return sum(self.bucket_sizes)

    def slices(self, rank: int, world_size: int) -> list[tuple[int, int]]:
        """The rank's own (start, stop) in each bucket, in elements: whole blocks, maybe none."""
        ranges = []
        for size in self.bucket_sizes:
            blocks = size // BLOCK
            ranges.append((rank * blocks // world_size * BLOCK, (rank + 1) * blocks // world_size * BLOCK))
        return ranges

    def views(self, buckets: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
        """Each parameter's tensor within flat buckets."""
        return {slot.name: buckets[slot.bucket][slot.offset : slot.offset + slot.size].view(slot.shape) for slot in self.slots}


def trainable_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Trainable parameters by name, a tied one once.

    Raises:
        UnsupportedModelError: if no parameter is trainable, or they are neither all FP32 nor all FP64, on the CPU.
    """
    found = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    wanted = torch.float64 if all(p.dtype == torch.float64 for p in found.values()) else torch.float32
    odd = [f"{name} ({p.dtype}, {p.device})" for name, p in found.items() if p.dtype != wanted or p.device.type != "cpu"]
    if odd:
        raise UnsupportedModelError(
            f"Training needs parameters on the CPU that are all FP32, or all FP64: got {listed(odd)}. Convert them first"
        )
    if not found:
        raise UnsupportedModelError(
            "The model has no trainable parameter: expected at least those of a head. "
            "Unfreeze the encoder, or set requires_grad on some"
        )
    return found


def lay_out(
    shapes: Sequence[tuple[str, tuple[int, ...]]],
    *,
    bucket_elements: int = BUCKET_ELEMENTS,
    dtype: torch.dtype = torch.float32,
) -> Layout:
    """Place parameters, given in order of use, into buckets in reverse, numbered as backward completes them."""
    members: list[list[tuple[str, tuple[int, ...]]]] = []
    sizes: list[int] = []
    completed: list[int] = []
    open_bucket: dict[bool, int] = {}
    for moment, (name, shape) in enumerate(reversed(shapes)):
        decay = len(shape) >= 2
        bucket = open_bucket.get(decay)
        if bucket is None or sizes[bucket] >= bucket_elements:
            bucket = open_bucket[decay] = len(sizes)
            members.append([])
            sizes.append(0)
            completed.append(0)
        members[bucket].append((name, tuple(shape)))
        sizes[bucket] += _padded(math.prod(shape), ALIGNMENT)
        completed[bucket] = moment
    order = sorted(range(len(sizes)), key=completed.__getitem__)
    slots: list[Slot] = []
    for number, bucket in enumerate(order):
        offset = 0
        for name, shape in members[bucket]:
            slots.append(Slot(name, shape, number, offset))
            offset += _padded(math.prod(shape), ALIGNMENT)
    return Layout(
        tuple(slots),
        tuple(_padded(max(sizes[bucket], 1), BLOCK) for bucket in order),
        tuple(len(members[bucket][0][1]) >= 2 for bucket in order),
        dtype,
    )


def attach(parameters: dict[str, nn.Parameter], views: dict[str, torch.Tensor], *, copy: bool) -> None:
    """Make every parameter a view of the flat buckets; with ``copy`` its values are written there first."""
    for name, parameter in parameters.items():
        if copy:
            views[name].copy_(parameter.data)
        parameter.data = views[name]


def chunks(start: int, stop: int) -> Iterator[tuple[int, int]]:
    """Cut a slice at the bucket's fixed grid of chunks: the same cuts, and so the same bits, for every slice."""
    while start < stop:
        end = min(stop, (start // CHUNK + 1) * CHUNK)
        yield start, end
        start = end


def _padded(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple
