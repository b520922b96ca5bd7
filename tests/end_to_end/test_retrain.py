"""The whole chain by the command line: what it prints, what it leaves, and that it is not done twice."""

from __future__ import annotations

import base64
import json
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest

from flows.cli.options import parse, settings_of
from flows.cli.table import find_command
from flows.prefect_api.server import TemporaryServer
from tasks.current_run import open_run
from ts4s_core.artifacts.versions.refs import ArtifactRef
from ts4s_core.pipeline.classifier_run import ClassifierRun

TRAIN = ["--train.max_steps", "4", "--train.batch_size", "16"]
RESULT_FIELDS = {"status", "model", "version", "promoted", "why", "weights_sha256", "metrics", "train", "seconds", "artifacts"}


class Result(Protocol):
    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]: ...


@pytest.fixture(scope="module")
def server() -> Iterator[TemporaryServer]:
    """A Prefect server that outlives the runs, so that what they left can be looked at."""
    started = TemporaryServer()
    try:
        started.wait()
        yield started
    finally:
        started.stop()


def ask(server: TemporaryServer, path: str) -> list[dict[str, Any]]:
    login = base64.b64encode(server.client_environment()["PREFECT_API_AUTH_STRING"].encode()).decode()
    headers = {"Content-Type": "application/json", "Authorization": f"Basic {login}"}
    request = urllib.request.Request(f"{server.api_url}/{path}", data=b"{}", headers=headers)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=30) as answer:
        found: list[dict[str, Any]] = json.loads(answer.read())
    return found


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.timeout(600)
def test_a_run_a_second_run_and_what_is_shown(
    ts4s: Callable[..., Result], model_flags: list[str], tsv: Path, tmp_path: Path, server: TemporaryServer
) -> None:
    store = tmp_path / "store"
    flags = [
        "--data.source",
        str(tsv),
        *model_flags,
        *TRAIN,
        "--spark.master",
        "none",
        "--storage.uri",
        str(store),
        "--name",
        "tiny",
    ]
    environ = {**server.client_environment(), "PREFECT_HOME": str(server.home)}
    first = ts4s("retrain", *flags, "--json", environ=environ)
    assert first.code == 0, first.err
    assert first.out.count("\n") == 1
    result = first.json
    assert set(result) == RESULT_FIELDS
    assert (result["status"], result["model"]) == ("done", "tiny")
    assert len(result["weights_sha256"]) == 64
    assert set(result["metrics"]) == {"accuracy", "macro_f1", "loss"}
    assert result["train"]["steps"] == 4
    assert result["train"]["restarts"] == 0
    assert result["train"]["tokens_per_s"] > 0
    assert set(result["seconds"]) == {"export", "import", "prepare", "train", "evaluate", "total"}
    assert set(result["artifacts"]) == {"onnx", "model", "dataset", "trained", "report"}
    assert "train step=4/4 loss=" in first.err
    assert "Traceback" not in first.err
    assert all((store / ref / "manifest.json").is_file() for ref in result["artifacts"].values())
    assert {entry.name for entry in (tmp_path / "here").iterdir()} == {"flows", "tasks"}  # the user's own

    before = files(store)
    second = ts4s("retrain", *flags, "--json", environ=environ)
    assert second.code == 0, second.err
    assert files(store) == before
    again = second.json
    assert again["status"] == "unchanged"
    same = RESULT_FIELDS - {"status", "seconds"}
    assert {name: again[name] for name in same} == {name: result[name] for name in same}

    runs = ask(server, "flow_runs/filter")
    assert [run["state_type"] for run in runs] == ["COMPLETED", "COMPLETED"]
    assert all(run["parameters"]["storage"] == {"uri": str(store)} or "secret" not in str(run["parameters"]) for run in runs)
    shown = {artifact["key"] for artifact in ask(server, "artifacts/filter")}
    assert {
        "trained-tiny",
        "dataset-tiny",
        "model-tiny",
        "metrics-tiny",
        "rows-tiny",
        "decision-tiny",
        "train-progress-tiny",
    } <= shown

    described = ts4s("models", "show", "tiny@" + result["version"], "--storage.uri", str(store), "--json")
    assert described.code == 0, described.err
    assert described.json["weights_sha256"] == result["weights_sha256"]
    assert described.json["metrics"] == result["metrics"]


