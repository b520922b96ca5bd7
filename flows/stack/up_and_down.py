"""``ts4s stack``: Prefect, a Spark cluster and an S3 store on this machine, as processes that outlive the command."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil

from flows.deployment.specs import DeployOptions
from flows.stack.services import (
    STORE_URI,
    Keys,
    StackPlan,
    free_port,
    http_answers,
    prefect_is_healthy,
    rclone_program,
    worker_is_online,
)
from flows.stack.state import Service, StackError, StackState, end, is_alive, locked, processes_of, read_state
from ts4s_core.errors import SettingsError
from ts4s_core.settings import Settings, SparkSettings, StorageSettings
from ts4s_core.settings.load import read_config
from ts4s_core.spark.session.java import find_java
from ts4s_core.spark.session.standalone import Daemon, has_registered, master_url, web_address

CONFIG_FILE = "ts4s.toml"
#: ``name:password`` for Prefect's UI, and for PREFECT_API_AUTH_STRING of whoever runs on the stack.
LOGIN_FILE = "prefect-login"
SPARK_WORKERS = 2
START_LIMIT_S = 240.0
PREFECT_SERVER, PREFECT_WORKER, S3_SERVER, SPARK_MASTER = "prefect-server", "prefect-worker", "s3-server", "spark-master"
_WORKER_NAMES = tuple(f"spark-worker-{number}" for number in range(1, SPARK_WORKERS + 1))
_POLL_S = 0.2
_LOG_LINES_QUOTED = 3
#: Folders with nothing in them that a later start would want.
_PASSING = ("tmp", "work", "local", "cache")


@dataclass(frozen=True)
class StackOptions:
    """What can be chosen.

    Attributes:
        folder: for state, logs, Prefect's database and the store.
        cores: that each of the two Spark workers offers.
        memory: that each of them offers, as Spark writes it.
    """

    folder: Path
    cores: int
    memory: str

    def __post_init__(self) -> None:
        if self.cores < 1:
            raise SettingsError(f"--cores {self.cores} is not valid: expected 1 or more")


def up(settings: Settings, options: StackOptions, deployed: DeployOptions) -> dict[str, Any]:
    """Start whatever is not there and deploy the flows; a stack that runs already gets the deployments alone.

    Raises:
        SettingsError: if something that it needs is not installed; nothing was started then.
        SparkError: if there is no Java.
        StackError: if a part of an earlier start still runs, or a part did not become ready; all was ended again then.
    """
    rclone_program()
    find_java()
    folder = options.folder
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)  # also where it was there before: logs and the store are in it
    with locked(folder):
        before = read_state(folder)
        alive = _alive(before)
        if before is not None and all(alive.values()) and len(alive) == len(_WORKER_NAMES) + 4:
            keys = _kept_keys(folder)
            if keys is None:
                raise StackError(f"the stack in {folder} runs without logins: end it with ts4s stack down and start it again")
            _deploy(settings, folder, deployed, api_url=f"{before.service(PREFECT_SERVER).address}/api", login=keys.login)
            return _described(folder, before, status="already up")
        if before is not None and processes_of(before.mark):
            dead = ", ".join(name for name, lives in alive.items() if not lives) or "a later part"
            raise StackError(f"a part of the stack in {folder} runs, but not {dead}: end it first with ts4s stack down")
        return _start(settings, options, deployed, before=before)


def status(folder: Path) -> dict[str, Any]:
    """What of a stack is alive; starts nothing and ends nothing."""
    state = read_state(folder)
    if state is None:
        return {"status": "down", "folder": str(folder), "services": {}}
    alive = _alive(state)
    if all(alive.values()) and alive:
        return _described(folder, state, status="up")
    return _described(folder, state, status="partly up" if any(alive.values()) or processes_of(state.mark) else "down")


def down(folder: Path) -> dict[str, Any]:
    """End every process of a stack, also of one that is broken; logs, Prefect's database and the store stay.

    Raises:
        StackError: if a process cannot be ended.
    """
    if not folder.is_dir():
        return {"status": "down", "folder": str(folder), "ended": []}
    with locked(folder):
        state = read_state(folder)
        ended = [] if state is None else [name for name, lives in _alive(state).items() if lives]
        if state is not None:
            _end(folder, state)
    return {"status": "down", "folder": str(folder), "ended": ended}


def _start(settings: Settings, options: StackOptions, deployed: DeployOptions, *, before: StackState | None) -> dict[str, Any]:
    state = StackState()
    plan = StackPlan(
        folder=options.folder,
        mark=state.mark,
        keys=_kept_keys(options.folder) or Keys.new(),
        prefect_port=free_port(_port(before, PREFECT_SERVER)),
        s3_port=free_port(_port(before, S3_SERVER)),
        cores=options.cores,
        memory=options.memory,
        pool=deployed.pool,
    )
    try:
        _start_all(plan, state, lambda: _deploy(settings, plan.folder, deployed, api_url=plan.api_url, login=plan.keys.login))
    except BaseException:
        _end(plan.folder, state)
        raise
    return _described(plan.folder, state, status="up")


def _start_all(plan: StackPlan, state: StackState, deploy: Callable[[], None]) -> None:
    """All that takes its time is started before anything is waited for."""
    _write_private(plan.folder / LOGIN_FILE, f"{plan.keys.login}\n")
    prefect = _spawn(plan, state, PREFECT_SERVER, plan.prefect_server())
    s3 = _spawn(plan, state, S3_SERVER, plan.s3_server())
    master = _spawn(plan, state, SPARK_MASTER, plan.spark_master())
    url = str(_ready(master, state, lambda: master_url(_log(master))))
    workers = [
        _spawn(plan, state, name, plan.spark_worker(number, master=url)) for number, name in enumerate(_WORKER_NAMES, start=1)
    ]
    for worker in workers:
        _ready(worker, state, lambda worker=worker: has_registered(_log(worker)))  # type: ignore[misc]
        worker.address = web_address(_log(worker))
    master.address = str(_ready(master, state, lambda: web_address(_log(master))))
    _ready(s3, state, lambda: http_answers(plan.endpoint_url))
    s3.address = plan.endpoint_url
    _ready(prefect, state, lambda: prefect_is_healthy(plan.api_url))
    prefect.address = plan.ui
    _write_config(plan, master=url)
    deploy()
    worker = _spawn(plan, state, PREFECT_WORKER, plan.prefect_worker())
    _ready(worker, state, lambda: worker_is_online(plan.api_url, login=plan.keys.login, pool=plan.pool, name=plan.worker_name))
    state.write(plan.folder)


def _spawn(plan: StackPlan, state: StackState, name: str, daemon: Daemon) -> Service:
    """Start a process that outlives this one, and write down at once that it is there."""
    state.write(plan.folder)  # before the first start too: whatever has the mark can be found from here on
    path = plan.folder / f"{name}.log"
    with path.open("wb") as log:
        process = subprocess.Popen(
            daemon.command,
            env=dict(daemon.environment),
            cwd=plan.folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    service = Service(name, process.pid, psutil.Process(process.pid).create_time(), str(path))
    state.services.append(service)
    state.write(plan.folder)
    return service


def _ready(service: Service, state: StackState, asked: Callable[[], object]) -> object:
    """Wait until a service answers."""
    deadline = time.monotonic() + START_LIMIT_S
    while time.monotonic() < deadline:
        answer = asked()
        if answer:
            return answer
        if not is_alive(service, state.mark):
            raise StackError(f"{service.name} ended at its start: {_last_lines(service)}; its log is {service.log}")
        time.sleep(_POLL_S)
    raise StackError(
        f"{service.name} was not ready within {START_LIMIT_S:.0f} s: {_last_lines(service)}; its log is {service.log}"
    )


def _write_config(plan: StackPlan, *, master: str) -> None:
    """A file for ``--config``: where the cluster and the store are, with the keys, for its owner alone."""
    conf = ["spark.driver.host=127.0.0.1", "spark.driver.bindAddress=127.0.0.1"]
    text = (
        f"[spark]\nmaster = {json.dumps(master)}\nconf = {json.dumps(conf)}\nsecret = {json.dumps(plan.keys.spark)}\n\n"
        f"[storage]\nuri = {json.dumps(STORE_URI)}\nendpoint_url = {json.dumps(plan.endpoint_url)}\n"
        f"key = {json.dumps(plan.keys.key)}\nsecret = {json.dumps(plan.keys.secret)}\n"
    )
    _write_private(plan.folder / CONFIG_FILE, text)


def _write_private(path: Path, text: str) -> None:
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)


def _deploy(settings: Settings, folder: Path, options: DeployOptions, *, api_url: str, login: str) -> None:
    """Deploy the flows with the stack's cluster and store as their own."""
    config = read_config(folder / CONFIG_FILE, None)
    places = config["storage"]
    here = settings.model_copy(
        update={
            "spark": SparkSettings(master=config["spark"]["master"], conf=config["spark"]["conf"]),
            "storage": StorageSettings(uri=places["uri"], endpoint_url=places["endpoint_url"]),
        }
    )
    # prefect reads its environment once, when it is imported.
    home = str(folder / "prefect" / "client")
    os.environ.update({"PREFECT_API_URL": api_url, "PREFECT_API_AUTH_STRING": login, "PREFECT_HOME": home})
    from flows.deployment.deploy import deploy

    deploy(here, options)


