"""The cost model of a training step: from a short measurement of one machine to any number of workers.

Legend: W workers, n of them on a host, K logical shards (parts of a step), P = K / W parts of a worker, B rows of a part
padded to T tokens, E trained elements (padded to blocks), S = 4 E bytes of them.

*Compute.* A part takes ``a + b BT + c BT^2`` seconds: per-call cost, the matrix products that grow with tokens, the
attention products that grow with tokens times length (Kaplan et al. 2020, "Scaling Laws for Neural Language Models", section
2.1: 6 N FLOPs a token forward and backward, plus a term in the length). The three are fitted to measured parts of the real
model, once with this machine to itself (W = 1) and once with as many processes as it holds workers, because cores share
memory bandwidth and clock. Synchronous workers wait for the slowest: a step's compute is the mean over planned steps of the
largest sum over a worker's parts. The parts are those that training would compose of the real lengths.

*Optimiser.* Memory-bound and divided by W: each worker steps its own slice (ZeRO, Rajbhandari et al. 2020, section 5).

*Exchange.* Reduce-scatter and all-gather move ``S (W - 1) / W`` bytes into and out of every worker each, the least that any
all-reduce can (Patarasuk and Yuan 2009, "Bandwidth optimal all-reduce algorithms"). On one host it is shared memory: a pass
over memory, measured with the part that comes last. Between hosts a message costs ``latency + bytes / bandwidth`` (Hockney
1994), the n workers of a host share its network, and each byte is copied by both ends' processors. Buckets are sent as
backward completes them, tables of embeddings at its very end: what arrives after backward delays the step, and the whole
all-gather does.

*Averaging* exchanges weights and both moments every f steps, three times both phases, and steps all E on every worker;
nobody waits in between. *Hogwild* sends every gradient and receives every weight in each step, and an owner makes W updates
of E / W elements.

*Memory of a worker.* What was measured at W = 1 (program, weights, gradients, activations of the largest part), less the
moments that others hold and the levels of the reduction tree that P parts need not, plus, between hosts, the peers' pieces
of the largest bucket.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

#: Bytes of a trained element.
ELEMENT_BYTES = 4
#: Share of a line's bits that are payload: Ethernet, IP and TCP headers of full frames (1,448 of 1,538 bytes).
PAYLOAD = 1_448 / 1_538
#: Of a message between two hosts of one network, with what gloo does for it.
LATENCY_S = 2e-4
#: Passes over memory that a sent or received byte costs its host: into the kernel's buffer and out of it.
COPIES = 2
#: Share of a part's time that is backward: twice the products of forward.
BACKWARD = 2 / 3

#: Rows and padded length of a part; (0, 0): it has none.
Shape = tuple[int, int]


@dataclass(frozen=True)
class PartCost:
    """Seconds of a part: ``call + token B T + attention B T T``, and ``last`` for what ends a step's backward."""

    call: float
    token: float
    attention: float
    last: float

    def seconds(self, shape: Shape) -> float:
        """Of one part; nothing where there are no rows."""
        rows, length = shape
        return self.call + rows * length * (self.token + self.attention * length) if rows else 0.0


@dataclass(frozen=True)
class LoadMeasurement:
    """The measurements with a number of busy processes on this machine.

    Attributes:
        parts: cost of parts.
        optimiser_s: of a step over all elements.
        rest_s: everything else of a step: batches, bookkeeping.
    """

    parts: PartCost
    optimiser_s: float
    rest_s: float


@dataclass(frozen=True)
class Measurements:
    """The measurements of a model on a machine.

    Attributes:
        alone: with one worker.
        crowded: with as many as the machine holds.
        bucket_elements: trained elements by bucket, in the order in which backward completes them.
        table_buckets: the buckets that wait for the gradients of embedding tables.
        memory_bytes: peak of the one worker.
        memory_bytes_per_s: bandwidth of this machine's memory, read and write.
        steps: the parts of planned steps.
        shards: K.
    """

    alone: LoadMeasurement
    crowded: LoadMeasurement
    bucket_elements: tuple[int, ...]
    table_buckets: frozenset[int]
    memory_bytes: int
    memory_bytes_per_s: float
    steps: tuple[tuple[Shape, ...], ...]
    shards: int

    @property
    def elements(self) -> int:
        """E."""
        return sum(self.bucket_elements)


@dataclass(frozen=True)
class Cluster:
    """Where the workers run.

    Attributes:
        per_host: workers of a host.
        network_bytes_per_s: each way, of a host's network.
    """

    per_host: int
    network_bytes_per_s: float


@dataclass(frozen=True)
class Forecast:
    """The cost of training with a number of workers.

    Attributes:
        seconds: of a step, and of it ``compute``, ``optimiser``, ``exchange`` and ``rest``.
        traffic_bytes: that one worker sends in a step.
        memory_bytes: of one worker.
    """

    workers: int
    hosts: int
    seconds: float
    compute_s: float
    optimiser_s: float
    exchange_s: float
    rest_s: float
    traffic_bytes: float
    memory_bytes: int


