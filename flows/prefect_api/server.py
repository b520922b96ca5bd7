"""Which Prefect API a run talks to: the configured one, or a temporary server of its own.

The temporary server is a child process on loopback with a PREFECT_HOME (and with it a database) of its own in a temporary
folder; both are gone when the run ends, however it ends. This module must be used before prefect is imported: prefect reads
its settings once.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
import socket
import subprocess
import sys
import time
import tomllib
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path

from ts4s_core.addresses import without_secrets
from ts4s_core.errors import SettingsError, Ts4sError
from ts4s_core.host_user import expanded, home
from ts4s_core.private_folders import PrivateFolder
from ts4s_core.processes import kill_tree

logger = logging.getLogger(__name__)

HOST = "127.0.0.1"
START_TIMEOUT_S = 180.0
STOP_TIMEOUT_S = 5.0
LOGS_TIMEOUT_S = 3.0
_POLL_S = 0.1
_LOG_LINES_QUOTED = 3
#: Nothing is sent to Prefect's makers, whichever server is used.
NO_TELEMETRY = {"PREFECT_SERVER_ANALYTICS_ENABLED": "false", "DO_NOT_TRACK": "1"}
#: Run logs go to the server; on the terminal there is the run's own progress alone.
QUIET = {"PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL", "PREFECT_CLI_COLORS": "false"}


class PrefectServerError(Ts4sError):
    """The temporary Prefect server did not start."""


def configured_api_url(environ: Mapping[str, str] | None = None) -> str | None:
    """The API address from the environment or Prefect's active profile, without importing prefect (which takes seconds)."""
    environ = os.environ if environ is None else environ
    if environ.get("PREFECT_API_URL"):
        return environ["PREFECT_API_URL"]
    own = home()
    folder = environ.get("PREFECT_HOME") or (None if own is None else own / ".prefect")
    given = environ.get("PREFECT_PROFILES_PATH") or (None if folder is None else Path(folder) / "profiles.toml")
    if given is None:
        return None
    path = expanded(given)
    try:
        profiles = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        return None
    except tomllib.TOMLDecodeError as exc:
        raise PrefectServerError(f"Prefect's profiles in {path} are not valid TOML: {exc}") from exc
    active = environ.get("PREFECT_PROFILE") or profiles.get("active")
    url = profiles.get("profiles", {}).get(active, {}).get("PREFECT_API_URL")
    return str(url) if url else None


def new_login() -> str:
    """A name and a random password, as Prefect's basic authentication takes them: ``ts4s:...``."""
    return f"ts4s:{secrets.token_urlsafe(24)}"


