"""The price of exactness: fixed parts and the fixed tree against gloo's own all-reduce, by step time.

Two processes of one thread train the same model on the same steps with several engines in turn, step by step, so that a
machine that drifts slows all alike. ``all-reduce``: one batch a process, gradients summed by gloo as backward goes on, every
process updates all weights, as DDP does. ``network`` and ``shared-memory``: ts4s with K parts, the tree over gloo and over
shared memory. A price is the median over steps of an engine's time over all-reduce's in the same step, less one.

    python infra/benchmarks/exactness_price.py [--size S] [--shards 2 4] [--steps 24]
"""

from __future__ import annotations

import argparse
import functools
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any
from unittest import mock

import torch
from side_by_side import HERE, write_result
from training_speed import NAME, prepared

from ts4s_core.artifacts.store import ArtifactStore
from ts4s_core.planning.make_plan import planning_job
from ts4s_core.planning.options import PlanOptions
from ts4s_core.settings import Settings
from ts4s_core.training.batches.batch_plan import BatchPlan
from ts4s_core.training.batches.read_ahead import planned_steps
from ts4s_core.training.driver.metrics import UNSTEADY_STEPS
from ts4s_core.training.exchange import connect as connecting
from ts4s_core.training.exchange.buckets import Layout
from ts4s_core.training.exchange.exchange import Exchange, block_squares
from ts4s_core.training.exchange.gloo import Gloo
from ts4s_core.training.job import TrainJob
from ts4s_core.training.strategies.strategy import Strategy
from ts4s_core.training.strategies.synchronous import synchronous
from ts4s_core.training.worker.allocator import keep_memory
from ts4s_core.training.worker.assembly import assemble
from ts4s_core.training.worker.dataset_rows import rows_of_artifact

PROCESSES = 2
WAIT_S = 600.0
ALL_REDUCE = "all-reduce"
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class AllReduce(Exchange):
    """Gloo sums every bucket for everybody, and every rank updates all of the weights: nothing is published."""

    def __init__(self, layout: Layout, transport: Gloo, *, timeout_s: float) -> None:
        super().__init__(layout, transport, timeout_s=timeout_s)
        self._gloo = transport
        self._own = self.slices
        self.slices = self.layout.slices(0, 1)

    def publish(self) -> None:
        """Everybody has stepped everything."""

    def _reduce(self, bucket: int) -> None:
        self._gloo._finish([self._gloo._bucket_group.allreduce([self.gradients[bucket]])])
        start, stop = self._own[bucket]
        self._squares[bucket] = block_squares(self.gradients[bucket][start:stop])


@dataclass(frozen=True)
class Pair:
    """What ranks find each other by, of two processes that a pipe joins; see :class:`ts4s_core.training.exchange.peers.Peers`."""

    rank: int
    pipe: Connection
    secret: str
    address: str = "127.0.0.1"
    world_size: int = PROCESSES
    timeout_s: float = WAIT_S
    one_host: bool = True

    def gather(self, key: str, value: Any) -> list[Any]:
        """Both values, in rank order."""
        self.pipe.send((key, value))
        if not self.pipe.poll(WAIT_S):
            raise SystemExit(f"rank {self.rank} waited {WAIT_S:g} s for the other's {key}")
        theirs, other = self.pipe.recv()
        if theirs != key:
            raise SystemExit(f"rank {self.rank} is at {key}, the other at {theirs}")
        return [value, other] if self.rank == 0 else [other, value]


def arms_of(shards: Sequence[int]) -> dict[str, tuple[str, int]]:
    """Exchange and K of each engine, by name."""
    arms = {ALL_REDUCE: (ALL_REDUCE, PROCESSES)}
    for count in shards:
        arms |= {f"{kind}, K = {count}": (kind, count) for kind in ("network", "shared-memory")}
    return arms


def strategy_of(kind: str, shards: int, *, job: TrainJob, store: ArtifactStore, pair: Pair) -> Strategy:
    """An engine of its own copy of the model."""
    setup, _rows = assemble(replace(job, train=job.train | {"logical_shards": shards}), store)
    peers: Any = replace(pair, secret=f"{pair.secret}/{kind}/{shards}")
    if kind != ALL_REDUCE:
        return synchronous(setup, peers, exchange=kind, checkpoint=None)
    with mock.patch.object(connecting, "Exchange", AllReduce):
        return synchronous(setup, peers, exchange="network", checkpoint=None)


