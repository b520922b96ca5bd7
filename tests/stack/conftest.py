"""The whole stack, started by its own command, with a tiny model and rows that lie in its S3 server alone."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from flows.stack.state import MARK
from ts4s_core.processes import is_living

COMMAND_LIMIT_S = 280
#: Everything is imported and read for the first time, beside a Prefect server that has just started: more than four minutes were
#: seen on two cores with a load of five, where idle ones take one.
FIRST_RUN_LIMIT_S = 600
ROWS = "s3://ts4s/data/rows.tsv"

sys.path.insert(0, str(Path(__file__).parent))  # for this folder's own modules: tests/ is no package


def _beside(path: str) -> Any:
    """A module of tests/, which is no package, by path."""
    name = f"ts4s_tests_{Path(path).parent.name}_{Path(path).stem}"
    spec = importlib.util.spec_from_file_location(name, Path(__file__).parents[1] / path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


_INPUTS = _beside("end_to_end/conftest.py")
_STAND = _beside("prefect_stand.py")
tiny_model = _INPUTS.tiny_model


class Stack(_STAND.PrefectApi):  # type: ignore[misc]
    """A stack, and how to ask it.

    Attributes:
        described: what ``ts4s stack up`` said of it.
        options: of ``ts4s stack up``.
        flags: of a small retraining.
    """

    def __init__(self, folder: Path, options: list[str], flags: list[str], environ: dict[str, str]) -> None:
        self.flags = flags
        self.options = options
        self._environ = environ
        self.described: dict[str, Any] = {}
        super().__init__("", folder)

    def up(self) -> None:
        """Start it, or start it again."""
        self.described = self.command("stack", "up", *self.options, *self.flags)
        self.api_url = self.described["prefect_api"]
        self.login = Path(self.described["prefect_login"]).read_text(encoding="utf-8").strip()
        self._environ |= {"PREFECT_API_URL": self.api_url, "PREFECT_API_AUTH_STRING": self.login}

    def down(self) -> list[str]:
        """End it; what was still running."""
        ended: list[str] = self.command("stack", "down", "--folder", str(self.folder))["ended"]
        assert self.processes() == []
        return ended

    def command(self, *words: str, code: int = 0) -> dict[str, Any]:
        """Run ts4s; the last line of its output, nothing where it is refused."""
        done = subprocess.run(
            [sys.executable, "-m", "flows.cli", *words, "--json"],
            env=self._environ,
            capture_output=True,
            text=True,
            timeout=COMMAND_LIMIT_S,
            check=False,
        )
        assert done.returncode == code, done.stderr
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1]) if done.stdout else {}
        return found

    def retrain(self, name: str) -> dict[str, Any]:
        """A run by command line, on the stack's cluster and store."""
        return self.command("retrain", "--config", self.described["config"], "--name", name, *self.flags)

    def show(self, name: str) -> dict[str, Any]:
        """What the registry has under a name."""
        return self.command("models", "show", name, "--config", self.described["config"])

    def wait_for_run(self, wanted: Callable[[dict[str, Any]], bool], *, states: set[str]) -> dict[str, Any]:
        """Wait until one of the wanted runs is in one of the states."""
        deadline = time.monotonic() + COMMAND_LIMIT_S
        found: list[dict[str, Any]] = []
        while time.monotonic() < deadline:
            found = [run for run in self.api("flow_runs/filter", {}) if wanted(run)]
            for run in found:
                if run["state_type"] in states:
                    return run
            time.sleep(1)
        raise AssertionError(f"no run came to {states}: {[(run['name'], run['state']) for run in found]}")

    def pid(self, service: str) -> int:
        """Process number of a service."""
        return int(self.described["services"][service]["pid"])

    def processes(self, *having: str) -> list[psutil.Process]:
        """Living processes of the stack, also those that nobody wrote down; having a word on their command line."""
        mark = json.loads((self.folder / "state.json").read_text())["mark"]
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                line = " ".join(process.cmdline())
                if process.environ().get(MARK) == mark and is_living(process) and all(word in line for word in having):
                    found.append(process)
        return found


@pytest.fixture(scope="session")
def small_rows() -> str:
    """300 labelled sentences as TSV."""
    return "".join(f"{label}\t{text}\n" for label, text in _INPUTS.sentences(300))


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, small_rows: str) -> Iterator[Stack]:
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
    rows.write_text(small_rows, encoding="utf-8")
    sentences = (f"La sopa {number} de la casa está lista, y el pan también.\n" for number in range(3_000))
    rows.with_name("book.txt").write_text("".join(sentences), encoding="utf-8")
    options = ["--folder", str(home), "--cores", "1", "--watch-every", "0", "--cron", "* * * * *", "--name", "scheduled"]
    stack = Stack(home, options, flags, environ)
    stack.up()
    try:
        yield stack
    finally:
        stack.down()


@pytest.fixture(scope="session")
def scheduled(stack: Stack) -> dict[str, Any]:
    """What the registry has of the schedule's first run; the schedule is paused after it."""
    nightly = stack.deployment("retrain/nightly")
    due = stack.wait_for_run(
        lambda run: run["deployment_id"] == nightly["id"] and run["auto_scheduled"], states={"PENDING", "RUNNING", "COMPLETED"}
    )
    stack.api(f"deployments/{nightly['id']}/pause_deployment", {})
    ended = stack.wait(due["id"], limit_s=FIRST_RUN_LIMIT_S)
    assert ended["type"] == "COMPLETED", ended["message"]
    return stack.show("scheduled")
