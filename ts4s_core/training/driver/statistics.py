"""``stats.txt``: a training's figures by epoch and in all, to be read by people; ``metrics.csv`` has those of each step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby

from ts4s_core.training.facts import ExecutorFigures
from ts4s_core.training.step_rows import StepRow

_COLUMNS = (
    "epoch",
    "learning_rate",
    "loss",
    "accuracy",
    "validation_loss",
    "grad_norm",
    "batches",
    "predictions",
    "tokens",
    "tokens_per_s",
    "milliseconds",
    "partitions",
    "rows",
    "memory_mib",
    "memory_per_worker_mib",
)


def as_text(
    rows: Sequence[StepRow], *, about: Mapping[str, object], totals: Mapping[str, object], executors: Sequence[ExecutorFigures]
) -> str:
    """The text.

    Args:
        rows: the steps' rows of ``metrics.csv``.
        about: what was trained on what: name and value, in order; ``logical_shards`` and ``rows`` are columns too.
        totals: facts of the training.
        executors: Spark's own figures of each executor; none without Spark.
    """
    fixed = {"partitions": about.get("logical_shards"), "rows": about.get("rows")}
    epochs = [{**_summed(list(steps)), **fixed, "epoch": epoch} for epoch, steps in groupby(rows, key=lambda row: row.epoch)]
    whole = {**_summed(rows), **fixed, "epoch": "all"} if rows else {}
    parts = [
        "ts4s training statistics",
        _listed(about),
        "By epoch (loss, accuracy and gradient norm are means over the batches; memory is that of the largest worker)",
        _table(_COLUMNS, [*epochs, whole] if rows else []),
        "Totals",
        _listed(totals),
        "Spark executors (bytes, milliseconds)",
        _table(tuple(executors[0]), executors) if executors else "none: plain processes",
    ]
    return "\n\n".join(parts) + "\n"


def _summed(steps: Sequence[StepRow]) -> dict[str, object]:
    milliseconds, tokens = sum(row.milliseconds for row in steps), sum(row.tokens for row in steps)
    last = steps[-1]
    validated = [row.validation_loss for row in steps if row.validation_loss is not None]
    predictions = sum(row.predictions for row in steps)
    correct = sum((row.accuracy or 0) * row.predictions for row in steps)
    return {
        "learning_rate": last.learning_rate,
        "loss": sum(row.loss for row in steps) / len(steps),
        "accuracy": correct / predictions if predictions else None,
        "validation_loss": validated[-1] if validated else None,
        "grad_norm": sum(row.grad_norm for row in steps) / len(steps),
        "batches": len(steps),
        "predictions": predictions,
        "tokens": tokens,
        "tokens_per_s": 1e3 * tokens / max(milliseconds, 1e-6),
        "milliseconds": milliseconds,
        "memory_mib": max(row.memory for row in steps),
        "memory_per_worker_mib": last.memory_per_worker or None,
    }


def _listed(values: Mapping[str, object]) -> str:
    shown = {name: _shown(value) for name, value in values.items() if not isinstance(value, Mapping | list | tuple)}
    width = max(map(len, shown), default=0)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in shown.items())


def _table(columns: Sequence[str], rows: Iterable[Mapping[str, object]]) -> str:
    lines = [tuple(columns), *(tuple(_shown(row.get(name)) for name in columns) for row in rows)]
    widths = [max(len(line[at]) for line in lines) for at in range(len(columns))]
    return "\n".join("  ".join(f"{cell:>{width}}" for cell, width in zip(line, widths, strict=True)) for line in lines)


def _shown(value: object) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1_000 else f"{value:.5g}"
    return "-" if value is None else str(value)
