"""A real Spark Connect server on this host, a process of its own from pyspark's package.

    with ConnectServer(folder) as server:
        settings = {"spark": {"master": server.url}}

It ends with the process that made it.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path

from supervisor import supervised

from ts4s_core.processes import kill_tree
from ts4s_core.spark.session.java import find_java, java_option
from ts4s_core.spark.session.standalone import LOG4J

START_LIMIT_S = 300.0
_STARTED = re.compile(r"Spark Connect server started at: \S*?(\d+)$", re.MULTILINE)
_CLASS = "org.apache.spark.sql.connect.service.SparkConnectServer"


@contextlib.contextmanager
def connect_server(
    folder: Path,
    *,
    master: str = "local[2]",
    conf: Mapping[str, str] | None = None,
    environ: Mapping[str, str] | None = None,
    within: tuple[str, ...] = (),
) -> Iterator[str]:
    """A server; ``sc://127.0.0.1:PORT``.

    Args:
        folder: for its log and whatever it writes.
        master: where its application runs.
        conf: of its application.
        environ: variables beside this process's own.
        within: words before its command.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "log4j2.properties").write_text(LOG4J)
    spec = find_spec("pyspark")
    assert spec is not None
    assert spec.origin is not None
    home = Path(spec.origin).parent
    java = f"-Dlog4j2.configurationFile={(folder / 'log4j2.properties').as_uri()} {java_option(f'-Djava.io.tmpdir={folder}')}"
    settings = {
        "spark.connect.grpc.binding.address": "127.0.0.1",
        "spark.connect.grpc.binding.port": "0",
        "spark.driver.host": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.ui.enabled": "false",
        "spark.local.dir": str(folder / "local"),
        "spark.sql.warehouse.dir": str(folder / "warehouse"),
        "spark.sql.session.timeZone": "UTC",
        "spark.locality.wait": "0s",
        "spark.driver.extraJavaOptions": f"{java} -XX:-UsePerfData",
        **(conf or {}),
    }
    options = [word for name, value in settings.items() for word in ("--conf", f"{name}={value}")]
    command = [*within, str(home / "bin" / "spark-submit"), "--master", master, "--class", _CLASS, *options, "spark-internal"]
    environment = (
        find_java().environment(os.environ) | {"SPARK_HOME": str(home), "PYSPARK_PYTHON": sys.executable} | (environ or {})
    )
    log = folder / "server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            supervised(command), stdout=output, stderr=output, env=environment, cwd=folder, start_new_session=True
        )
    try:
        yield f"sc://127.0.0.1:{_port(log, process)}"
    finally:
        kill_tree(process.pid)
        process.wait()


def _port(log: Path, process: subprocess.Popen[bytes]) -> int:
    deadline = time.monotonic() + START_LIMIT_S
    while process.poll() is None and time.monotonic() < deadline:
        found = _STARTED.search(log.read_text(encoding="utf-8", errors="replace"))
        if found:
            return int(found.group(1))
        time.sleep(0.05)
    raise RuntimeError(f"no Spark Connect server: {log.read_text(encoding='utf-8', errors='replace')[-3000:]}")
