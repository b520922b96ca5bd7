"""A run that is told to stop, or is killed, leaves no process; the same command goes on, to the same weights."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import psutil
import pytest
from waiting import wait_for

ENDS_WITHIN_S = 10.0


class Result(Protocol):
    code: int
    err: str

    @property
    def json(self) -> dict[str, Any]: ...


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("number", "code", "gone_on_with"),
    [
        (signal.SIGTERM, 143, False),
        pytest.param(signal.SIGTERM, 143, True, marks=pytest.mark.long),
        pytest.param(signal.SIGKILL, -signal.SIGKILL, True, marks=pytest.mark.long),
    ],
)
def test_a_stopped_run_leaves_no_process_and_is_gone_on_with(
    ts4s: Callable[..., Result],
    model_flags: list[str],
    tsv: Path,
    tmp_path: Path,
    number: signal.Signals,
    code: int,
    gone_on_with: bool,
) -> None:
    shared = [
        *model_flags,
        "--data.source",
        str(tsv),
        "--spark.master",
        "none",
        "--train.batch_size",
        "8",
        "--train.epochs",
        "40",
    ]
    flags = [
        *shared,
        "--train.max_steps",
        "600",
        "--train.checkpoint_every_steps",
        "20",
        "--json",
        "--storage.uri",
        str(tmp_path / "store"),
    ]
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    log = tmp_path / "err"
    with log.open("wb") as err:
        process = subprocess.Popen(
            [sys.executable, "-m", "flows.cli", "retrain", *flags],
            stderr=err,
            stdout=err,
            cwd=tmp_path,
            env={**os.environ, "TMPDIR": str(temporary)},
        )
        wait_for(lambda: "train step=" in log.read_text("utf-8") or process.poll() is not None, 200)
        assert process.poll() is None, log.read_text("utf-8")
        children = psutil.Process(process.pid).children(recursive=True)
        assert len(children) >= 3  # the Prefect server, the driver program, its workers
        began = time.monotonic()
        process.send_signal(number)
        assert process.wait(60) == code
        wait_for(lambda: not any(_lives(child) for child in children), 60)
    took = time.monotonic() - began
    assert not [child for child in children if _lives(child)]
    assert took < ENDS_WITHIN_S, f"took {took:.1f} s"
    assert "Traceback" not in log.read_text("utf-8")
    wait_for(lambda: not list(temporary.glob("ts4s-*/prefect-*")), 10)
    assert list(temporary.glob("ts4s-*/prefect-*")) == []

    if not gone_on_with:
        return
    resumed = ts4s("retrain", *flags)
    assert resumed.code == 0, resumed.err
    assert resumed.json["train"]["steps"] == 600
    assert resumed.json["status"] == "done"


def _lives(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running()) and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
