"""What a run may leave behind, and must not: processes, ports, leases, half-written versions, temporary files."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
from fault_watch import open_files

from ts4s_core.artifacts.versions.refs import TEMPORARY

#: In the environment of every process that a session of the matrix starts, directly or not.
MARK = "FAULT_MATRIX_SESSION"
GONE_WITHIN_S = 10.0
SHARED_MEMORY = Path("/dev/shm")


@dataclass(frozen=True)
class Before:
    """What is there before a point."""

    shared_memory: frozenset[str]
    temporary: frozenset[str]

    @classmethod
    def now(cls, temporary: Path) -> Before:
        return cls(frozenset(_names(SHARED_MEMORY)), frozenset(_names(temporary)))


def marked(mark: str) -> dict[int, str]:
    """Living processes of a session: command line by process id."""
    wanted = f"{MARK}={mark}".encode()
    found = {}
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or int(entry) == os.getpid():
            continue
        try:
            if wanted not in Path(f"/proc/{entry}/environ").read_bytes().split(b"\0"):
                continue
            command = Path(f"/proc/{entry}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
            state = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if state != "Z":
            found[int(entry)] = f"{state} {command}"
    return found


def leftovers(
    before: Before, mark: str, *, kept: Iterable[int], stores: Iterable[Path], names: Iterable[str], temporary: Path, ledger: Path
) -> list[str]:
    """What should not be there; waits for it to go, at most 10 s.

    Args:
        before: what was there.
        mark: the session's.
        kept: roots of process trees that go on to the next point; their Python workers must hold nothing of the run.
        stores: folders of stores.
        names: names of the runs.
        temporary: the session's temporary folder.
        ledger: folder of the run's ledgers: who holds one open still trains.
    """
    deadline = time.monotonic() + GONE_WITHIN_S
    while True:
        found = [
            *_processes(mark, set(kept), ledger),
            *left_in_stores(list(stores), list(names)),
            *_files(temporary, before),
            *_memory(before),
        ]
        if not found or time.monotonic() > deadline:
            return found
        time.sleep(0.1)


def _processes(mark: str, kept: set[int], ledger: Path) -> Iterator[str]:
    family = set(kept)
    for pid in kept:
        try:
            family |= {child.pid for child in psutil.Process(pid).children(recursive=True)}
        except psutil.NoSuchProcess:
            continue
    for pid, shown in marked(mark).items():
        if pid not in family:
            yield f"process {pid}: {shown[:150]}"
        elif shown.startswith("T"):
            yield f"stopped process {pid}: {shown[:150]}"
        elif "training.local_worker" in shown or any(path.startswith(str(ledger)) for path in open_files(pid)):
            yield f"training process {pid}: {shown[:150]}"
        elif "ts4s_core.spark.driver.program" in shown and (ports := _listening(pid)):
            yield from (f"open port {port} of {pid}" for port in ports)


def _listening(pid: int) -> list[int]:
    """Ports that a driver program still listens on, but Spark's own two (accumulators and callbacks)."""
    try:
        found = [item.laddr.port for item in psutil.Process(pid).net_connections() if item.status == psutil.CONN_LISTEN]
    except psutil.Error:
        return []
    return found if len(found) > 2 else []


def left_in_stores(stores: list[Path], names: list[str]) -> Iterator[str]:
    """Leases, versions that are not sealed and temporary files of runs of those names."""
    for store in stores:
        yield from (f"lease {path.relative_to(store)}" for path in store.glob("leases/**/*.json"))
        for name in names:
            for version in [*store.glob(f"*/{name}/*")]:
                if (version.is_dir() and not (version / "manifest.json").exists()) or version.name.startswith(TEMPORARY):
                    yield f"half-written {version.relative_to(store)}"
                elif version.is_dir():
                    yield from (f"temporary file {path.relative_to(store)}" for path in version.rglob(f"{TEMPORARY}*"))


def _files(temporary: Path, before: Before) -> Iterator[str]:
    """Temporary files: a living program's folder may hold Spark's, but nothing of ours."""
    own = temporary / f"ts4s-{os.getuid()}"
    for path in temporary.rglob("*"):
        if path.name.startswith("ts4s-") and path.parent != temporary:
            yield f"temporary file {path.relative_to(temporary)}"
        elif path.parent == temporary and path != own and path.name not in before.temporary:
            yield f"temporary {path.name}"
        elif path.parent == own and not path.name.startswith("spark-"):
            yield f"temporary {path.relative_to(temporary)}"
        elif path.parent == own and path.is_dir() and not _is_open(path.with_suffix(".lock")):
            yield f"folder of a dead program {path.name}"


def _is_open(path: Path) -> bool:
    return any(str(path) in opened for pid in _all_pids() for opened in open_files(pid))


def _all_pids() -> list[int]:
    return [int(entry) for entry in os.listdir("/proc") if entry.isdigit()]


def _memory(before: Before) -> Iterator[str]:
    new = set(_names(SHARED_MEMORY)) - before.shared_memory
    if new:
        held = {path for pid in _all_pids() for path in (*open_files(pid), *_mapped(pid))}
        yield from (f"shared memory {name}" for name in sorted(new) if str(SHARED_MEMORY / name) not in held)


def _mapped(pid: int) -> list[str]:
    """Shared memory that a process has mapped; its files may be closed."""
    try:
        lines = Path(f"/proc/{pid}/maps").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    return [line[line.index(f"{SHARED_MEMORY}/") :] for line in lines if f"{SHARED_MEMORY}/" in line]


def _names(folder: Path) -> list[str]:
    return os.listdir(folder) if folder.is_dir() else []
