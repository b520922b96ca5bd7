"""Spark's standalone master and workers from pyspark's package: what to start, and what they say when they are ready.

Nothing is started here: whoever starts them decides how long they live.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from ts4s_core.errors import SparkError
from ts4s_core.spark.session.java import find_java, java_option

HOST = "127.0.0.1"
#: Where Spark itself looks for the secret of ``spark.authenticate``, so that no configuration and no argument has it.
SECRET_VARIABLE = "_SPARK_AUTH_SECRET"
#: What a cluster with a secret and its programs agree on.
AUTHENTICATED = {"spark.authenticate": "true", "spark.network.crypto.enabled": "true"}
#: No second way in: no submissions by REST, no button on the master's pages that ends applications.
_CLOSED = {"spark.master.rest.enabled": "false", "spark.ui.killEnabled": "false"}
_PACKAGE = "org.apache.spark.deploy"
#: Of a process whose log says on standard error that it has started.
LOG4J = """\
rootLogger.level = info
rootLogger.appenderRef.console.ref = console
appender.console.type = Console
appender.console.name = console
appender.console.target = SYSTEM_ERR
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = %d{HH:mm:ss} %p %c{1}: %m%n
"""
_MASTER = re.compile(r"Starting Spark master at (spark://\S+)")
_REGISTERED = re.compile(r"Successfully registered with master (\S+)")
_WEB_PORT = re.compile(r"Successfully started service '(?:Master|Worker)UI' on port (\d+)")


@dataclass(frozen=True)
class Daemon:
    """A process to be started.

    Attributes:
        command: its command line.
        environment: its whole environment.
    """

    command: tuple[str, ...]
    environment: Mapping[str, str]


def master_daemon(folder: Path, *, environ: Mapping[str, str], host: str = HOST, secret: str | None = None) -> Daemon:
    """A master at ports that the system chooses; :func:`master_url` reads them from its log.

    Args:
        folder: for its files; made if there is none.
        environ: the environment to begin with.
        host: the address that it listens on.
        secret: that workers and programs have to know; it is in the environment alone.

    Raises:
        SparkError: if there is no Java or no pyspark.
    """
    return _daemon("master.Master", folder, (), environ=environ, host=host, secret=secret)


def worker_daemon(
    folder: Path,
    *,
    master: str,
    cores: int,
    memory: str,
    environ: Mapping[str, str],
    host: str = HOST,
    secret: str | None = None,
) -> Daemon:
    """A worker; its executors write below ``folder / "work"``.

    Args:
        folder: for its files; made if there is none.
        master: the master's address.
        cores: cores that it offers.
        memory: memory that it offers, as Spark writes it (``1g``).
        environ: the environment to begin with, which executors inherit.
        host: the address that it and its executors listen on.
        secret: the master's.

    Raises:
        SparkError: if there is no Java or no pyspark.
    """
    options = ("--cores", str(cores), "--memory", memory, "--work-dir", str(folder / "work"), master)
    return _daemon("worker.Worker", folder, options, environ=environ, host=host, secret=secret)


def master_url(log: str) -> str | None:
    """``spark://HOST:PORT``, once a master's log says it."""
    found = _MASTER.search(log)
    return found.group(1) if found else None


def has_registered(log: str) -> bool:
    """Whether a worker's log says that its master took it."""
    return _REGISTERED.search(log) is not None


def web_address(log: str) -> str | None:
    """Address of the web pages of a master or worker on loopback, once its log says it."""
    found = _WEB_PORT.search(log)
    return f"http://{HOST}:{found.group(1)}" if found else None


def _daemon(
    kind: str, folder: Path, options: tuple[str, ...], *, environ: Mapping[str, str], host: str, secret: str | None
) -> Daemon:
    home = _spark_home()
    folder.mkdir(parents=True, exist_ok=True)
    log4j = folder / "log4j2.properties"
    log4j.write_text(LOG4J, encoding="utf-8")
    java_options = f"-Dlog4j2.configurationFile={log4j.as_uri()} {java_option(f'-Djava.io.tmpdir={folder}')} -XX:-UsePerfData"
    settings = _CLOSED | (AUTHENTICATED if secret is not None else {})
    java_options = " ".join([java_options, *(f"-D{name}={value}" for name, value in settings.items())])
    environment = find_java(environ).environment(environ) | {
        "SPARK_HOME": str(home),
        "SPARK_LOCAL_DIRS": str(folder / "local"),
        "SPARK_LOCAL_IP": host,  # without it the web pages would listen on every address
        "SPARK_DAEMON_JAVA_OPTS": java_options,
        "PYSPARK_PYTHON": sys.executable,
    }
    if secret is not None:
        environment[SECRET_VARIABLE] = secret
    program = str(home / "bin" / "spark-class")
    fixed = ("--host", host, "--port", "0", "--webui-port", "0")
    return Daemon((program, f"{_PACKAGE}.{kind}", *fixed, *options), environment)


def _spark_home() -> Path:
    spec = find_spec("pyspark")
    home = Path(spec.origin).parent if spec is not None and spec.origin else None
    if home is None or not os.access(home / "bin" / "spark-class", os.X_OK):
        raise SparkError(
            f"no Spark to start a cluster from: expected bin/spark-class in the package pyspark, got {home}. Install pyspark"
        )
    return home