def forecast(
    measured: Measurements, cluster: Cluster, *, workers: int, strategy: str = "synchronous", averaging_every: int = 1
) -> Forecast:
    """The cost of a step.

    Args:
        measured: the model on this machine.
        cluster: where its workers run.
        workers: W, which divides K.
        strategy: ``train.strategy``.
        averaging_every: steps between joins (strategy averaging).
    """
    level = measured.alone if workers == 1 else measured.crowded
    own = measured.shards // workers
    ranks = [[sum(map(level.parts.seconds, step[at : at + own])) for at in range(0, len(step), own)] for step in measured.steps]
    waits = strategy == "synchronous"
    compute = float(np.mean([max(step) if waits else np.mean(step) for step in ranks])) + level.parts.last
    last = float(np.mean([level.parts.seconds(step[own - 1]) for step in measured.steps]))
    optimizer = level.optimiser_s / (workers if waits else 1)
    hosts = -(-workers // cluster.per_host)
    size = ELEMENT_BYTES * measured.elements
    traffic = 2 * size * (workers - 1) / workers
    if strategy == "averaging":
        traffic *= 3 / averaging_every
    exchange = 0.0
    if workers > 1 and (hosts > 1 or strategy == "hogwild"):
        exchange = _exchange(measured, cluster, workers=workers, hidden_s=BACKWARD * last if waits else 0.0)
        exchange *= 3 / averaging_every if strategy == "averaging" else 1
    elif workers > 1 and strategy == "averaging":
        exchange = 3 * 3 * size / measured.memory_bytes_per_s / averaging_every
    return Forecast(
        workers,
        hosts,
        compute + optimizer + exchange + level.rest_s,
        compute,
        optimizer,
        exchange,
        level.rest_s,
        traffic,
        worker_memory(measured, workers=workers, hosts=hosts, strategy=strategy),
    )


def worker_memory(measured: Measurements, *, workers: int, hosts: int, strategy: str) -> int:
    """Bytes that one worker needs."""
    size = ELEMENT_BYTES * measured.elements
    levels = max(0, measured.shards.bit_length() - 2) - max(0, (measured.shards // workers).bit_length() - 2)
    if workers == 1:
        return measured.memory_bytes
    if strategy == "averaging":
        return measured.memory_bytes + size * (2 - levels)
    moments = 2 * (1 - 1 / workers)
    buffers = 0.0 if hosts == 1 else ELEMENT_BYTES * max(measured.bucket_elements) * (1 - 1 / workers)
    if strategy == "hogwild":
        buffers = 4 / workers * size
    return round(measured.memory_bytes + buffers - size * (moments + levels))


def _exchange(measured: Measurements, cluster: Cluster, *, workers: int, hidden_s: float) -> float:
    """Seconds that the network adds to a step: what of the reduction is not hidden behind backward, and the all-gather."""
    sizes = ELEMENT_BYTES * np.array(measured.bucket_elements, np.float64)
    arrives = _arrival(measured, hidden_s)
    clock = 0.0
    for ready, bucket in zip(arrives, sizes, strict=True):
        clock = max(clock, ready) + _phase(measured, cluster, workers=workers, size=bucket)
    gather = sum(_phase(measured, cluster, workers=workers, size=bucket) for bucket in sizes)
    return float(max(0.0, clock - hidden_s) + gather)


def _phase(measured: Measurements, cluster: Cluster, *, workers: int, size: float) -> float:
    """One direction of a bucket's exchange: the slowest of wire and copies, and the messages' latency."""
    here = min(workers, cluster.per_host)
    leaves = here * size * (workers - here) / workers
    wire = leaves / (cluster.network_bytes_per_s * PAYLOAD)
    copied = 2 * COPIES * size * (workers - 1) / workers / measured.memory_bytes_per_s
    return LATENCY_S + wire + copied


def _arrival(measured: Measurements, hidden_s: float) -> list[float]:
    """When each bucket is complete, after backward of the last part began; in proportion to the elements before it."""
    dense = [0 if number in measured.table_buckets else size for number, size in enumerate(measured.bucket_elements)]
    total = sum(dense) or 1
    times = [hidden_s * done / total for done in itertools.accumulate(dense)]
    late = False
    for number in range(len(times)):  # buckets are sent in order: one that waits for a table holds up those behind it
        late = late or number in measured.table_buckets
        times[number] = hidden_s if late else times[number]
    return times


def fit_parts(samples: Sequence[tuple[int, int, bool, float]]) -> PartCost:
    """Fit a part's cost to (rows, length, whether it was a step's last, seconds): least squares of relative errors, no term
    below zero."""
    table = np.array([(1.0, rows * length, rows * length * length, float(last)) for rows, length, last, _ in samples])
    seconds = np.array([sample[3] for sample in samples])
    weighed = table / seconds[:, None]
    best: tuple[float, NDArray[np.float64]] = (np.inf, np.zeros(4))
    for terms in itertools.chain.from_iterable(itertools.combinations(range(4), count) for count in range(1, 5)):
        scale = np.abs(weighed[:, terms]).max(axis=0)
        scale[scale == 0] = 1.0
        found = np.linalg.lstsq(weighed[:, terms] / scale, np.ones(len(samples)), rcond=None)[0] / scale
        error = float(np.sum((weighed[:, terms] @ found - 1) ** 2))
        if (found >= 0).all() and error < best[0]:
            coefficients = np.zeros(4)
            coefficients[list(terms)] = found
            best = (error, coefficients)
    call, token, attention, last = (float(value) for value in best[1])
    return PartCost(call, token, attention, last)
