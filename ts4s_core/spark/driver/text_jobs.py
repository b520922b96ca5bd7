"""The jobs that read running text: kinds of task name them."""

from __future__ import annotations

from ts4s_core.data.corpus.prepare import prepare_text
from ts4s_core.data.corpus.scan import TextScan, scan_text
from ts4s_core.data.facts import ScanFacts
from ts4s_core.progress import Progress
from ts4s_core.spark.driver.job import Job, Result, tokenizer_of
from ts4s_core.spark.driver.job_context import JobContext


def scan(job: Job, context: JobContext, progress: Progress) -> Result:
    """Read all of a text once and train its tokenizer, if none is given; nothing is written."""
    context.forget_scan()
    found = _scanned(job, context)
    sides = {name: counts.blocks for name, counts in found.sides.items()}
    size = {name: counts.size for name, counts in found.sides.items()}
    progress("scan", {"bytes": sum(size.values()), "blocks": sum(sides.values()), "bad_rows": found.bad_rows})
    facts = ScanFacts(
        rows=sum(sides.values()),
        labels=(),
        sides=sides,
        bytes=size,
        lines=found.lines,
        bad_rows=found.bad_rows,
        fingerprint=found.fingerprint,
    )
    return facts.to_json()


def prepare(job: Job, context: JobContext, progress: Progress) -> Result:
    """The dataset artifact of a text."""
    found = _scanned(job, context)
    context.forget_scan()  # should the text have changed, the next try looks again
    return prepare_text(context.settings, context.store(), context.engine(), scan=found, progress=progress).to_json()


def _scanned(job: Job, context: JobContext) -> TextScan:
    model, tokenizer = context.settings.model, tokenizer_of(job)
    key = (context.settings.data, model.task, model.tokenizer_kind, model.vocabulary_size, tokenizer)
    return context.scanned(key, lambda: scan_text(context.settings, context.engine(), tokenizer=tokenizer))
