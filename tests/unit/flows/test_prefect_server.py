from __future__ import annotations

import base64
import json
import os
import signal
import stat
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import psutil
import pytest
from strangers import answers_to_posts

from flows.prefect_api import server as prefect_server
from flows.prefect_api.server import PrefectServerError, TemporaryServer, configured_api_url

URL = "http://127.0.0.1:4200/api"


def test_the_environment_names_the_api() -> None:
    assert configured_api_url({"PREFECT_API_URL": URL}) == URL


@pytest.mark.parametrize(
    ("profiles", "environ", "expected"),
    [
        (f'active = "a"\n[profiles.a]\nPREFECT_API_URL = "{URL}"\n', {}, URL),
        (f'active = "b"\n[profiles.a]\nPREFECT_API_URL = "{URL}"\n[profiles.b]\n', {}, None),
        (f'active = "b"\n[profiles.a]\nPREFECT_API_URL = "{URL}"\n[profiles.b]\n', {"PREFECT_PROFILE": "a"}, URL),
        ('active = "ephemeral"\n[profiles.ephemeral]\nPREFECT_SERVER_ALLOW_EPHEMERAL_MODE = "true"\n', {}, None),
        ("", {}, None),
    ],
)
def test_the_active_profile_names_the_api(tmp_path: Path, profiles: str, environ: dict[str, str], expected: str | None) -> None:
    (tmp_path / "profiles.toml").write_text(profiles, encoding="utf-8")
    assert configured_api_url({"PREFECT_HOME": str(tmp_path), **environ}) == expected


def test_no_profiles_no_api(tmp_path: Path) -> None:
    assert configured_api_url({"PREFECT_HOME": str(tmp_path)}) is None


def test_broken_profiles_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "profiles.toml").write_text("active = ", encoding="utf-8")
    with pytest.raises(PrefectServerError, match=r"profiles\.toml are not valid TOML"):
        configured_api_url({"PREFECT_HOME": str(tmp_path)})


def test_a_server_is_found_however_long_the_run_did_something_else(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with monkeypatch.context() as started:
        started.setattr(prefect_server, "START_TIMEOUT_S", -1.0)  # as if it had been started longer ago than a start may take
        server = TemporaryServer()
    try:
        server.wait()
    finally:
        server.stop()


def test_a_temporary_server_serves_and_leaves_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    # A database of the user's own server must stay untouched.
    foreign = tmp_path / "foreign.db"
    monkeypatch.setenv("PREFECT_API_DATABASE_CONNECTION_URL", f"sqlite+aiosqlite:///{foreign}")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    server = TemporaryServer()
    try:
        server.wait()
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        assert answers_to_posts(server.api_url) == ["401"] * 8
        assert stat.S_IMODE(server.login_file.parent.stat().st_mode) == 0o700
        login = server.login_file.read_text().strip()
        asked = urllib.request.Request(
            f"{server.api_url}/admin/settings", headers={"Authorization": f"Basic {base64.b64encode(login.encode()).decode()}"}
        )
        with opener.open(asked, timeout=10) as answer:
            settings = json.loads(answer.read())
        assert settings["home"] == str(server.home)
        assert settings["server"]["analytics_enabled"] is False
        assert not foreign.exists()
        assert login not in json.dumps(settings)
        assert login not in " ".join(psutil.Process(server._process.pid).cmdline())
        environment = server.client_environment()
        assert environment["PREFECT_API_AUTH_STRING"] == login
        assert environment["PREFECT_API_URL"] == server.api_url
        assert "127.0.0.1" in environment["NO_PROXY"]
        addresses = {item.laddr.ip for item in psutil.Process(server._process.pid).net_connections() if item.status == "LISTEN"}
        assert addresses == {"127.0.0.1"}
    finally:
        server.stop()
    assert not psutil.pid_exists(server._process.pid)
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_cannot_start_says_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(prefect_server, "NO_TELEMETRY", {"PREFECT_SERVER_API_PORT": "not a number"})
    server = TemporaryServer()
    try:
        with pytest.raises(PrefectServerError, match="ended with code 1: "):
            server.wait()
    finally:
        server.stop()
    assert list(tmp_path.iterdir()) == []


def test_the_server_dies_with_its_parent_even_when_that_is_killed(tmp_path: Path) -> None:
    script = (
        "import sys, time\n"
        "from flows.prefect_api.server import TemporaryServer\n"
        "server = TemporaryServer()\n"
        "sys.stdout.write(f'{server._process.pid} {server._folder}\\n')\n"
        "sys.stdout.flush()\n"
        "time.sleep(60)\n"
    )
    environ = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env=environ) as parent:
        assert parent.stdout is not None
        pid, folder = parent.stdout.readline().split()
        # Give it the time to begin watching its parent: before that the kernel's own signal is not asked for either.
        deadline = time.monotonic() + 20
        while len(psutil.Process(int(pid)).threads()) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        parent.send_signal(signal.SIGKILL)
        parent.wait(10)
    deadline = time.monotonic() + 10
    while psutil.pid_exists(int(pid)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not psutil.pid_exists(int(pid))
    assert not Path(folder).exists()
