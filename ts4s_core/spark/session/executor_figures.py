"""What Spark itself measured: memory, task time, garbage collection and shuffle of each executor."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from ts4s_core.spark.session.internals import scala_context
from ts4s_core.training.facts import ExecutorFigures

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

log = logging.getLogger(__name__)

#: Name here, and the getter of Spark's summary of an executor.
_FIGURES = {
    "cores": "totalCores",
    "max_memory": "maxMemory",
    "memory_used": "memoryUsed",
    "tasks": "totalTasks",
    "failed_tasks": "failedTasks",
    "task_ms": "totalDuration",
    "gc_ms": "totalGCTime",
    "input_bytes": "totalInputBytes",
    "shuffle_read": "totalShuffleRead",
    "shuffle_write": "totalShuffleWrite",
}
_PEAKS = {"peak_jvm_heap": "JVMHeapMemory", "peak_python_rss": "ProcessTreePythonRSSMemory"}


def executor_figures(session: SparkSession) -> list[ExecutorFigures]:
    """A row of figures for every executor since the session began; none if Spark does not tell."""
    try:
        found = scala_context(session.sparkContext).statusStore().executorList(False)
        return [_figures(found.apply(index)) for index in range(found.size())]
    except Exception as exc:  # figures are worth less than the training that they are of
        log.warning("Spark does not tell its executors' figures: %s", str(exc).splitlines()[0])
        return []


def _figures(summary: Any) -> ExecutorFigures:
    figures: ExecutorFigures = {"executor": str(summary.id()), "host": str(summary.hostPort()).rpartition(":")[0]}
    numbers: ExecutorFigures = {name: int(getattr(summary, getter)()) for name, getter in _FIGURES.items()}
    peaks = summary.peakMemoryMetrics()
    if peaks.isDefined():
        numbers |= {name: int(peaks.get().getMetricValue(metric)) for name, metric in _PEAKS.items()}
    return figures | numbers