@pytest.mark.long
@pytest.mark.timeout(600)
def test_spark_another_name_and_another_order_of_rows_give_the_same_weights(
    ts4s: Callable[..., Result], model_flags: list[str], tsv: Path, tmp_path: Path
) -> None:
    flags = [*model_flags, *TRAIN, "--json"]
    plain = ["--data.source", str(tsv), "--spark.master", "none", "--storage.uri", str(tmp_path / "one"), "--train.workers", "1"]
    first = ts4s("retrain", *flags, *plain)
    assert first.code == 0, first.err
    turned = tmp_path / "turned.tsv"
    turned.write_text("".join(reversed(tsv.read_text("utf-8").splitlines(keepends=True))), encoding="utf-8")
    spark = ["--spark.master", "local[2]", "--train.workers", "2", "--name", "other", "--storage.uri", str(tmp_path / "two")]
    second = ts4s("retrain", *flags, *spark, "--data.source", str(turned))
    assert second.code == 0, second.err
    assert second.json["weights_sha256"] == first.json["weights_sha256"]
    assert second.json["metrics"] == first.json["metrics"]


@pytest.mark.long
@pytest.mark.timeout(600)
def test_the_steps_one_by_one(ts4s: Callable[..., Result], model_flags: list[str], tsv: Path, tmp_path: Path) -> None:
    flags = [
        *model_flags,
        *TRAIN,
        "--data.source",
        str(tsv),
        "--spark.master",
        "none",
        "--storage.uri",
        str(tmp_path / "store"),
        "--json",
    ]
    made: dict[str, dict[str, Any]] = {}
    for step in ("export", "prepare", "import", "train", "evaluate"):
        extra = ["--to", str(tmp_path / "plain.onnx")] if step == "export" else []
        result = ts4s(step, *flags, *extra)
        assert result.code == 0, (step, result.err)
        made[step] = result.json
        assert {"artifact", "seconds"} <= set(made[step])
    assert (tmp_path / "plain.onnx").stat().st_size > 10_000
    assert len(made["train"]["weights_sha256"]) == 64
    again = ts4s("train", *flags, "--from", made["prepare"]["artifact"], "--from", made["import"]["artifact"])
    assert (again.json["artifact"], again.json["reused"]) == (made["train"]["artifact"], True)
    redone = ts4s("train", *flags, "--reuse", "false")
    assert redone.json["artifact"] != made["train"]["artifact"]
    assert redone.json["weights_sha256"] == made["train"]["weights_sha256"]
    # What a step resets is in no key of its: with all of the flow's settings the same versions are found.
    command, _ = find_command(["retrain"])
    assert command is not None
    with open_run(settings_of(command, parse(command, flags))) as run:
        assert isinstance(run, ClassifierRun)
        exported = run.export()
        prepared, model = run.prepare(exported.ref), run.import_alone({})
        trained = run.train(prepared.ref, model.ref)
        report = run.evaluate(ArtifactRef.parse(made["train"]["artifact"]), prepared.ref, seconds={})
    found = {"export": exported, "prepare": prepared, "import": model, "train": trained, "evaluate": report}
    assert {step: result.reused for step, result in found.items()} == dict.fromkeys(found, True)
    assert {step: str(found[step].ref) for step in ("export", "prepare", "import")} == {
        step: made[step]["artifact"] for step in ("export", "prepare", "import")
    }


def test_a_server_that_wants_a_login_says_so_in_one_line(
    ts4s: Callable[..., Result], model_flags: list[str], tsv: Path, tmp_path: Path, server: TemporaryServer
) -> None:
    flags = ["--data.source", str(tsv), *model_flags, *TRAIN, "--spark.master", "none", "--storage.uri", str(tmp_path / "store")]
    environ = {"PREFECT_API_URL": server.api_url, "PREFECT_API_AUTH_STRING": "ts4s:wrong", "PREFECT_HOME": str(server.home)}
    refused = ts4s("retrain", *flags, environ=environ)
    last = refused.err.strip().splitlines()[-1]
    assert (refused.code, last.split(", expected")[0]) == (
        2,
        f"error: PREFECT_API_URL {server.api_url}: the server refused the login (HTTP 401)",
    )
    assert not (tmp_path / "store").exists()