def _kept_keys(folder: Path) -> Keys | None:
    """The secrets of an earlier start in this folder, where it had all of them."""
    if not (folder / CONFIG_FILE).is_file() or not (folder / LOGIN_FILE).is_file():
        return None
    config = read_config(folder / CONFIG_FILE, None)
    login = (folder / LOGIN_FILE).read_text(encoding="utf-8").strip()
    return Keys(config["storage"]["key"], config["storage"]["secret"], login, config["spark"]["secret"])


def _described(folder: Path, state: StackState, *, status: str) -> dict[str, Any]:
    services = {
        service.name: {
            "pid": service.pid,
            "alive": is_alive(service, state.mark),
            "address": service.address,
            "log": service.log,
        }
        for service in state.services
    }
    found: dict[str, Any] = {"status": status, "folder": str(folder), "services": services}
    if status in ("up", "already up"):
        config = read_config(folder / CONFIG_FILE, None)
        found |= {
            "prefect_ui": state.service(PREFECT_SERVER).address,
            "prefect_api": f"{state.service(PREFECT_SERVER).address}/api",
            "spark_ui": state.service(SPARK_MASTER).address,
            "spark_master": config["spark"]["master"],
            "s3_endpoint": config["storage"]["endpoint_url"],
            "storage_uri": config["storage"]["uri"],
            "config": str(folder / CONFIG_FILE),
            "prefect_login": str(folder / LOGIN_FILE),
        }
    return found


def _alive(state: StackState | None) -> dict[str, bool]:
    return {} if state is None else {service.name: is_alive(service, state.mark) for service in state.services}


def _port(state: StackState | None, name: str) -> int | None:
    """The port of an earlier start, so that bookmarks go on to work."""
    address = next((service.address for service in state.services if service.name == name), None) if state else None
    return urlsplit(address).port if address else None


def _end(folder: Path, state: StackState) -> None:
    left = end(state, first=PREFECT_WORKER)
    if left:
        raise StackError(f"processes {left} of the stack in {folder} cannot be ended")
    for name in (S3_SERVER, "s3", "prefect", PREFECT_WORKER, SPARK_MASTER, *_WORKER_NAMES):
        for passing in _PASSING:
            shutil.rmtree(folder / name / passing, ignore_errors=True)


def _log(service: Service) -> str:
    return Path(service.log).read_text(encoding="utf-8", errors="replace")


def _last_lines(service: Service) -> str:
    return " / ".join(line.strip() for line in _log(service).splitlines()[-_LOG_LINES_QUOTED:]) or "it said nothing"
