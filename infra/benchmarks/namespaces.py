"""Two network namespaces joined by a cable of a given speed: what stands for two hosts on one machine. Needs root."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator

from ts4s_core.training.driver.local_launcher import HostPlacement


def available() -> bool:
    """Whether this process may make network namespaces."""
    return os.geteuid() == 0 and all(shutil.which(tool) for tool in ("ip", "tc"))


@contextlib.contextmanager
def two_hosts(rate: str = "1gbit", *, name: str = "ts4s") -> Iterator[tuple[HostPlacement, HostPlacement]]:
    """Places for two ranks: one in this process's namespace, one in another, with both directions shaped to ``rate``.

    Args:
        rate: as ``tc`` takes it.
        name: of the namespace and, with a digit, of the cable's ends; short.
    """
    here, there, space = f"{name}0", f"{name}1", f"{name}-{os.getpid()}"
    inside = ["ip", "netns", "exec", space]
    shaped = ["root", "tbf", "rate", rate, "burst", "256kb", "latency", "50ms"]
    net = 16 + os.getpid() % 200
    ours, theirs = f"10.77.{net}.1", f"10.77.{net}.2"
    _run("ip", "netns", "add", space)
    try:
        _run("ip", "link", "add", here, "type", "veth", "peer", "name", there)
        _run("ip", "link", "set", there, "netns", space)
        _run("ip", "addr", "add", f"{ours}/30", "dev", here)
        _run("ip", "link", "set", here, "up")
        _run(*inside, "ip", "addr", "add", f"{theirs}/30", "dev", there)
        _run(*inside, "ip", "link", "set", there, "up")
        _run(*inside, "ip", "link", "set", "lo", "up")
        _run("tc", "qdisc", "add", "dev", here, *shaped)
        _run(*inside, "tc", "qdisc", "add", "dev", there, *shaped)
        yield HostPlacement(ours), HostPlacement(theirs, tuple(inside))
    finally:
        # The cable goes with the namespace that holds its other end.
        subprocess.run(["ip", "link", "del", here], check=False, capture_output=True)
        _run("ip", "netns", "del", space)


def _run(*words: str) -> None:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)}: {done.stderr.strip()}")
