"""Jobs and events of the driver program cross as lines; what is none is refused in words."""

from __future__ import annotations

import json

import pytest

from ts4s_core.data.facts import ScanFacts
from ts4s_core.errors import SettingsError, SparkError
from ts4s_core.progress import silent
from ts4s_core.settings import Settings
from ts4s_core.spark.driver.events import Beat, Logged, Outcome, Progressed, as_line, event_of
from ts4s_core.spark.driver.job import Job, artifact_of, fences_of, tokenizer_of
from ts4s_core.spark.driver.job_context import JobContext
from ts4s_core.spark.driver.jobs import run_job

EVENTS = [
    Beat(),
    Logged(logger="ts4s_core", level=20, message="so\nso"),
    Progressed(id=0, stage="train", fields={"step": 1, "loss": 0.5, "left": None, "doing": "x"}),
    Outcome(id=0, result={"rows": 3, "none": None}),
    Outcome(id=1, error={"type": "DataError", "message": "odd"}),
    Outcome(id=2, result={}),
]


@pytest.mark.parametrize("event", EVENTS)
def test_events_arrive_as_they_were(event):
    line = as_line(event)
    assert line.count("\n") == 1
    assert event_of(line.encode()) == event


def test_what_json_has_not_is_written_as_text():
    assert json.loads(as_line(Outcome(id=0, result={"ref": {1}}))) == {"event": "outcome", "id": 0, "result": {"ref": "{1}"}}


def test_what_is_no_event_is_named():
    with pytest.raises(SparkError, match=r"not an event: expected beat, log, progress or outcome, got one with no log\.logger"):
        event_of(b'{"event": "log", "level": 20, "message": "x"}')


def test_a_job_is_what_it_was_and_names_its_artifacts():
    record = {
        "job": "prepare",
        "id": 3,
        "settings": {"name": "demo"},
        "held": [],
        "onnx": "onnx/base/20260101T000000.000000Z-00000000",
        "tokenizer": {"tokenizer.json": "e30="},
        "options": {"output": None},
    }
    job = Job.of(record)
    assert {name: job.to_json()[name] for name in record} == record
    assert str(artifact_of(job, "onnx")) == record["onnx"]
    assert tokenizer_of(job) == {"tokenizer.json": b"{}"}
    assert (fences_of(job), fences_of(Job.of({"job": "echo"}))) == ((), ())
    with pytest.raises(SettingsError, match="job prepare: expected dataset as KIND/NAME/VERSION, got None"):
        artifact_of(job, "dataset")


@pytest.mark.parametrize(
    ("record", "why"),
    [
        ([], r"job None: .* got one with the record"),
        ({"job": "echo", "settings": []}, "job 'echo': .* settings: Input should be a valid dictionary"),
        ({"settings": {}}, "job None: .* no job"),
    ],
)
def test_what_is_no_job_is_refused(record, why):
    with pytest.raises(SettingsError, match=why):
        Job.of(record)


def test_a_scan_says_what_it_found_of_rows_and_of_text(tmp_path):
    (tmp_path / "rows.tsv").write_text("".join(f"{'ab'[row % 2]}\ttext number {row}\n" for row in range(60)), encoding="utf-8")
    (tmp_path / "book.txt").write_text("".join(f"line {line} of a book.\n" for line in range(2_000)), encoding="utf-8")
    for task, source, extra in (("classification", "rows.tsv", {}), ("language-model", "book.txt", {"window": 16})):
        settings = Settings.model_validate(
            {
                "name": "demo",
                "model": {"task": task, "vocabulary_size": 300},
                "data": {"source": str(tmp_path / source), **extra},
                "spark": {"master": "none"},
                "storage": {"uri": str(tmp_path / "store")},
            }
        )
        context = JobContext(settings, tmp_path)
        found = ScanFacts.model_validate(run_job(Job.of({"job": "scan"}), context=context, progress=silent))
        assert sum(found.sides.values()) == found.rows
        if task == "classification":
            assert (found.rows, found.labels, found.bad_rows, found.lines) == (60, ("a", "b"), 0, None)
            assert sum(count for side in (found.label_rows or {}).values() for count in side.values()) == 60
        else:
            assert (found.labels, found.lines, found.label_rows) == ((), 2_000, None)
            assert sum((found.bytes or {}).values()) == (tmp_path / "book.txt").stat().st_size
