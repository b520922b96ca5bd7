"""The whole stack, started by its own command, with a tiny model and rows that lie in its S3 server alone."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from flows.stack_state import MARK
from ts4s_core.processes import is_living

COMMAND_LIMIT_S = 280
ROWS = "s3://ts4s/data/rows.tsv"


def _small_inputs() -> Any:
    """tests/ is no package: the inputs of the end-to-end tests, by path."""
    path = Path(__file__).parents[1] / "end_to_end" / "conftest.py"
    spec = importlib.util.spec_from_file_location("ts4s_tests_small_inputs", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


_INPUTS = _small_inputs()
tiny_model = _INPUTS.tiny_model


@dataclass
class Stack:
    """A running stack and how to ask it."""

    folder: Path
    described: dict[str, Any]
    flags: list[str]
    environ: dict[str, str]

    def command(self, *words: str, code: int = 0) -> dict[str, Any]:
        """Run ts4s; the last line of its output."""
        return run_command(*words, environ=self.environ, code=code)

    def retrain(self, name: str) -> dict[str, Any]:
        """A run by command line, on the stack's cluster and store."""
        return self.command("retrain", "--config", self.described["config"], "--name", name, *self.flags)

    def show(self, name: str) -> dict[str, Any]:
        """What the registry has under a name."""
        return self.command("models", "show", name, "--config", self.described["config"])

    def api(self, path: str, body: object = None) -> Any:
        """Ask Prefect's API."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            self.described["prefect_api"] + path, data=data, headers={"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            text = answer.read()
        return json.loads(text) if text else None

    def deployment(self, name: str) -> dict[str, Any]:
        """A deployment by ``FLOW/NAME``."""
        found: dict[str, Any] = self.api(f"/deployments/name/{name}")
        return found

    def wait_for_run(self, wanted: Callable[[dict[str, Any]], bool], *, states: set[str]) -> dict[str, Any]:
        """Wait until one of the wanted runs is in one of the states."""
        deadline = time.monotonic() + COMMAND_LIMIT_S
        found: list[dict[str, Any]] = []
        while time.monotonic() < deadline:
            found = [run for run in self.api("/flow_runs/filter", {}) if wanted(run)]
            for run in found:
                if run["state_type"] in states:
                    return run
            time.sleep(1)
        raise AssertionError(f"no run came to {states}: {[(run['name'], run['state']) for run in found]}")


def run_command(*words: str, environ: dict[str, str], code: int = 0) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli", *words, "--json"],
        env=environ,
        capture_output=True,
        text=True,
        timeout=COMMAND_LIMIT_S,
        check=False,
    )
    assert done.returncode == code, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def processes_of(mark: str) -> list[str]:
    """Living processes with a stack's mark, also those that nobody wrote down."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == mark and is_living(process):
                found.append(" ".join(process.cmdline()))
        except (psutil.Error, OSError):
            continue
    return found


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Iterator[Stack]:
    """One stack for all tests; its nightly deployment is due every minute."""
    folder = tmp_path_factory.mktemp("stack")
    foreign = ("TS4S_", "AWS_", "PREFECT_")
    environ = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    environ |= {"XDG_CACHE_HOME": str(folder / "cache"), "PREFECT_HOME": str(folder / "prefect"), "HF_HUB_OFFLINE": "1"}
    flags = ["--model.source", f"config:{tiny_model / 'config.json'}", "--model.tokenizer", str(tiny_model / "tokenizer")]
    flags += ["--model.max_length", "32", "--train.max_steps", "4", "--train.batch_size", "16", "--data.source", ROWS]
    home = folder / "stack"
    # They are in the bucket before the server is up: the first night may come at once.
    rows = home / "s3" / "buckets" / ROWS.removeprefix("s3://")
    rows.parent.mkdir(parents=True)
    rows.write_text("".join(f"{label}\t{text}\n" for label, text in _INPUTS.sentences(300)), encoding="utf-8")
    up = ["stack", "up", "--folder", str(home), "--cores", "1", "--watch-every", "0", "--cron", "* * * * *"]
    described = run_command(*up, "--name", "scheduled", *flags, environ=environ)
    mark = json.loads((home / "state.json").read_text())["mark"]
    try:
        yield Stack(home, described, flags, environ | {"PREFECT_API_URL": described["prefect_api"]})
    finally:
        run_command("stack", "down", "--folder", str(home), environ=environ)
    assert processes_of(mark) == []
