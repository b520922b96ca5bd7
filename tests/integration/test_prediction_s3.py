"""Prediction from S3 to S3: the files of a job count from its ``_SUCCESS`` on, and a failed job leaves none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from ts4s_core.artifacts.storage.storage import Storage
from ts4s_core.data.data_engine import LocalEngine
from ts4s_core.errors import ConflictError, DataError, SettingsError
from ts4s_core.prediction.facts import PredictionFacts
from ts4s_core.prediction.job import predict
from ts4s_core.prediction.options import PredictOptions
from ts4s_core.prediction.output import SUCCESS, open_target


def test_from_s3_to_s3(moto_server: Any, tiny_models: Any, tmp_path: Path) -> None:
    given = moto_server.settings(tmp_path / "cache")
    bucket = "/".join(given.uri.split("/")[:3])
    inputs = Storage.open(given.model_copy(update={"uri": f"{bucket}/texts"}))
    inputs.write_bytes("a.jsonl", b'{"text": "w7 w8"}\n{"text": "w9"}\n{"text": 3}\n')
    settings = tiny_models.settings("roberta")
    data = settings.data.model_copy(update={"source": f"{bucket}/texts"})
    settings = settings.model_copy(update={"data": data, "storage": given})
    ref = tiny_models.trained("roberta")

    def run(output: str, errors: str = "mark") -> dict[str, Any]:
        options = PredictOptions.of({"output": output, "errors": errors})
        return predict(settings, tiny_models.store, LocalEngine(), model=ref, options=options)

    output = f"{bucket}/answers"
    assert (run(output)["rows"], run(f"{bucket}/again")["errors"]) == (3, 1)
    written = Storage.open(given.model_copy(update={"uri": output}))
    names = [entry.path for entry in written.list()]
    summary = json.loads(written.read_bytes(SUCCESS))
    assert names == [SUCCESS, f"part-00000-{summary['token']}.parquet"]
    (tmp_path / "part.parquet").write_bytes(written.read_bytes(names[1]))
    assert pq.read_table(tmp_path / "part.parquet").column("text").to_pylist() == ["w7 w8", "w9", None]
    with pytest.raises(SettingsError, match="already exists"):
        run(output)
    with pytest.raises(DataError, match="the text is a int"):
        run(f"{bucket}/refused", errors="refuse")
    assert Storage.open(given.model_copy(update={"uri": f"{bucket}/refused"})).list() == []


def test_of_two_jobs_at_one_address_one_wins(moto_server: Any, tmp_path: Path) -> None:
    given = moto_server.settings(tmp_path / "cache")
    bucket = "/".join(given.uri.split("/")[:3])
    (tmp_path / "part-00000.parquet").write_bytes(b"rows")
    targets = [open_target(f"{bucket}/race", given) for _ in range(2)]
    for target in targets:
        target.begin().put(tmp_path / "part-00000.parquet", "part-00000.parquet")
    facts = PredictionFacts(rows=1, errors=0, rows_per_s=1.0, seconds=1.0, model="trained/demo/1", runtime="torch", labels=[])
    targets[0].finish([], facts)
    with pytest.raises(ConflictError):
        targets[1].finish([], facts)
    targets[1].abandon()
    assert len(Storage.open(given.model_copy(update={"uri": f"{bucket}/race"})).list()) == 2
