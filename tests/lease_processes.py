"""Real processes that contend for a model, with real stops, namespaces and clocks."""

from __future__ import annotations

import contextlib
import glob
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from ts4s_core.artifacts.leases.lease import Limits
from ts4s_core.artifacts.registry import Registry
from ts4s_core.artifacts.store import ArtifactStore
from ts4s_core.artifacts.upkeep.verify import verify
from ts4s_core.settings import StorageSettings
from ts4s_core.training.job import storage_to_wire

WORKER = Path(__file__).with_name("lease_worker.py")
#: Short, but long enough for a busy machine to renew in.
SHORT = Limits(expires_s=4.0, renew_s=0.4, poll_s=0.05)
WAIT_S = 300.0


class Contender:
    """One running worker; ``expect`` waits for what it says."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self._said: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._said.put(line.rstrip("\n"))
        self._said.put("")

    def expect(self, beginning: str) -> str:
        """The next line, which begins so."""
        line = self._said.get(timeout=WAIT_S)
        assert line.startswith(beginning), (line, self.process.poll())
        return line

    def go_on(self) -> None:
        """Let it go on after ``begun``."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def stop(self) -> None:
        """Stop it for real."""
        os.kill(self.process.pid, signal.SIGSTOP)
        self.wait_stopped()

    def wait_stopped(self) -> None:
        """Until the kernel says that it is stopped."""
        found, status = os.waitpid(self.process.pid, os.WUNTRACED)
        assert found == self.process.pid
        assert os.WIFSTOPPED(status), status

    def wake(self) -> None:
        """Let it run again."""
        os.kill(self.process.pid, signal.SIGCONT)

    def close(self) -> None:
        """End it, whatever it does."""
        self.process.kill()
        self.process.wait()
        self._listener.join(WAIT_S)
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            with contextlib.suppress(BrokenPipeError):
                stream.close()

    def ended(self) -> int:
        """Its exit code."""
        return self.process.wait(WAIT_S)


@contextlib.contextmanager
def contender(
    work: str,
    storage: StorageSettings,
    *,
    limits: Limits = SHORT,
    before: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
    **options: Any,
) -> Iterator[Contender]:
    """Start a worker; it is killed at the end, whatever came of it.

    Args:
        work: ``run``, ``hold`` or ``try``.
        storage: the store.
        limits: times of its leases.
        before: words before the command, as ``unshare ...``.
        env: added to its environment.
        options: ``mark``, ``stop_at``.
    """
    process = subprocess.Popen(
        [*before, sys.executable, str(WORKER), work],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **(env or {})},
    )
    running = Contender(process)
    try:
        assert process.stdin is not None
        process.stdin.write(json.dumps({"storage": storage_to_wire(storage), "limits": asdict(limits), **options}) + "\n")
        process.stdin.flush()
        yield running
    finally:
        running.close()


def history(store: ArtifactStore) -> list[tuple[int, str, str]]:
    """Number, action and reason of every entry, the store being sound and nothing being left behind."""
    assert [damage for row in verify(store) for damage in row.damages] == []
    assert [entry.path for entry in store.storage.list("leases")] == []
    entries = Registry(store).history("demo")
    for version in entries.aliases.values():
        assert version in {ref.version for ref in store.versions("trained", "demo")}
    return [(entry.number, entry.action, entry.why) for entry in entries.entries]


def unsealed(store: ArtifactStore) -> list[str]:
    """What lies in the store and belongs to no version."""
    sealed = {str(ref) for kind, name in store.kinds_and_names() for ref in store.versions(kind, name)}
    listed = store.storage.list("", temporary=True)
    return [
        entry.path
        for entry in listed
        if not entry.path.startswith("registry/") or "/.ts4s-tmp-" in entry.path
        if not any(entry.path.startswith(f"{ref}/") for ref in sealed)
    ]


NEW_NAMESPACE = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")


def may_unshare() -> bool:
    """Whether this user may make a pid namespace."""
    try:
        return subprocess.run([*NEW_NAMESPACE, "true"], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


needs_namespaces = pytest.mark.skipif(not may_unshare(), reason="needs unshare and the right to make a pid namespace")


def faked_clock(file: Path) -> dict[str, str]:
    """The environment of a process whose clock is what a file says (``+3d``), read anew at each question.

    Its monotonic clock is left alone, as it is where a real clock is set.
    """
    found = glob.glob("/usr/lib/*/faketime/libfaketime.so.1")
    if not found:
        pytest.skip("needs faketime: apt-get install faketime")
    return {
        "LD_PRELOAD": found[0],
        "FAKETIME_TIMESTAMP_FILE": str(file),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
