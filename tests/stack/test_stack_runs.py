"""Runs of the stack's deployments: prediction, a language model, cancelling, and what goes on after parts were killed."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

pytestmark = [pytest.mark.stack, pytest.mark.timeout(1500)]
ROWS = "s3://ts4s/data/rows.tsv"
CANCEL_LIMIT_S = 30.0
#: Half a minute and more: logs come to Prefect every two seconds, and a run must still train when a checkpoint is read of.
LONG = {"batch_size": 16, "max_steps": 3000, "epochs": 400, "checkpoint_every_steps": 50}


def bucket(stack: Any) -> Path:
    return Path(stack.folder / "s3" / "buckets" / "ts4s")


def begun(stack: Any, **changes: Any) -> str:
    """A long training that has written a checkpoint."""
    run = str(stack.run("retrain/on-demand", train={**LONG, **changes}))
    stack.until(lambda: any("checkpoint of step" in line for line in stack.logs(run)), what="a checkpoint")
    return run


def executors(stack: Any) -> list[psutil.Process]:
    return [process for word in ("CoarseGrainedExecutorBackend", "pyspark.daemon") for process in stack.processes(word)]


def test_predictions_of_a_deployment(stack: Any, scheduled: dict[str, Any]) -> None:
    state = stack.wait(stack.run("predict/on-demand", data={"source": ROWS}))
    assert state["type"] == "COMPLETED", state["message"]
    assert state["message"].startswith("rows 300, errors 0, ")
    store = bucket(stack) / "store"
    (manifest,) = (store / "predictions").rglob("manifest.json")
    assert f"output s3://ts4s/store/{manifest.parent.relative_to(store)}" in state["message"]


def test_a_language_model_of_a_deployment(stack: Any, scheduled: dict[str, Any]) -> None:
    run = stack.run(
        "language-model/on-demand",
        model={"architecture": "window", "hidden_size": 32, "embedding_size": 16, "context": 4, "vocabulary_size": 300},
        data={"source": "s3://ts4s/data/book.txt", "format": "text", "window": 16},
        train={"max_steps": 20, "batch_size": 32},
        generate={"max_new_tokens": 12},
    )
    state = stack.wait(run)
    assert state["type"] == "COMPLETED", state["message"]
    assert state["message"].startswith("done: scheduled-text ")
    assert len(stack.show("scheduled-text")["weights_sha256"]) == 64


def test_cancelling_ends_spark_and_the_run_can_be_retried(stack: Any, scheduled: dict[str, Any]) -> None:
    run = begun(stack)
    assert len(executors(stack)) >= 4  # on each worker of the cluster a JVM, and Python in it
    began = time.monotonic()
    stack.cancel(run)
    assert stack.wait(run, states=("CANCELLED",), limit_s=CANCEL_LIMIT_S)["type"] == "CANCELLED"
    left_s = CANCEL_LIMIT_S - (time.monotonic() - began)
    stack.until(lambda: not stack.processes_of(run) and not executors(stack), what="the end of all processes", limit_s=left_s)

    stack.retry(run)
    stack.until(lambda: stack.state_of(run)["type"] == "RUNNING", what="the second attempt")
    state = stack.wait(run)
    assert state["type"] == "COMPLETED", state["message"]
    assert state["message"].startswith("done: scheduled ")
    assert any(line.startswith("training goes on from checkpoint ") for line in stack.logs(run))


def test_a_trigger_finishes_what_was_killed_with_all_of_prefect(stack: Any, scheduled: dict[str, Any]) -> None:
    run = begun(stack, seed=3)
    (engine,) = (process for process in stack.processes_of(run) if "prefect.engine" in process.cmdline())
    engine.kill()
    for service in ("prefect-worker", "prefect-server"):
        psutil.Process(stack.pid(service)).send_signal(signal.SIGKILL)
    found = stack.command("stack", "status", "--folder", str(stack.folder), code=1)
    assert found["status"] == "partly up"
    assert [name for name, service in found["services"].items() if not service["alive"]] == ["prefect-server", "prefect-worker"]
    stack.command("stack", "up", "--folder", str(stack.folder), code=1)
    assert "spark-master" in stack.down()
    before = stack.api_url
    stack.up()
    assert stack.api_url == before

    following = stack.run("retrain/on-demand", train={**LONG, "seed": 3})
    state = stack.wait(following)
    assert state["type"] == "COMPLETED", state["message"]
    assert state["message"].startswith("done: scheduled ")
    assert any(line.startswith("training goes on from checkpoint ") for line in stack.logs(following))
    stack.until(lambda: stack.state_of(run)["type"] == "CRASHED", what="the mark of the crash", limit_s=120)
