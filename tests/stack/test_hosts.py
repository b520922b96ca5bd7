"""Driver, two executors and the store on hosts of their own, as Linux namespaces; one executor's host is cut off in training."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from network_hosts import Host, available, network
from supervisor import supervised

from flows.stack.services import Keys, rclone_program
from ts4s_core.processes import kill_tree
from ts4s_core.spark.session.standalone import Daemon, has_registered, master_daemon, master_url, worker_daemon

pytestmark = [
    pytest.mark.stack,
    pytest.mark.timeout(1500),
    pytest.mark.skipif(not available(), reason="needs root, ip and unshare: makes network namespaces"),
]
START_LIMIT_S, COMMAND_LIMIT_S = 120.0, 400.0
EXECUTORS = ("left", "right")
STEPS, CHECKPOINT_EVERY = 600, 20
#: Short, so that the test is; a busy machine keeps no worker from beating for so long.
SILENCE_S = 20.0
#: Spark's master gives a silent worker up after 60 s; without a look at the slots the driver would wait for it for five minutes.
GOES_ON_LIMIT_S = 200.0


@dataclass
class Hosts:
    """The hosts, and what runs on them."""

    on: dict[str, Host]
    flags: list[str]
    keys: Keys
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self, host: str, command: tuple[str, ...], environ: Mapping[str, str]) -> Path:
        """Start a command on a host; its log."""
        log = self.on[host].folder / f"{len(self.processes)}.log"
        with log.open("wb") as output:
            command = tuple(supervised([*self.on[host].inside, *command]))
            process = subprocess.Popen(
                command, env=dict(environ), cwd=log.parent, stdout=output, stderr=output, start_new_session=True
            )
        self.processes.append(process)
        return log

    def daemon(self, host: str, daemon: Daemon, said: Callable[[str], str | bool | None]) -> str:
        """Start a part of Spark, and wait for what it says when it is ready."""
        log = self.start(host, daemon.command, daemon.environment)
        until(lambda: said(log.read_text("utf-8", "replace")), what=f"{said.__name__} in {log}")
        return str(said(log.read_text("utf-8", "replace")))

    def environ(self, host: str) -> dict[str, str]:
        """A host's environment: its own temporary files and cache; nothing of the user's."""
        own = self.on[host].folder
        (own / "tmp").mkdir(exist_ok=True)
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("TS4S_", "AWS_", "PREFECT_"))}
        return kept | {"TMPDIR": str(own / "tmp"), "XDG_CACHE_HOME": str(own / "cache"), "HF_HUB_OFFLINE": "1"}

    def ts4s(self, *words: str) -> subprocess.Popen[str]:
        """The command line on the driver's host, which alone has the keys."""
        driver = self.on["driver"]
        environ = self.environ("driver") | {"PREFECT_HOME": str(driver.folder / "prefect")}
        environ |= {"TS4S_STORAGE__KEY": self.keys.key, "TS4S_STORAGE__SECRET": self.keys.secret}
        return subprocess.Popen(
            [*driver.inside, sys.executable, "-m", "flows.cli", *words, "--json"],
            env=environ,
            cwd=driver.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def retrain(self, name: str) -> subprocess.Popen[str]:
        """Begin a run on the cluster."""
        return self.ts4s("retrain", "--name", name, *self.flags)

    def artifacts(self, kind: str, name: str) -> list[Path]:
        """Manifests in the store."""
        return sorted((self.on["store"].folder / "buckets" / "ts4s" / "store" / kind / name).glob("*/manifest.json"))


def until(reached: Callable[[], Any], *, what: str, limit_s: float = START_LIMIT_S) -> None:
    deadline = time.monotonic() + limit_s
    while not reached():
        assert time.monotonic() < deadline, f"{what} did not come within {limit_s:g} s"
        time.sleep(0.1)


def result_of(process: subprocess.Popen[str]) -> dict[str, Any]:
    try:
        out, err = process.communicate(timeout=COMMAND_LIMIT_S)
    finally:
        kill_tree(process.pid)
    assert process.returncode == 0, err[-3000:]
    found: dict[str, Any] = json.loads(out.splitlines()[-1])
    return found


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, small_rows: str) -> Iterator[Hosts]:
    """A Spark master beside the driver, a worker each on two hosts, and an S3 server on a fourth."""
    with network(tmp_path_factory.mktemp("hosts"), ("driver", *EXECUTORS, "store")) as on:
        made = Hosts(on, [], Keys.new())
        try:
            _store(made, small_rows)
            url = _cluster(made)
            model = shutil.copytree(tiny_model, on["driver"].folder / "model")
            conf = [f"spark.driver.{name}={on['driver'].address}" for name in ("host", "bindAddress")]
            made.flags = [word for pair in [*conf, "spark.executor.memory=512m"] for word in ("--spark.conf", pair)]
            given = {
                "spark.master": url,
                "storage.uri": "s3://ts4s/store",
                "storage.endpoint_url": f"http://{on['store'].address}:9000",
                "data.source": "s3://ts4s/data/rows.tsv",
                "model.source": f"config:{model / 'config.json'}",
                "model.tokenizer": model / "tokenizer",
                "model.max_length": 32,
                "train.workers": len(EXECUTORS),
                "train.batch_size": 16,
                "train.epochs": 100,
                "train.max_steps": STEPS,
                "train.checkpoint_every_steps": CHECKPOINT_EVERY,
                "train.timeout_s": SILENCE_S,
            }
            made.flags += [str(word) for name, value in given.items() for word in (f"--{name}", value)]
            yield made
        finally:
            for process in reversed(made.processes):
                kill_tree(process.pid)
                process.wait()


