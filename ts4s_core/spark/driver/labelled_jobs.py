"""The jobs that read labelled texts: kinds of task name them."""

from __future__ import annotations

from ts4s_core.data.facts import ScanFacts
from ts4s_core.data.prepare import prepare_dataset
from ts4s_core.data.scan import Scan
from ts4s_core.data.scan import scan as scan_data
from ts4s_core.progress import Progress
from ts4s_core.spark.driver.job import Job, Result, artifact_of
from ts4s_core.spark.driver.job_context import JobContext


def scan(_job: Job, context: JobContext, progress: Progress) -> Result:
    """Read all of the data once; nothing is written."""
    context.forget_scan()
    found = _scanned(context)
    progress("scan", {"rows": found.rows, "labels": len(found.labels), "bad_rows": found.bad_rows})
    facts = ScanFacts(
        rows=found.rows,
        labels=found.labels,
        sides=dict(found.sides),
        label_rows=dict(found.label_rows),
        bad_rows=found.bad_rows,
        blank_lines=found.blank_lines,
        fingerprint=found.fingerprint,
    )
    return facts.to_json()


def prepare(job: Job, context: JobContext, progress: Progress) -> Result:
    """The dataset artifact, tokenised as the ``onnx`` (or ``model``) artifact's tokenizer does."""
    store, onnx = context.store(), artifact_of(job, "onnx")
    found = _scanned(context)
    context.forget_scan()  # should the rows have changed, the next try looks again
    return prepare_dataset(
        context.settings,
        store,
        context.engine(),
        scan=found,
        tokenizer_folder=store.local(onnx) / "tokenizer",
        upstream={"onnx": onnx},
        progress=progress,
    ).to_json()


def _scanned(context: JobContext) -> Scan:
    key = (context.settings.data, context.settings.model.task)
    return context.scanned(key, lambda: scan_data(context.settings, context.engine()))