def run_rank(rank: int, pipe: Connection, wire: str, shards: Sequence[int], results: Any) -> None:
    """One process: all engines take each step in turn, in an order that rotates; rank 0 tells their seconds."""
    torch.set_num_threads(1)
    keep_memory()
    job = TrainJob.from_wire(wire)
    store = ArtifactStore.open(job.storage_settings())
    pair = Pair(rank, pipe, "price")
    arms = arms_of(shards)
    strategies = {name: strategy_of(*arm, job=job, store=store, pair=pair) for name, arm in arms.items()}
    steps = job.settings.max_steps
    plans = {}
    for name, (_kind, count) in arms.items():
        rows = rows_of_artifact(job, store)
        plan = BatchPlan(rows.rows_per_group("train"), job.settings.batch_size, count, job.settings.seed)
        plans[name] = planned_steps(rows, "train", plan, first=0, stop=steps)
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    for step in range(steps):
        names = list(arms)
        for name in names[step % len(names) :] + names[: step % len(names)]:
            strategy, planned = strategies[name], next(plans[name])
            own = [planned.parts[part] for part in strategy.own_parts()]
            batches = [planned.block.batch(rows, pad_id=job.extra["pad_id"]) if len(rows) else None for rows in own]
            pair.gather("ready", step)
            begun = time.perf_counter()
            strategy.step(batches, step=step, rate=1e-4, flag=False, memory_mib=0.0)
            seconds[name].append(time.perf_counter() - begun)
    for strategy in strategies.values():
        strategy.close()
    pair.gather("done", None)
    if rank == 0:
        results.send(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=("S", "B"), default="S")
    parser.add_argument("--shards", type=int, nargs="+", default=[2, 4], help="K of the exact engines")
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--attention-dropout", type=float, default=0.0)
    options = parser.parse_args()
    os.environ.update(dict.fromkeys(_THREAD_VARIABLES, "1"))
    with tempfile.TemporaryDirectory() as name:
        seconds = measure(Path(name), options)
    steady = {arm: values[UNSTEADY_STEPS:] for arm, values in seconds.items()}
    price = {
        arm: median(mine / base for mine, base in zip(values, steady[ALL_REDUCE], strict=True)) - 1
        for arm, values in steady.items()
        if arm != ALL_REDUCE
    }
    settings = {key: getattr(options, key) for key in ("size", "steps", "dropout", "attention_dropout")}
    step_s = {arm: median(values) for arm, values in steady.items()}
    result = {**settings, "price": price, "step_s": step_s, "seconds": seconds}
    write_result(HERE / f"exactness_price_{options.size}.json", result)
    print(f"{options.size}: " + ", ".join(f"{arm} {value:+.1%}" for arm, value in price.items()))


def measure(folder: Path, options: argparse.Namespace) -> dict[str, list[float]]:
    """Seconds of every step of each engine."""
    place, _words = prepared(folder, options)
    train = {"batch_size": 16, "max_steps": options.steps, "epochs": 100}
    settings = Settings(name=NAME, storage={"uri": str(place)}, train=train)
    store = ArtifactStore.open(settings.storage)
    dataset, model = (store.newest(kind, NAME) for kind in ("dataset", "model"))
    job = planning_job(settings, dataset=dataset, model=model, config=None, options=PlanOptions())
    job = replace(job, extra={"pad_id": rows_of_artifact(job, store).pad_id})
    context = multiprocessing.get_context("spawn")
    ends = context.Pipe()
    told, tell = context.Pipe(duplex=False)
    start = functools.partial(context.Process, target=run_rank, daemon=True)
    processes = [start(args=(rank, ends[rank], job.to_wire(), options.shards, tell)) for rank in range(PROCESSES)]
    for process in processes:
        process.start()
    while not told.poll(1.0):
        if any(process.exitcode for process in processes):
            sys.exit("a process failed, see above")
    seconds: dict[str, list[float]] = told.recv()
    for process in processes:
        process.join(WAIT_S)
    return seconds


if __name__ == "__main__":
    main()
