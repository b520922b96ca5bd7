"""``ts4s plan``: what a training run will cost, from a short measurement."""

from __future__ import annotations

import contextlib
from typing import Any

from flows.cli.command import Invocation, Outcome
from flows.cli.commands.steps import inputs
from flows.cli.output import columns, shown
from ts4s_core.artifacts.leases.in_use import in_use
from ts4s_core.artifacts.store import ArtifactStore
from ts4s_core.errors import SettingsError
from ts4s_core.pipeline.checks import check_store
from ts4s_core.planning.facts import PlanReport
from ts4s_core.planning.make_plan import check_plan_options, make_plan, planning_job
from ts4s_core.planning.options import PlanOptions
from ts4s_core.settings.flows import completed

_HEADS = ("workers", "hosts", "memory/worker", "s/step", "s/epoch", "MB sent/step", "speed-up")


def plan_command(invocation: Invocation) -> Outcome:
    """Measure this machine with the model, and forecast."""
    settings, options = completed(invocation.settings), invocation.options
    given = inputs(options, ("dataset", "model"))
    plan_options = PlanOptions(
        workers=_count(options.workers, "--workers"),
        per_host=_count(options.workers_per_host, "--workers-per-host"),
        network=options.network or PlanOptions.network,
        memory=options.memory or PlanOptions.memory,
        rows=_count(options.rows, "--rows") or PlanOptions.rows,
        tokens=_count(options.tokens, "--tokens") or min(PlanOptions.tokens, settings.model.max_length),
    )
    check_plan_options(plan_options, settings)
    check_store(settings)
    store = ArtifactStore.open(settings.storage)
    dataset, model = (
        store.manifest(given[kind]).ref if kind in given else store.newest(kind, settings.name) for kind in ("dataset", "model")
    )
    config: dict[str, Any] | None = None
    if model is None:
        from ts4s_core.language.defaults import built_in_config
        from ts4s_core.onnx.sources.resolve import resolve_source

        built_in = built_in_config(settings.model, positions=settings.data.window)
        if built_in is not None:
            config = {**built_in, "vocab_size": settings.model.vocabulary_size}
        else:
            config = resolve_source(settings.model, store, seed=settings.train.seed).config
        if not config:
            raise SettingsError(
                f"model.source {settings.model.source} does not say what model it is: expected one with a configuration. "
                "Run ts4s export and import first, then plan with what they made"
            )
    job = planning_job(settings, dataset=dataset, model=model, config=config, options=plan_options)
    # Where nothing of the store is read, it may not even be there.
    reading = contextlib.nullcontext() if model is dataset is None else in_use(store, "plan")
    with reading, invocation.display.stage("plan"):
        plan = make_plan(settings, job, options=plan_options, assumed=dataset is None, progress=invocation.display.progress)
    sources = {"model": str(model or settings.model.source), "dataset": str(dataset) if dataset else None}
    return Outcome({"from": sources, **plan.report.to_json()}, text=_text(plan.report, **sources))


def _count(text: str | None, flag: str) -> int:
    if text is None:
        return 0
    if not text.isdecimal() or not int(text):
        raise SettingsError(f"{flag} {text!r} is not valid: expected a whole number, 1 or more")
    return int(text)


def _text(plan: PlanReport, *, model: str | None, dataset: str | None) -> str:
    machine, data = plan.machine, plan.data
    lines = [
        f"machine: {machine.cores} cores, {machine.memory_gb:.1f} GB, a worker's {machine.threads_per_worker} thread(s) "
        f"do {machine.gemm_gflops:.0f} GFLOP/s ({machine.gemm_gflops_crowded:.0f} with all busy) "
        f"and move {machine.memory_gb_per_s:.1f} GB/s",
        f"model: {model}, {plan.model.weights:,} weights, strategy {plan.model.strategy}",
        f"rows: {data.rows:,} of {data.mean_tokens:.0f} tokens on average ({dataset or 'assumed lengths'}), "
        f"{data.steps_per_epoch} steps an epoch, {data.steps} in all; network {plan.network}",
        "",
    ]
    rows: list[tuple[str, ...]] = [
        (
            str(row.workers),
            str(row.hosts),
            f"{row.memory_gb:.2f} GB",
            shown(row.seconds_per_step),
            shown(row.seconds_per_epoch),
            f"{row.traffic_mb_per_step:.1f}",
            f"{row.speed_up:.2f}",
        )
        for row in plan.workers
    ]
    return "\n".join([*lines, columns(_HEADS, rows)])
