"""``ts4s models export`` and ``ts4s models compare``."""

from __future__ import annotations

from typing import Any

from flows.cli.command import Invocation, Outcome
from flows.cli.commands.steps import inputs
from flows.cli.output import columns, shown, table
from tasks.current_run import begun
from ts4s_core.artifacts.leases.in_use import in_use
from ts4s_core.artifacts.registry import Registry
from ts4s_core.artifacts.store import ArtifactStore
from ts4s_core.evaluation.gate.compare_versions import check_comparable, dataset_for
from ts4s_core.handover.export import check_export, export_trained
from ts4s_core.host_user import expanded
from ts4s_core.pipeline.run import Run


def export_command(invocation: Invocation) -> Outcome:
    """Hand a trained model over to other tools."""
    settings, options = invocation.settings, invocation.options
    form, to = options.format, expanded(options.to)
    with invocation.display.stage("check"):
        check_export(form, to)
        store = ArtifactStore.open(settings.storage)
        ref = Registry(store).resolve(options.model)
        store.manifest(ref)
    with in_use(store, "models export"), invocation.display.stage("export"):
        threads = settings.train.threads_per_worker
        values = export_trained(store, ref, form=form, to=to, threads=threads, progress=invocation.display.progress)
    figures = values.get("figures")
    if figures is None:
        return Outcome(values)
    heads = ("form", "bytes", "rows_per_s", "accuracy")
    rows = [(name, *(shown(measured[head]) for head in heads[1:])) for name, measured in figures.items()]
    text = [*table({name: value for name, value in values.items() if name != "figures"}), "", columns(heads, rows)]
    return Outcome(values, text="\n".join(text))


def compare_command(invocation: Invocation) -> Outcome:
    """Two versions on the same held-out rows."""
    settings, options = invocation.settings, invocation.options
    given = inputs(options, ("dataset",))
    with begun(Run(settings, progress=invocation.display.progress, stage=invocation.display.stage)) as run:
        with run.stage("check"):
            first, second = (run.registry.resolve(model) for model in (options.a, options.b))
            check_comparable(run.store, first, second)
            dataset = given.get("dataset") or dataset_for(run.store, first, second)
            run.store.manifest(dataset)
        with run.stage("compare"):
            job = {"job": "compare", "first": str(first), "second": str(second), "dataset": str(dataset)}
            values = run.program.run(job, progress=run.progress)
    return Outcome(values, text=_side_by_side(values))


def _side_by_side(values: dict[str, Any]) -> str:
    rows: list[tuple[str, ...]] = [
        (name, shown(found["a"]), shown(found["b"]), f"{found['gain']:+.4f}", f"{found['low']:+.4f} to {found['high']:+.4f}")
        for name, found in values["metrics"].items()
    ]
    head = {name: values[name] for name in ("a", "b", "dataset", "rows", "left_out")}
    return "\n".join([*table(head), "", columns(("metric", "a", "b", "gain of b", "95 % interval"), rows)])
