"""Hosts on one switch, made of Linux namespaces: each has an address, a name and a folder that no other host sees. Needs root.

with network(folder, ("driver", "left", "right")) as hosts:
    subprocess.run([*hosts["left"].inside, "some", "command"])
    hosts["right"].cut()
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

#: Process numbers of its own tell ts4s that two hosts share no memory.
_UNSHARE = ("unshare", "--mount", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc")
#: Takes the host's name, hides the other hosts' folders, and becomes the command.
_ENTER = (
    'hostname "$1"; mount --bind "$2" /etc/hosts; shift 2; '
    'while [ "$1" != -- ]; do mount -t tmpfs none "$1"; shift; done; shift; exec "$@"'
)


def available() -> bool:
    """Whether this process may make hosts."""
    return os.geteuid() == 0 and all(shutil.which(tool) for tool in ("ip", "unshare", "hostname", "mount"))


@dataclass(frozen=True)
class Host:
    """One host.

    Attributes:
        name: its host name.
        address: on the switch.
        folder: its own; the other hosts see an empty one there.
        inside: what comes before a command that is to run on it.
    """

    name: str
    address: str
    folder: Path
    inside: tuple[str, ...]
    _port: str
    _switch: str

    def cut(self) -> None:
        """Take it off the switch: what is sent from now on, either way, is lost without a word."""
        _run("ip", "-n", self._switch, "link", "set", self._port, "nomaster")

    def join(self) -> None:
        """Put it on the switch again."""
        _run("ip", "-n", self._switch, "link", "set", self._port, "master", "switch")


@contextlib.contextmanager
def network(folder: Path, names: Sequence[str]) -> Iterator[dict[str, Host]]:
    """Make hosts, and remove them at the end: whatever runs on them must have ended by then."""
    tag = f"ts4s-{os.getpid()}"
    net = f"10.78.{os.getpid() % 250}"
    addresses = {name: f"{net}.{number}" for number, name in enumerate(names, start=1)}
    known = folder / "hosts"
    known.write_text(
        "".join(f"{address} {name}\n" for name, address in {"localhost": "127.0.0.1", **addresses}.items()), encoding="ascii"
    )
    switch = f"{tag}-switch"
    made: list[str] = []
    try:
        _run("ip", "netns", "add", switch)
        made.append(switch)
        _run("ip", "-n", switch, "link", "add", "switch", "type", "bridge")
        _run("ip", "-n", switch, "link", "set", "switch", "up")
        hosts = {}
        for number, (name, address) in enumerate(addresses.items(), start=1):
            space, port = f"{tag}-{name}", f"port{number}"
            _run("ip", "netns", "add", space)
            made.append(space)
            _run("ip", "-n", switch, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", space)
            _run("ip", "-n", switch, "link", "set", port, "master", "switch")
            _run("ip", "-n", switch, "link", "set", port, "up")
            _run("ip", "-n", space, "addr", "add", f"{address}/24", "dev", "eth0")
            for device in ("lo", "eth0"):
                _run("ip", "-n", space, "link", "set", device, "up")
            own = folder / name
            own.mkdir()
            others = [str(folder / other) for other in names if other != name]
            enter = (*_UNSHARE, "sh", "-ec", _ENTER, "enter", name, str(known), *others, "--")
            hosts[name] = Host(name, address, own, ("ip", "netns", "exec", space, *enter), port, switch)
        yield hosts
    finally:
        for space in reversed(made):
            _run("ip", "netns", "del", space)


def _run(*words: str) -> None:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)}: {done.stderr.strip()}")
