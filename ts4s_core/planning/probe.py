"""The measuring process: real parts of the real model through the real engine, without peers, and what this machine can do.

``python -m ts4s_core.planning.probe`` reads its request as a line of JSON, says that it is ready, waits for a line, measures,
and writes its measurements as a line of JSON. Several of them measure at once, so that they hinder each other as workers would.
"""

from __future__ import annotations

import json
import logging
import resource
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ts4s_core.artifacts.store import ArtifactStore
from ts4s_core.errors import InputError, Ts4sError, to_wire
from ts4s_core.planning.facts import MachineSpeed, ProbeFacts, ProbeMessage, ProbeRequest
from ts4s_core.processes import die_with_parent
from ts4s_core.task_kinds.registry import kind_of
from ts4s_core.training.batches.batch import PartBatch
from ts4s_core.training.batches.batch_plan import BatchPlan
from ts4s_core.training.batches.read_ahead import PlannedStep, planned_steps
from ts4s_core.training.job import TrainJob
from ts4s_core.training.optimizers.adamw import Optimizer
from ts4s_core.training.step.built_model import BuiltModel
from ts4s_core.training.step.row_gradients import RowGradients
from ts4s_core.training.worker.allocator import keep_memory
from ts4s_core.training.worker.assembly import assemble

log = logging.getLogger(__name__)

#: Planned steps that are considered, and the largest number of them that is measured.
STEPS_SEEN, STEPS_MEASURED = 96, 24
#: Steps before the first that counts: memory and kernels are not warm yet.
WARM_UP = 2
LEAST_STEPS = 4
_GEMM_SIZE, _COPY_ELEMENTS, _MACHINE_S = 1_024, 2**24, 0.3
_STATUS = Path("/proc/self/status")


class _Clock:
    """Notes when parts begin and the optimiser begins and ends, at the seams that an engine has."""

    def __init__(self, built: BuiltModel, optimizer: Optimizer) -> None:
        self.marks: list[float] = []
        self.stepped: tuple[float, float] = (0.0, 0.0)
        self._built = built
        self._optimizer = optimizer

    def seed_dropout(self, model: torch.nn.Module, seed: int, step: int, *, part: int) -> None:
        """A part begins."""
        self.marks.append(time.perf_counter())
        self._built.seed_dropout(model, seed, step, part=part)

    @property
    def moments(self) -> Any:
        """See :class:`Optimizer`."""
        return self._optimizer.moments

    def state(self) -> dict[str, torch.Tensor]:
        """See :class:`Optimizer`."""
        return self._optimizer.state()

    def step(self, number: int, *, learning_rate: float, divisor: float) -> None:
        """See :class:`Optimizer`."""
        begin = time.perf_counter()
        self._optimizer.step(number, learning_rate=learning_rate, divisor=divisor)
        self.stepped = (begin, time.perf_counter())


class Probe:
    """One process's measurement: the parts that rank ``rank`` of ``world_size`` would compute.

    Args:
        job: as training would make it.
        memory_bytes: of the host: a model that cannot fit is refused before it is built where its size is known.
    """

    def __init__(self, job: TrainJob, *, rank: int, world_size: int, memory_bytes: int) -> None:
        torch.set_num_threads(job.threads_per_worker)
        settings = self._settings = job.settings
        store = ArtifactStore.open(job.storage_settings())
        _refuse_giants(job, memory_bytes)
        setup, self._rows = assemble(job, store)
        built, self.layout = setup.built, setup.layout
        self.weights = sum(parameter.numel() for parameter in built.module.parameters())
        exchange = setup.local_exchange(timeout_s=job.timeout_s)
        self._clock = _Clock(built, setup.optimizer(exchange))
        self.tables = RowGradients(built.module, setup.parameters).names if built.forward is None else frozenset()
        self._engine = setup.independent_engine(
            exchange, self._clock, rank=rank, world_size=world_size, seed_dropout=self._clock.seed_dropout
        )
        self._plan = BatchPlan(self._rows.rows_per_group("train"), settings.batch_size, settings.logical_shards, settings.seed)

    def measure(self, machine: MachineSpeed, *, budget_s: float) -> ProbeFacts:
        """Take some steps of the plan, the largest first."""
        total = min(STEPS_SEEN, self._plan.steps_in_epoch(0))
        planned = list(planned_steps(self._rows, "train", self._plan, first=0, stop=total))
        shapes = [_shapes(step) for step in planned]
        costs = [sum(rows * length for rows, length in step) for step in shapes]
        by_cost = sorted(range(total), key=costs.__getitem__)
        spread = [by_cost[place] for place in np.linspace(total - 1, 0, min(total, STEPS_MEASURED)).round().astype(int)]
        order = [spread[place] for place in np.random.default_rng(0).permutation(len(spread))]
        samples: list[tuple[int, int, bool, float]] = []
        optimiser_s, rest_s = [], []
        begin = time.perf_counter()
        for number, place in enumerate([spread[0]] * WARM_UP + order * 4):
            if number >= WARM_UP + LEAST_STEPS and time.perf_counter() - begin > budget_s:
                break
            parts, optimizer, rest = self._step(planned[place], number)
            if number >= WARM_UP:
                samples += parts
                optimiser_s.append(optimizer)
                rest_s.append(rest)
        self._engine.close()
        settings = self._settings
        return ProbeFacts(
            shapes=shapes,
            samples=samples,
            optimiser_s=float(np.median(optimiser_s)),
            rest_s=float(np.median(rest_s)),
            peak_bytes=_peak_bytes(),
            bucket_elements=list(self.layout.bucket_sizes),
            table_buckets=sorted({slot.bucket for slot in self.layout.slots if slot.name in self.tables}),
            parameters=self.weights,
            rows=sum(self._rows.rows_per_group("train")),
            steps_in_epoch=self._plan.steps_in_epoch(0),
            total_steps=self._plan.total_steps(settings.epochs, settings.max_steps),
            mean_tokens=float(np.mean(np.concatenate([step.block.lengths for step in planned]))),
            machine=machine,
        )

    def _step(self, planned: PlannedStep, number: int) -> tuple[list[tuple[int, int, bool, float]], float, float]:
        """Samples of the parts, the optimiser's seconds, and everything else's."""
        clock = self._clock
        clock.marks = []
        started = time.perf_counter()
        batches: list[PartBatch | None] = []
        for part in self._engine.own_parts():
            rows = planned.parts[part]
            batches.append(planned.block.batch(rows, pad_id=self._rows.pad_id) if len(rows) else None)
        shapes = [tuple(batch.inputs[0].shape[:2]) for batch in batches if batch is not None]
        if not shapes:
            return [], 0.0, 0.0
        # The rate is next to nothing: the numbers stay those of a fresh model.
        self._engine.step(batches, step=number, rate=1e-12, flag=False, memory_mib=0.0)
        ended = time.perf_counter()
        begins = [*clock.marks, clock.stepped[0]]
        samples = [
            (int(shape[0]), int(shape[1]), place == len(shapes) - 1, begins[place + 1] - begins[place])
            for place, shape in enumerate(shapes)
        ]
        rest = clock.marks[0] - started + ended - clock.stepped[1]
        return samples, clock.stepped[1] - clock.stepped[0], rest


