"""A real Prefect server, a real process worker beside it, and the few calls of the API that tests need."""

from __future__ import annotations

import base64
import contextlib
import http
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from flows.prefect_api.server import HOST, START_TIMEOUT_S, TemporaryServer
from ts4s_core.processes import kill_tree

FINAL = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
_POLL_S = 0.25
_LOCKED_LIMIT_S = 20.0


class PrefectApi:
    """The calls of a server's API that tests need.

    Args:
        api_url: of the server.
        login: name and password for it, where it wants them.
        folder: with the logs of what runs, quoted where something does not come.
    """

    def __init__(self, api_url: str, folder: Path, login: str = "") -> None:
        self.api_url = api_url
        self.login = login
        self.folder = folder
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def api(self, path: str, body: dict[str, Any] | None = None, *, method: str | None = None) -> Any:
        """Call the API: GET without a body, POST with one."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            f"{self.api_url}/{path}", data=data, headers={"Content-Type": "application/json"}, method=method
        )
        if self.login:
            request.add_header("Authorization", f"Basic {base64.b64encode(self.login.encode()).decode('ascii')}")
        deadline = time.monotonic() + _LOCKED_LIMIT_S
        while True:
            try:
                with self._opener.open(request, timeout=60) as answer:
                    text = answer.read()
                return json.loads(text) if text else None
            except urllib.error.HTTPError as error:
                # Its database is locked for a moment; Prefect's own client asks again too.
                if error.code != http.HTTPStatus.SERVICE_UNAVAILABLE or time.monotonic() > deadline:
                    raise
            time.sleep(_POLL_S)

    def refusal(self, path: str, body: dict[str, Any]) -> tuple[int, str]:
        """Call the API with what it has to refuse: status and text of the answer."""
        try:
            self.api(path, body)
        except urllib.error.HTTPError as refused:
            return refused.code, refused.read().decode()
        raise AssertionError(f"{path} took {body}")

    def deployment(self, name: str) -> Any:
        """A deployment by ``FLOW/NAME``."""
        return self.api(f"deployments/name/{name}")

    def run(self, deployment: str, **parameters: Any) -> str:
        """Start a run as the UI does, with changes to the deployment's parameters; its id."""
        found = self.deployment(deployment)
        given = {**found["parameters"], **parameters}
        return str(self.api(f"deployments/{found['id']}/create_flow_run", {"parameters": given})["id"])

    def state_of(self, run: str) -> dict[str, Any]:
        """The state of a run."""
        state: dict[str, Any] = self.api(f"flow_runs/{run}")["state"]
        return state

    def wait(self, run: str, *, states: tuple[str, ...] = FINAL, limit_s: float = 240) -> dict[str, Any]:
        """Wait until a run is in one of some states; that state."""
        self.until(lambda: self.state_of(run)["type"] in states, what=f"run {run} in {states}", limit_s=limit_s)
        return self.state_of(run)

    def until(self, reached: Callable[[], Any], *, what: str, limit_s: float = 240) -> float:
        """Wait for something; how long it took, in seconds."""
        began = time.monotonic()
        while not reached():
            if time.monotonic() - began > limit_s:
                logs = {path.name: path.read_text(errors="replace")[-2_000:] for path in self.folder.glob("*.log")}
                raise AssertionError(f"{what} did not come within {limit_s:g} s: {logs}")
            time.sleep(_POLL_S)
        return time.monotonic() - began

    def logs(self, run: str) -> list[str]:
        """The log of a run and its tasks."""
        records = self.api("logs/filter", {"logs": {"flow_run_id": {"any_": [run]}}, "sort": "TIMESTAMP_ASC"})
        return [record["message"] for record in records]

    def artifacts(self, run: str) -> dict[str, dict[str, Any]]:
        """The artifacts of a run, by key; of several attempts the last one's."""
        found = self.api("artifacts/filter", {"artifacts": {"flow_run_id": {"any_": [run]}}})
        return {artifact["key"]: artifact for artifact in sorted(found, key=lambda artifact: str(artifact["created"]))}

    def retry(self, run: str) -> None:
        """What the button Retry of the UI does."""
        state = {"type": "SCHEDULED", "name": "AwaitingRetry", "message": "Retry from the UI"}
        assert self.api(f"flow_runs/{run}/set_state", {"state": state, "force": True})["status"] == "ACCEPT"

    def cancel(self, run: str) -> None:
        """What the button Cancel of the UI does."""
        state = {"type": "CANCELLING", "name": "Cancelling"}
        assert self.api(f"flow_runs/{run}/set_state", {"state": state})["status"] == "ACCEPT"

    def processes_of(self, run: str) -> list[psutil.Process]:
        """Living processes that belong to a run: its environment is theirs."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.status() != psutil.STATUS_ZOMBIE and process.environ().get("PREFECT__FLOW_RUN_ID") == run:
                    found.append(process)
        return found


def packages_of_a_user(folder: Path) -> None:
    """Make `flows` and `tasks` of somebody else's; what is started there like an installed script (`-P`) has ours."""
    for package in ("flows", "tasks"):
        (folder / package).mkdir(exist_ok=True)
        (folder / package / "__init__.py").write_text("raise AssertionError('a package of the user')\n", encoding="utf-8")


