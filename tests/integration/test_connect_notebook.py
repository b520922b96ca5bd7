"""The example notebook, executed against a Spark Connect server whose network has no way to the client, nor to anything else."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyspark
import pytest
from connect_server import connect_server

from ts4s_core.processes import kill_tree

NOTEBOOK = Path(__file__).parents[2] / "infra/examples/spark_connect/train.ipynb"
#: Carries the client's connections into the network that it is started in: its listening socket stays in the client's.
RELAY = """
import socket, sys, threading
door, port = socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2])
def pump(source, target):
    try:
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        pass
while True:
    client, _ = door.accept()
    server = socket.create_connection(("127.0.0.1", port))
    for ends in ((client, server), (server, client)):
        threading.Thread(target=pump, args=ends, daemon=True).start()
"""
#: Before the cells: the session that they find.
CLASSIC = "from spark_case import session_of\nsession_of('local[2]')"
pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(900),
    pytest.mark.skipif(os.getuid() != 0, reason="a network of the server's own needs root"),
]


@contextlib.contextmanager
def relayed(server: int, url: str) -> Iterator[str]:
    """The server's address for clients of this host."""
    door = socket.create_server(("127.0.0.1", 0))
    inside = url.rpartition(":")[2]
    command = ["nsenter", f"--net=/proc/{server}/ns/net", sys.executable, "-c", RELAY, str(door.fileno()), inside]
    process = subprocess.Popen(command, pass_fds=[door.fileno()])  # a supervisor would not hand the socket on
    try:
        yield f"sc://127.0.0.1:{door.getsockname()[1]}"
    finally:
        kill_tree(process.pid)
        process.wait()
        door.close()


def outputs(notebook: Any) -> list[str]:
    """What the cells of code gave."""
    return [output["data"]["text/plain"] for cell in notebook.cells for output in cell.get("outputs", []) if "data" in output]


def executed(environ: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Version of Spark, hash of the weights, accuracy."""
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbclient.NotebookClient(notebook, timeout=600, kernel_name="python3").execute()
    return outputs(notebook)


def test_a_notebook_trains_on_a_server_that_cannot_reach_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = ("unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh")
    with connect_server(tmp_path / "server", within=alone) as url:
        server = _of_network(tmp_path / "server")
        interfaces = subprocess.run(
            ["nsenter", f"--net=/proc/{server}/ns/net", "ip", "-brief", "link"], capture_output=True, text=True, check=True
        )
        assert [line.split()[0] for line in interfaces.stdout.splitlines()] == ["lo"]
        with relayed(server, url) as remote, monkeypatch.context() as patch:
            over_connect = executed({"SPARK_REMOTE": remote, "SCRATCH_URI": str(tmp_path / "scratch")}, patch)
    cells = [cell["source"] for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == "code"]
    program = tmp_path / "program.py"
    program.write_text("\n".join([CLASSIC, *map("".join, cells[:-1]), "print(model.weights_sha256)"]))
    tests = str(Path(__file__).parents[1])
    environ = {**os.environ, "SCRATCH_URI": str(tmp_path / "classic"), "PYTHONPATH": tests}
    classic = subprocess.run(
        [sys.executable, str(program)], env=environ, stdout=subprocess.PIPE, text=True, timeout=600, check=True
    )
    version, weights, accuracy = (value.strip("'") for value in over_connect)
    assert version == pyspark.__version__
    assert weights == classic.stdout.split()[-1]
    assert float(accuracy) > 0.9


def _of_network(folder: Path) -> int:
    """The server's JVM: the process whose temporary folder that is."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    words = (entry / "cmdline").read_bytes()
                    if f"java.io.tmpdir={folder}".encode() in words and words.split(b"\0")[0].endswith(b"java"):
                        return int(entry.name)
        time.sleep(0.1)
    raise AssertionError("the server's JVM was not found")