def machine_speed() -> MachineSpeed:
    """GEMM rate in GFLOP/s and memory bandwidth in GB/s with the threads of a worker."""
    left, right = torch.randn(_GEMM_SIZE, _GEMM_SIZE), torch.randn(_GEMM_SIZE, _GEMM_SIZE)
    out = torch.empty(_GEMM_SIZE, _GEMM_SIZE)
    source, target = torch.ones(_COPY_ELEMENTS), torch.zeros(_COPY_ELEMENTS)
    multiplied = _rate(lambda: torch.mm(left, right, out=out), 2.0 * _GEMM_SIZE**3)
    copied = _rate(lambda: target.copy_(source), 8.0 * _COPY_ELEMENTS)
    return MachineSpeed(gemm_gflops=multiplied / 1e9, memory_gb_per_s=copied / 1e9)


def _rate(act: Any, amount: float) -> float:
    """Median amount a second over a third of a second."""
    act()
    rates, begin = [], time.perf_counter()
    while time.perf_counter() - begin < _MACHINE_S:
        started = time.perf_counter()
        act()
        rates.append(amount / (time.perf_counter() - started))
    return float(np.median(rates))


def _forget_peak() -> None:
    """Count the peak of this process's memory from now on, where the system can do that."""
    if _STATUS.exists():
        (_STATUS.parent / "clear_refs").write_text("5", encoding="ascii")


def _peak_bytes() -> int:
    """Most memory since :func:`_forget_peak`, or ever."""
    # Not ru_maxrss: on Linux it begins with what the parent had when it started this process.
    for line in _STATUS.read_text(encoding="ascii").splitlines() if _STATUS.exists() else ():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _shapes(planned: PlannedStep) -> list[tuple[int, int]]:
    lengths = planned.block.lengths
    return [(len(rows), int(lengths[rows].max())) if len(rows) else (0, 0) for rows in planned.parts]


def _refuse_giants(job: TrainJob, memory_bytes: int) -> None:
    """Look at the size of a configuration's model before its weights get memory."""
    if "config" not in job.extra:
        return
    from ts4s_core.onnx.sources.families import build_module, config_object

    with torch.device("meta"):
        config = config_object(job.extra["config"], source=str(job.extra["source"]))
        empty = build_module(config, kind_of(job.task).base)
    weights = sum(parameter.numel() for parameter in empty.parameters())
    job.extra["vocabulary"] = int(getattr(config, "vocab_size", 1_000))
    # Weights and gradients: what even many workers need of each.
    least = 8 * weights
    if least > memory_bytes:
        raise InputError(
            f"Training of {weights:,} weights cannot fit: expected at least {least / 2**30:.1f} GB for a worker's weights and "
            f"gradients alone, got {memory_bytes / 2**30:.1f} GB of memory on a host. Use a smaller model or a larger host"
        )


def main() -> int:
    """Measure the job that standard input holds."""
    request = ProbeRequest.model_validate_json(sys.stdin.readline())
    die_with_parent(request.parent_pid)
    sys.path[:0] = request.python_path
    try:
        torch.set_num_threads(request.threads)
        probe = Probe(
            TrainJob.from_wire(request.job),
            rank=request.rank,
            world_size=request.world_size,
            memory_bytes=request.memory_bytes,
        )
        _write_line(ProbeMessage())
        sys.stdin.readline()
        speed = machine_speed()
        keep_memory()  # as workers do; only now, so that what the machine was measured with is given back
        _forget_peak()
        _write_line(ProbeMessage(found=probe.measure(speed, budget_s=request.budget_s)))
    except Ts4sError as exc:
        _write_line(ProbeMessage(error=to_wire(exc)))
        return 1
    return 0


def _write_line(message: ProbeMessage) -> None:
    sys.stdout.write(json.dumps(message.to_json()) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
