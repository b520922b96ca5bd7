"""The jobs that read labelled texts: kinds of task name them."""

from __future__ import annotations

from ts4s_core.data.facts import ScanFacts
from ts4s_core.data.prepare import prepare_dataset
from ts4s_core.data.scan import Scan
from ts4s_core.data.scan import scan as scan_data
from ts4s_core.progress import Progress
from ts4s_core.spark.driver.job import Job, Result, artifact_of
from ts4s_core.spark.driver.place import Place


def scan(_job: Job, place: Place, progress: Progress) -> Result:
    """Read all of the data once; nothing is written."""
    place.forget_scan()
    found = _scanned(place)
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


def prepare(job: Job, place: Place, progress: Progress) -> Result:
    """The dataset artifact, tokenised as the ``onnx`` (or ``model``) artifact's tokenizer does."""
    store, onnx = place.store(), artifact_of(job, "onnx")
    found = _scanned(place)
    place.forget_scan()  # should the rows have changed, the next try looks again
    return prepare_dataset(
        place.settings,
        store,
        place.engine(),
        scan=found,
        tokenizer_folder=store.local(onnx) / "tokenizer",
        upstream={"onnx": onnx},
        progress=progress,
    ).to_json()


def _scanned(place: Place) -> Scan:
    wanted = (place.settings.data, place.settings.model.task)
    return place.scanned(wanted, lambda: scan_data(place.settings, place.engine()))
