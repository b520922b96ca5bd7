"""What the encryption of the control channel costs: against the same messages in clear, at the start of training and per gather.

    python infra/benchmarks/control_channel.py [RESULT.json]

A step of training sends nothing over this channel: a worker beats once a second, and rank 0 sends its rows as often. Ranks
gather some ten small values at the start, two a checkpoint, and two a join of the strategies whose ranks step apart.
"""

from __future__ import annotations

import json
import os
import ssl
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from ts4s_core.training.control import client as client_end
from ts4s_core.training.control.address import ControlAddress
from ts4s_core.training.control.client import ControlClient
from ts4s_core.training.control.identity import Identity, new_identity
from ts4s_core.training.control.messages import WorkerResult
from ts4s_core.training.control.server import ControlServer

ROUNDS, REPEATS, LIMIT_S = 200, 5, 120.0
LARGE_CHARACTERS = 2**20


class ClearContext:
    """Stands for a context of TLS."""

    def wrap_bio(self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO, *, server_side: bool) -> Clear:
        """One end; both are alike."""
        return Clear(incoming, outgoing, server_side=server_side)


class Clear:
    """Stands for TLS on a connection, and encrypts nothing."""

    def __init__(self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO, *, server_side: bool) -> None:
        self._incoming, self._outgoing, self.server_side = incoming, outgoing, server_side

    def do_handshake(self) -> None:
        """Nothing is said before the first line."""

    def read(self, size: int) -> bytes:
        """What came."""
        if not self._incoming.pending:
            raise ssl.SSLWantReadError
        return self._incoming.read(size)

    def write(self, data: memoryview) -> int:
        """What goes."""
        return self._outgoing.write(data)

    def getpeercert(self, *, binary_form: bool) -> bytes:
        """No certificate."""
        assert binary_form
        return b""


class ClearServer(ControlServer):
    """A control server that speaks in clear."""

    def __init__(self, host: str, **options: Any) -> None:
        super().__init__(host, **options)
        self._identity = Identity(ClearContext(), self._identity.fingerprint)  # type: ignore[arg-type]


def work(rank: int, *, clear: bool) -> None:
    """A worker: what it took to connect, and the median gather."""
    address = ControlAddress.from_wire(sys.stdin.readline())
    if clear:
        client_end.client_context = ClearContext  # type: ignore[assignment]
        client_end.fingerprint_of = lambda _certificate: address.fingerprint
    began = time.perf_counter()
    client = ControlClient(address, rank=rank, own_address="127.0.0.1")
    connected_s = time.perf_counter() - began
    client.gather("all are there", None, timeout_s=LIMIT_S)
    cpu = time.process_time()
    small = timed(client, "small", [rank] * 8, rounds=ROUNDS)
    cpu_s = (time.process_time() - cpu) / ROUNDS
    large = timed(client, "large", "x" * LARGE_CHARACTERS, rounds=5)
    client.done(WorkerResult(rank=rank, steps=0), timeout_s=LIMIT_S)
    print(json.dumps({"connect_ms": connected_s * 1e3, "gather_ms": small, "gather_cpu_ms": cpu_s * 1e3, "large_ms": large}))


def timed(client: ControlClient, name: str, value: Any, *, rounds: int) -> float:
    """Median milliseconds of a gather."""
    took = []
    for number in range(rounds):
        began = time.perf_counter()
        client.gather(f"{name}/{number}", value, timeout_s=LIMIT_S)
        took.append(time.perf_counter() - began)
    return statistics.median(took) * 1e3


def measured(workers: int, *, clear: bool) -> dict[str, float]:
    """One attempt with so many worker processes."""
    kind = ClearServer if clear else ControlServer
    with kind("127.0.0.1", world_size=workers, timeout_s=LIMIT_S, listener=lambda _rank, _message: None) as server:
        command = [sys.executable, __file__, "--clear" if clear else "--tls"]
        started = [
            subprocess.Popen([*command, str(rank)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            for rank in range(workers)
        ]
        for process in started:
            assert process.stdin is not None
            process.stdin.write(server.address.to_wire() + "\n")
            process.stdin.flush()
        said = [process.communicate(timeout=LIMIT_S)[0] for process in started]
    figures = [json.loads(line) for line in said]
    return {name: statistics.median(figure[name] for figure in figures) for name in figures[0]}


def main(result: Path | None) -> None:
    """Measure, in turn in clear and encrypted, and print or write the medians."""
    took = []
    for _ in range(20):
        began = time.perf_counter()
        new_identity()
        took.append(time.perf_counter() - began)
    rows = []
    for workers in (2, 4):
        runs: dict[bool, list[dict[str, float]]] = {True: [], False: []}
        for _ in range(REPEATS):
            for clear in runs:
                runs[clear].append(measured(workers, clear=clear))
        for clear, found in runs.items():
            medians = {name: round(statistics.median(run[name] for run in found), 3) for name in found[0]}
            rows.append({"workers": workers, "encrypted": not clear, **medians})
    record = {
        "command": "python infra/benchmarks/control_channel.py",
        "what": f"medians of {REPEATS} paired runs; small gathers of 8 numbers, large: {LARGE_CHARACTERS >> 20} MiB a rank",
        "cores": os.cpu_count(),
        "openssl": ssl.OPENSSL_VERSION,
        "certificate_ms": round(statistics.median(took) * 1e3, 3),
        "rows": rows,
    }
    text = json.dumps(record, indent=1) + "\n"
    sys.stdout.write(text) if result is None else result.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) == 3:
        work(int(sys.argv[2]), clear=sys.argv[1] == "--clear")
    else:
        main(Path(sys.argv[1]) if len(sys.argv) == 2 else None)
