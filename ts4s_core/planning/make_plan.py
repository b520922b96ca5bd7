"""``ts4s plan``: measure for a moment, then say what training will cost. Starts no Spark and no server, writes nothing."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import psutil

from ts4s_core.artifacts.versions.refs import ArtifactRef
from ts4s_core.errors import SettingsError
from ts4s_core.planning.cost import Cluster, Forecast, LoadMeasurement, Measurements, fit_parts, forecast
from ts4s_core.planning.facts import PlanData, PlanMachine, PlanModel, PlanReport, PlanRow, ProbeFacts, StepShares
from ts4s_core.planning.measuring import measure
from ts4s_core.planning.options import PlanOptions, memory_size, network_speed
from ts4s_core.progress import Progress, silent
from ts4s_core.settings import Settings
from ts4s_core.training.job import TrainJob, storage_to_wire
from ts4s_core.training.settings_checks import check_strategy

_GB = 2**30


@dataclass(frozen=True)
class Plan:
    """A measured model and what it will cost.

    Attributes:
        report: as it is printed.
        measured: what it comes from.
        cluster: where the workers would run.
    """

    report: PlanReport
    measured: Measurements
    cluster: Cluster


def check_plan_options(options: PlanOptions, settings: Settings) -> None:
    """Check the options before anything is measured.

    Raises:
        SettingsError: if an option is not valid.
        InputError: if this machine lacks what the settings need.
    """
    network_speed(options.network)
    if options.memory:
        memory_size(options.memory)
    _most(options, settings, 1)
    check_strategy(settings.train)


def make_plan(
    settings: Settings, job: TrainJob, *, options: PlanOptions, assumed: bool = False, progress: Progress = silent
) -> Plan:
    """Measure, forecast, and refuse what cannot fit.

    Args:
        settings: of the run.
        job: the training job that the run would make; see :func:`planning_job`.
        options: of the plan.
        assumed: whether the rows are assumed.
        progress: called with what is being measured.

    Raises:
        SettingsError: if an option is not valid, or the workers' memory does not fit on a host.
        InputError: if the model or the data cannot be used.
    """
    check_plan_options(options, settings)
    train = settings.train
    slots = max(1, len(os.sched_getaffinity(0)) // train.threads_per_worker)
    per_host = options.per_host or slots
    cluster = Cluster(per_host, network_speed(options.network))
    memory = memory_size(options.memory) if options.memory else psutil.virtual_memory().total
    most = _most(options, settings, slots)
    progress("measure", {"processes": 1})
    alone = measure(job, level=1, memory_bytes=memory, python_path=options.python_path)
    crowd = min(_power_of_two(slots), train.logical_shards)
    several = alone
    if crowd > 1 and most > 1:
        progress("measure", {"processes": crowd})
        several = measure(job, level=crowd, memory_bytes=memory, python_path=options.python_path)
    measured = _measured(alone, several, shards=train.logical_shards)
    join_every = train.averaging_frequency or alone[0].steps_in_epoch
    counts = [1 << power for power in range(most.bit_length())]
    forecasts = tuple(
        forecast(measured, cluster, workers=count, strategy=train.strategy, averaging_every=join_every) for count in counts
    )
    chosen = next((each for each in forecasts if each.workers == train.workers), forecasts[-1])
    _refuse_what_does_not_fit(chosen, per_host=per_host, memory_bytes=memory)
    report = PlanReport(
        machine=PlanMachine(
            cores=len(os.sched_getaffinity(0)),
            memory_gb=round(memory / _GB, 2),
            threads_per_worker=train.threads_per_worker,
            gemm_gflops=round(alone[0].machine.gemm_gflops, 1),
            gemm_gflops_crowded=round(several[0].machine.gemm_gflops, 1),
            memory_gb_per_s=round(alone[0].machine.memory_gb_per_s, 2),
        ),
        model=PlanModel(weights=alone[0].parameters, trained=sum(alone[0].bucket_elements), strategy=train.strategy),
        data=PlanData(
            rows=alone[0].rows,
            assumed=assumed,
            mean_tokens=round(alone[0].mean_tokens, 1),
            steps_per_epoch=alone[0].steps_in_epoch,
            steps=alone[0].total_steps,
        ),
        network=options.network,
        workers=_rows(forecasts, alone[0], per_host=per_host, memory_bytes=memory),
    )
    return Plan(report, measured, cluster)


def planning_job(
    settings: Settings,
    *,
    dataset: ArtifactRef | None,
    model: ArtifactRef | None,
    config: dict[str, Any] | None,
    options: PlanOptions,
) -> TrainJob:
    """The job whose steps are measured: the run's own, with assumed rows or a source's shape where artifacts are missing.

    Args:
        settings: of the run.
        dataset: its rows, if there are any yet.
        model: the imported model, if there is one yet.
        config: the source's Hugging Face configuration, where there is no model.
        options: rows and tokens to assume.
    """
    extra: dict[str, Any] = {}
    if model is None:
        extra |= {"config": config, "source": settings.model.source, "model": settings.model.model_dump(mode="json")}
    if dataset is None:
        extra["rows"] = {"rows": options.rows, "tokens": options.tokens, "longest": settings.model.max_length}
    return TrainJob(
        name=settings.name,
        key="",
        dataset=str(dataset or ""),
        model=str(model or ""),
        output="",
        task=settings.model.task,
        train=settings.train.model_dump(mode="json"),
        storage=storage_to_wire(settings.storage),
        extra=extra,
        model_factory=TrainJob.model_factory if model else "ts4s_core.planning.assumed:model",
        rows_factory=TrainJob.rows_factory if dataset else "ts4s_core.planning.assumed:rows",
    )


def _most(options: PlanOptions, settings: Settings, slots: int) -> int:
    """The largest number of workers in the table."""
    shards = settings.train.logical_shards
    if options.workers > shards:
        raise SettingsError(
            f"--workers {options.workers} is more than train.logical_shards {shards}: a worker has at least one part of a batch. "
            f"Give --train.logical_shards {1 << (options.workers - 1).bit_length()}, which makes other weights"
        )
    return _power_of_two(options.workers or max(settings.train.workers, shards, min(slots, shards)))


def _power_of_two(count: int) -> int:
    return 1 << (max(1, count).bit_length() - 1)


def _refuse_what_does_not_fit(chosen: Forecast, *, per_host: int, memory_bytes: int) -> None:
    here = min(per_host, chosen.workers)
    needed = here * chosen.memory_bytes
    if needed > memory_bytes:
        raise SettingsError(
            f"Training with {chosen.workers} workers cannot fit: {here} of them on a host need {needed / _GB:.2f} GB "
            f"({chosen.memory_bytes / _GB:.2f} GB each), a host has {memory_bytes / _GB:.2f} GB. "
            "Lower train.batch_size or model.max_length, or give fewer workers a host with --workers-per-host"
        )


def _measured(alone: Sequence[ProbeFacts], several: Sequence[ProbeFacts], *, shards: int) -> Measurements:
    first = alone[0]
    return Measurements(
        alone=_level(alone),
        crowded=_level(several),
        bucket_elements=tuple(first.bucket_elements),
        table_buckets=frozenset(first.table_buckets),
        memory_bytes=first.peak_bytes,
        memory_bytes_per_s=1e9 * min(found.machine.memory_gb_per_s for found in several),
        steps=tuple(map(tuple, first.shapes)),
        shards=shards,
    )


def _level(found: Sequence[ProbeFacts]) -> LoadMeasurement:
    mean = 1 / len(found)
    return LoadMeasurement(
        fit_parts([sample for each in found for sample in each.samples]),
        optimiser_s=mean * sum(each.optimiser_s for each in found),
        rest_s=mean * sum(each.rest_s for each in found),
    )


def _rows(forecasts: Sequence[Forecast], found: ProbeFacts, *, per_host: int, memory_bytes: int) -> list[PlanRow]:
    return [
        PlanRow(
            workers=each.workers,
            hosts=each.hosts,
            memory_gb=round(each.memory_bytes / _GB, 3),
            seconds_per_step=each.seconds,
            seconds_per_epoch=each.seconds * found.steps_in_epoch,
            seconds=each.seconds * found.total_steps,
            traffic_mb_per_step=round(each.traffic_bytes / 1e6, 3),
            speed_up=round(forecasts[0].seconds / each.seconds, 3),
            fits=min(per_host, each.workers) * each.memory_bytes <= memory_bytes,
            of_step=StepShares(compute=each.compute_s, optimiser=each.optimiser_s, exchange=each.exchange_s, rest=each.rest_s),
        )
        for each in forecasts
    ]
