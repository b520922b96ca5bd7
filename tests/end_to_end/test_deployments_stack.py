"""What goes wrong, and what goes on by itself: crashes, schedules, the watch, notifications, serving. Minutes each."""

from __future__ import annotations

import http.server
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.stack, pytest.mark.timeout(900)]
CRASH_LIMIT_S = 120.0
LONG = {"batch_size": 16, "max_steps": 600, "epochs": 100, "checkpoint_every_steps": 10}


class Listener:
    """An address that is told, and remembers."""

    def __init__(self) -> None:
        self.told: list[dict[str, Any]] = []
        told = self.told

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                told.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_arguments: Any) -> None:
                """Keep quiet."""

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/told"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture(scope="module")
def listener() -> Iterator[Listener]:
    started = Listener()
    yield started
    started.server.shutdown()
    started.server.server_close()


@pytest.fixture(scope="module")
def data(tsv: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("watched")
    (folder / "rows.tsv").write_bytes(tsv.read_bytes())
    return folder


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("deployed") / "store"


@pytest.fixture(scope="module")
def flags(data: Path, model_flags: list[str], store: Path) -> list[str]:
    train = ["--train.max_steps", "30", "--train.batch_size", "16", "--train.learning_rate", "0.01", "--spark.master", "none"]
    return ["--name", "tiny", *model_flags, *train, "--data.source", str(data), "--storage.uri", str(store)]


@pytest.fixture(scope="module")
def stand(prefect_stand: Any, flags: list[str], listener: Listener) -> Any:
    done = prefect_stand.ts4s("deploy", *flags, "--watch-every", "3600", "--json", TS4S_NOTIFY_URL=listener.url)
    assert done.returncode == 0, done.stderr
    assert listener.url not in done.stdout
    prefect_stand.start_worker()
    return prefect_stand


def weights(store: Path, name: str, version: str) -> str:
    manifest = json.loads((store / "trained" / name / version / "manifest.json").read_text(encoding="utf-8"))
    return str(manifest["facts"]["weights_sha256"])


def version_in(message: str) -> str:
    return message.split()[2]


def test_schedule_click_and_command_line_give_one_hash(stand: Any, flags: list[str], store: Path, listener: Listener) -> None:
    clicked = stand.wait(stand.run("retrain/on-demand"))
    assert clicked["message"].startswith("done: tiny "), clicked
    assert " promoted: first version" in clicked["message"]
    stand.until(lambda: any(told["event"] == "promotion" for told in listener.told), what="the news of the promotion", limit_s=60)
    told = next(told for told in listener.told if told["event"] == "promotion")
    assert told["version"] == version_in(clicked["message"])
    assert told["text"].startswith("ts4s: tiny ")

    nightly = stand.deployment("retrain/nightly")
    other = store.with_name("scheduled")
    parameters = {**nightly["parameters"], "storage": {"uri": str(other)}}
    schedule = {"schedule": {"cron": "* * * * *", "timezone": "Europe/Madrid"}, "active": True, "parameters": {}}
    stand.api(f"deployments/{nightly['id']}", {"parameters": parameters, "schedules": [schedule]}, method="PATCH")
    mine = {"deployments": {"id": {"any_": [nightly["id"]]}}, "flow_runs": {"state": {"type": {"any_": ["COMPLETED", "FAILED"]}}}}
    stand.until(lambda: len(stand.api("flow_runs/filter", mine)) >= 2, what="two runs of the schedule")
    stand.api(f"deployments/{nightly['id']}", {"schedules": []}, method="PATCH")
    runs = stand.api("flow_runs/filter", {**mine, "sort": "EXPECTED_START_TIME_ASC"})
    assert all(run["auto_scheduled"] for run in runs)
    done = next(run["state"] for run in runs if run["state_name"] == "Completed")
    assert {run["state_name"] for run in runs} <= {"Completed", "Unchanged", "Skipped"}

    third = store.with_name("typed")
    typed = stand.ts4s("retrain", *flags[:-1], str(third), "--json")
    assert typed.returncode == 0, typed.stderr
    hashes = {
        weights(store, "tiny", version_in(clicked["message"])),
        weights(other, "tiny", version_in(done["message"])),
        json.loads(typed.stdout)["weights_sha256"],
    }
    assert len(hashes) == 1

    again = stand.wait(stand.run("retrain/on-demand"))
    assert again["name"] == "Unchanged"
    assert "nothing was done" in again["message"]


def test_the_watch_starts_a_run_where_the_content_changed(stand: Any, data: Path) -> None:
    def look() -> str:
        return str(stand.wait(stand.run("watch/data-source"))["message"])

    def started() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = stand.api(
            "flow_runs/filter", {"flow_runs": {"tags": {"all_": ["watch:tiny"]}}, "sort": "EXPECTED_START_TIME_DESC"}
        )
        return found

    look()  # the schedule may have looked already
    first = started()
    assert stand.wait(first[0]["id"])["type"] == "COMPLETED"
    unchanged = look()
    assert unchanged.startswith("unchanged: nothing changed in ")
    assert len(started()) == len(first)
    file = data / "rows.tsv"
    before = file.stat()
    text = file.read_text(encoding="utf-8")
    file.write_text(text.replace("siempre", "sismpre", 1), encoding="utf-8")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert file.stat().st_size == before.st_size
    changed = look()
    assert changed.startswith("started: ")
    assert ": changed; " in changed
    assert len(started()) == len(first) + 1
    assert stand.wait(started()[0]["id"])["message"].startswith("done: tiny ")


def test_worker_and_flow_killed(stand: Any, store: Path, listener: Listener) -> None:
    run = stand.run("retrain/on-demand", train=LONG)
    stand.until(lambda: any("checkpoint of step" in line for line in stand.logs(run)), what="a checkpoint")
    worker = next(process for process in stand.processes if process.poll() is None)
    engine = [process for process in stand.processes_of(run) if "prefect.engine" in process.cmdline()]
    assert len(engine) == 1
    worker.kill()
    engine[0].kill()
    took = stand.until(lambda: stand.state_of(run)["type"] == "CRASHED", what="the mark of the crash", limit_s=CRASH_LIMIT_S)
    assert "no heartbeat for 90 s" in stand.state_of(run)["message"]
    assert not stand.processes_of(run), took
    stand.until(lambda: any(told.get("run_id") == run for told in listener.told), what="the news of the crash", limit_s=60)

    stand.start_worker("second-worker")
    following = stand.run("retrain/on-demand", train=LONG)
    state = stand.wait(following)
    assert state["message"].startswith("done: tiny "), state
    assert any(line.startswith("training goes on from checkpoint ") for line in stand.logs(following))
    assert not [path for path in (store / "leases").rglob("*.json") if path.parent.name == "tiny"]


def test_server_killed(stand: Any) -> None:
    changes = {**LONG, "seed": 11}
    run = stand.run("retrain/on-demand", train=changes)
    stand.until(lambda: any("checkpoint of step" in line for line in stand.logs(run)), what="a checkpoint")
    stand.kill_server()
    time.sleep(5)
    stand.start_server_again()
    following = stand.run("retrain/on-demand", train=changes)
    states = [stand.wait(run), stand.wait(following)]
    if not any(state["type"] == "COMPLETED" and state["message"].startswith("done: tiny ") for state in states):
        states.append(stand.wait(stand.run("retrain/on-demand", train=changes)))
    assert states[-1]["type"] == "COMPLETED", states
    last = stand.wait(stand.run("retrain/on-demand", train=changes))
    assert last["name"] == "Unchanged"


def test_serving_ends_with_sigterm_and_begins_again(stand: Any, flags: list[str]) -> None:
    def serve(name: str) -> Any:
        served = stand.start(name, sys.executable, "-P", "-m", "flows.cli", "serve", *flags, "--watch-every", "3600")
        stand.until(lambda: stand.deployment("retrain/nightly")["work_pool_name"] is None, what="served deployments")
        return served

    served = serve("serve")
    state = stand.wait(stand.run("retrain/on-demand"))
    assert state["type"] == "COMPLETED", state
    run = stand.run("retrain/on-demand", train={**LONG, "seed": 7})
    stand.until(lambda: any("checkpoint of step" in line for line in stand.logs(run)), what="a checkpoint")
    began = time.monotonic()
    served.send_signal(signal.SIGTERM)
    assert served.wait(45) == 143, stand.log("serve")
    assert time.monotonic() - began < 45
    assert not stand.processes_of(run)
    assert stand.deployment("retrain/nightly")["paused"]

    again = serve("serve-again")
    stand.until(lambda: not stand.deployment("retrain/nightly")["paused"], what="schedules that go on", limit_s=60)
    stand.retry(run)
    state = stand.wait(run)
    assert state["message"].startswith("done: tiny "), state
    assert any(line.startswith("training goes on from checkpoint ") for line in stand.logs(run))

    again.send_signal(signal.SIGTERM)
    assert again.wait(45) == 143, stand.log("serve-again")
    done = stand.ts4s("deploy", *flags, "--watch-every", "3600")
    assert done.returncode == 0, done.stderr
    nightly = stand.deployment("retrain/nightly")
    assert (nightly["work_pool_name"], nightly["paused"]) == ("ts4s", False)