class PrefectStand(PrefectApi):
    """One server; workers and other processes that talk to it, all ended with it."""

    def __init__(self, folder: Path) -> None:
        self.server = TemporaryServer()
        super().__init__(self.server.api_url, folder, self.server.client_environment()["PREFECT_API_AUTH_STRING"])
        foreign = ("TS4S_", "AWS_", "PREFECT_")
        self.environ = {
            **{name: value for name, value in os.environ.items() if not name.startswith(foreign)},
            **self.server.client_environment(),
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "DO_NOT_TRACK": "1",
            "HF_HUB_OFFLINE": "1",
            "XDG_CACHE_HOME": str(folder / "cache"),
        }
        self.processes: list[subprocess.Popen[bytes]] = []
        packages_of_a_user(folder)

    def ts4s(self, *words: str, **environ: str) -> subprocess.CompletedProcess[str]:
        """Run the command line against this server."""
        return subprocess.run(
            [sys.executable, "-P", "-m", "flows.cli", *words],
            cwd=self.folder,
            env={**self.environ, **environ},
            capture_output=True,
            text=True,
            timeout=280,
        )

    def start(self, name: str, *command: str) -> subprocess.Popen[bytes]:
        """Start a process that lives until it is ended; its output is ``NAME.log``."""
        with (self.folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(command, cwd=self.folder, env=self.environ, stdout=log, stderr=log, start_new_session=True)
        self.processes.append(process)
        return process

    def start_worker(self, name: str = "worker") -> subprocess.Popen[bytes]:
        """Start a process worker on the pool of ``ts4s deploy``."""
        return self.start(name, sys.executable, "-P", "-m", "prefect", "worker", "start", "--pool", "ts4s", "--name", name)

    def log(self, name: str) -> str:
        """What a process has said."""
        return (self.folder / f"{name}.log").read_text(encoding="utf-8", errors="replace")

    def kill_server(self) -> None:
        """SIGKILL; what it had written stays."""
        self.server._process.kill()
        self.server._process.wait()

    def start_server_again(self) -> None:
        """The same server, at the same address."""
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((HOST, self.server.port))
            listener.listen(128)
            number, folder = listener.fileno(), self.server.home.parent
            with (self.folder / "server-again.log").open("wb") as log:
                self.server._process = subprocess.Popen(
                    [sys.executable, "-m", "flows.prefect_api.server_process", str(number), str(os.getpid()), str(folder)],
                    env=self.server._server_environment(),
                    pass_fds=(number,),
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
        self.server._deadline = time.monotonic() + START_TIMEOUT_S
        self.server.wait()

    def stop(self) -> None:
        """End everything."""
        for process in self.processes:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
        for process in self.processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(5)
            kill_tree(process.pid)
            process.wait()
        self.server.stop()


@pytest.fixture(scope="module")
def prefect_stand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrefectStand]:
    """A server of the module's own."""
    stand = PrefectStand(tmp_path_factory.mktemp("prefect"))
    try:
        stand.server.wait()
        yield stand
    finally:
        stand.stop()