class TemporaryServer:
    """A Prefect server that is started at once and waited for later, so that the start overlaps with other work."""

    def __init__(self) -> None:
        self._login = new_login()
        self._private = PrivateFolder("prefect")
        self._folder = self._private.path
        self._log = self._folder / "server.log"
        # For the UI; the folder is this user's alone.
        self.login_file.write_text(f"{self._login}\n", encoding="utf-8")
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # another can take its place at once
            listener.bind((HOST, 0))
            listener.listen(128)
            self.port: int = listener.getsockname()[1]
            command = [
                sys.executable,
                "-P",  # the folder that the user stands in may have a `flows` of its own
                "-m",
                "flows.prefect_api.server_process",
                str(listener.fileno()),
                str(os.getpid()),
                str(self._folder),
            ]
            with self._log.open("wb") as log:
                self._process = subprocess.Popen(
                    command,
                    env=self._server_environment(),
                    pass_fds=(listener.fileno(), self._private.lock),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,  # Ctrl-C is for the run: it still has to report its end to the server
                )

    @property
    def api_url(self) -> str:
        """Address of the API."""
        return f"http://{HOST}:{self.port}/api"

    @property
    def login_file(self) -> Path:
        """Name and password for its UI."""
        return self._folder / "login"

    @property
    def home(self) -> Path:
        """Its PREFECT_HOME, also for the run that talks to it: nothing of the user's Prefect is read or changed."""
        return self._folder / "home"

    def client_environment(self) -> dict[str, str]:
        """What the run's own process needs in its environment before it imports prefect."""
        no_proxy = ",".join(filter(None, [os.environ.get("NO_PROXY") or os.environ.get("no_proxy"), HOST]))
        return {
            "PREFECT_HOME": str(self.home),
            "PREFECT_API_URL": self.api_url,
            "PREFECT_API_AUTH_STRING": self._login,
            "NO_PROXY": no_proxy,
            "no_proxy": no_proxy,
        }

    def wait(self) -> None:
        """Wait until the API answers.

        Raises:
            PrefectServerError: the server ended, or did not answer within 180 s; its last lines are quoted.
        """
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        # From now on: what a run did meanwhile, as reading all of its data, may take longer than a start does.
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise PrefectServerError(
                    f"the temporary Prefect server ended with code {self._process.returncode}: {self._last_lines()}"
                )
            with contextlib.suppress(urllib.error.URLError, OSError), opener.open(f"{self.api_url}/health", timeout=2) as answer:
                if json.loads(answer.read()) is True:
                    return
            time.sleep(_POLL_S)
        raise PrefectServerError(
            f"the temporary Prefect server did not answer within {START_TIMEOUT_S:.0f} s: {self._last_lines()}"
        )

    def stop(self) -> None:
        """End the server and remove its folder."""
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_TIMEOUT_S)
        kill_tree(self._process.pid)
        self._process.wait()
        self._private.remove()

    def _server_environment(self) -> dict[str, str]:
        foreign = ("PREFECT_", "TS4S_")  # a database or a profile of the user's, and secrets it has no use for
        kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
        return {
            **kept,
            **NO_TELEMETRY,
            "PREFECT_HOME": str(self.home),
            "PREFECT_UI_STATIC_DIRECTORY": str(self._folder / "ui"),
            "PREFECT_API_URL": self.api_url,
            "PREFECT_UI_API_URL": self.api_url,
            "PREFECT_API_AUTH_STRING": self._login,
            "PREFECT_SERVER_API_AUTH_STRING": self._login,
        }

    def _last_lines(self) -> str:
        lines = self._log.read_text(encoding="utf-8", errors="replace").splitlines()
        return " / ".join(line.strip() for line in lines[-_LOG_LINES_QUOTED:]) or "it said nothing"


@contextlib.contextmanager
def prefect_api() -> Iterator[TemporaryServer | None]:
    """Have an API to run flows against: the configured one (yields None), or a temporary server, stopped at the end.

    The server is being started when this is entered; call its ``wait`` before the first flow run.
    """
    if "prefect" in sys.modules:
        raise PrefectServerError("prefect was imported before its server was chosen: its settings can no longer be changed")
    url = configured_api_url()
    os.environ.update({**NO_TELEMETRY, **{name: value for name, value in QUIET.items() if name not in os.environ}})
    if url is not None:
        with _refusals(url):
            yield None
        return
    server = TemporaryServer()
    try:
        os.environ.update(server.client_environment())
        yield server
    finally:
        send_logs()
        server.stop()


@contextlib.contextmanager
def _refusals(url: str) -> Iterator[None]:
    """Say of a server that lets nobody in without a login what is missing; prefect's own error shows a traceback."""
    try:
        yield
    except Exception as exc:
        # By its parts: importing prefect's class takes seconds.
        status = getattr(getattr(exc, "response", None), "status_code", None)
        if type(exc).__name__ != "PrefectHTTPStatusError" or status not in (401, 403):
            raise
        raise SettingsError(
            f"PREFECT_API_URL {without_secrets(url)}: the server refused the login (HTTP {status}), expected NAME:PASSWORD in "
            "PREFECT_API_AUTH_STRING. Set it to the server's login"
        ) from exc


def send_logs() -> None:
    """Let the server have what was logged: at exit prefect would wait for a server that is gone, without a limit."""
    handlers = sys.modules.get("prefect.logging.handlers")
    if handlers is not None:
        handlers.APILogWorker.drain_all(timeout=LOGS_TIMEOUT_S)
