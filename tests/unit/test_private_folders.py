"""The folder of this user alone in a temporary folder that everybody writes to."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ts4s_core.errors import SettingsError
from ts4s_core.private_folders import PrivateFolder, own_folder, sweep

LIMIT_S = 20
STRANGER = 65_534
HOLD = """
import sys, time
from ts4s_core.private_folders import PrivateFolder
folder = PrivateFolder("held")
(folder.path / "secret").write_text("x")
sys.stdout.write(f"{folder.path}\\n")
sys.stdout.flush()
time.sleep(300)
"""


@pytest.fixture
def shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A temporary folder as a system's: anybody may write there."""
    folder = tmp_path / "shared"
    folder.mkdir()
    folder.chmod(0o1777)
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return folder


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def test_a_folder_is_its_users_alone_and_gone_afterwards(shared: Path) -> None:
    before = os.umask(0)
    try:
        with PrivateFolder("fit") as folder:
            assert folder.parent == shared / f"ts4s-{os.getuid()}"
            assert (mode(folder.parent), mode(folder), mode(folder.with_suffix(".lock"))) == (0o700, 0o700, 0o600)
            (folder / "data").write_bytes(b"1")
    finally:
        os.umask(before)
    assert list(shared.iterdir()) == []


def test_what_strangers_plant_is_passed_over_unopened(shared: Path, tmp_path: Path) -> None:
    """Pipes, links and folders under every name that is looked at; each start must go on within seconds."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    (elsewhere / "spark-old.lock").touch()
    (elsewhere / "spark-old").mkdir()
    name = f"ts4s-{os.getuid()}"
    os.mkfifo(shared / name)
    (shared / f"{name}-link").symlink_to(elsewhere)
    (shared / f"{name}-open").mkdir()
    (shared / f"{name}-open").chmod(0o777)
    os.mkfifo(shared / f"{name}-open" / "spark-x.lock")
    (shared / "ts4s-spark-evil").mkdir()
    os.mkfifo(shared / "ts4s-spark-evil" / "program.lock")
    began = time.monotonic()
    with PrivateFolder("spark") as folder:
        assert mode(folder.parent) == 0o700
        assert folder.parent.name not in (name, f"{name}-link", f"{name}-open")
    assert time.monotonic() - began < LIMIT_S
    assert (elsewhere / "spark-old").is_dir()


def test_a_pipe_among_our_own_locks_holds_nobody_up(shared: Path) -> None:
    own = own_folder()
    os.mkfifo(own / "spark-x.lock")
    began = time.monotonic()
    with PrivateFolder("spark"):
        assert time.monotonic() - began < LIMIT_S


@pytest.fixture
def reachable(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A temporary folder that other users can reach; pytest's own they cannot."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        if not all(place.stat().st_mode & 0o001 for place in folder.parents):
            pytest.skip(f"other users cannot reach {folder.parent}")
        folder.chmod(0o1777)
        monkeypatch.setattr("tempfile.tempdir", made)
        yield folder


@pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user needs root")
def test_another_user_can_neither_read_nor_stop_a_start(reachable: Path) -> None:
    strange = [
        f"mkdir {reachable}/ts4s-{os.getuid()}; mkfifo -m 666 {reachable}/ts4s-{os.getuid()}/spark-x.lock",
        f"mkdir -m 700 {reachable}/ts4s-{os.getuid()}-zz; mkfifo -m 666 {reachable}/ts4s-{os.getuid()}-zz/spark-x.lock",
    ]
    command = ["setpriv", "--reuid", str(STRANGER), "--regid", str(STRANGER), "--clear-groups", "sh", "-c"]
    for act in strange:
        subprocess.run([*command, act], check=True, timeout=LIMIT_S)
    began = time.monotonic()
    with PrivateFolder("fit") as folder:
        (folder / "data").write_text("x")
        seen = subprocess.run([*command, f"cat {folder}/data"], capture_output=True, text=True, check=False, timeout=LIMIT_S)
        assert (seen.stdout, "Permission denied" in seen.stderr) == ("", True)
    assert time.monotonic() - began < LIMIT_S


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_the_folder_of_a_killed_program_goes_with_the_next_start(shared: Path, number: signal.Signals) -> None:
    environ = {**os.environ, "TMPDIR": str(shared)}
    with subprocess.Popen([sys.executable, "-c", HOLD], stdout=subprocess.PIPE, text=True, env=environ) as holder:
        assert holder.stdout is not None
        held = Path(holder.stdout.readline().strip())
        sweep()
        assert (held / "secret").exists(), "a living program's"
        holder.send_signal(number)
        holder.wait(LIMIT_S)
    assert (held / "secret").exists()
    with PrivateFolder("fit"):
        assert not held.exists()
    assert list(shared.iterdir()) == []


def test_a_temporary_folder_that_is_none_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "none"))
    with pytest.raises(SettingsError, match=r"temporary folder cannot be used: .*none.* set TMPDIR"):
        PrivateFolder("fit")