def _store(hosts: Hosts, rows: str) -> None:
    host = hosts.on["store"]
    data = host.folder / "buckets" / "ts4s" / "data"
    data.mkdir(parents=True)
    (data / "rows.tsv").write_text(rows, encoding="utf-8")
    command = (str(rclone_program()), "serve", "s3", "--config", os.devnull, "--addr", f"{host.address}:9000", "buckets")
    hosts.start("store", command, hosts.environ("store") | {"RCLONE_AUTH_KEY": f'"{hosts.keys.key},{hosts.keys.secret}"'})


def _cluster(hosts: Hosts) -> str:
    driver = hosts.on["driver"]
    daemon = master_daemon(driver.folder / "master", environ=hosts.environ("driver"), host=driver.address)
    url = hosts.daemon("driver", daemon, master_url)
    for name in EXECUTORS:
        host = hosts.on[name]
        folder = host.folder / "worker"
        daemon = worker_daemon(folder, master=url, cores=1, memory="1g", environ=hosts.environ(name), host=host.address)
        hosts.daemon(name, daemon, has_registered)
    return url


def test_a_host_that_is_cut_off_in_training_changes_no_weight(hosts: Hosts) -> None:
    whole = result_of(hosts.retrain("whole"))
    assert (whole["status"], whole["train"]["restarts"], whole["train"]["steps"]) == ("done", 0, STEPS)
    facts = json.loads(hosts.artifacts("trained", "whole")[0].read_text())["facts"]
    workers = {row["host"] for row in facts["executors"] if row["cores"] and row["executor"] != "driver"}
    assert workers == {hosts.on[name].address for name in EXECUTORS}
    assert facts["workers"] == 2

    run = hosts.retrain("cut")
    until(lambda: hosts.artifacts("checkpoint", "cut") or run.poll() is not None, what="a checkpoint", limit_s=COMMAND_LIMIT_S)
    assert run.poll() is None, run.communicate()
    hosts.on["right"].cut()
    began = time.monotonic()
    cut = result_of(run)
    assert time.monotonic() - began < GOES_ON_LIMIT_S
    assert (cut["status"], cut["train"]["steps"]) == ("done", STEPS)
    assert cut["train"]["restarts"] >= 1
    assert json.loads(hosts.artifacts("trained", "cut")[0].read_text())["facts"]["workers"] == 1
    assert cut["weights_sha256"] == whole["weights_sha256"]
    assert hosts.artifacts("checkpoint", "cut") == []
    where = ["--storage.uri", "s3://ts4s/store", "--storage.endpoint_url", f"http://{hosts.on['store'].address}:9000"]
    assert result_of(hosts.ts4s("models", "verify", *where))["damaged"] == []
