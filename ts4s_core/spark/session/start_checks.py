"""Why Spark's JVM would not start, or did not: the variable or the setting, and the JVM's own line.

PySpark says only that its gateway process exited; what the JVM said stands somewhere in the log.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import itertools
import os
import re
import shlex
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

from ts4s_core.errors import SettingsError

_MEMORY = "spark.driver.memory"
#: A number of bytes below this is a number of megabytes whose unit was left out.
_LEAST_BYTES = 16 * 2**20
_AGAIN_S = 30.0
_TELLING = re.compile(r"error|exception|invalid|unrecogni|cannot|could not|unable|too small|no such|missing", re.IGNORECASE)
_MOST_CHARS = 300


def check_start(conf: Mapping[str, str], environment: Mapping[str, str]) -> None:
    """Refuse what a JVM cannot start with, before it is tried.

    Args:
        conf: the Spark configuration.
        environment: of this process.

    Raises:
        SettingsError: naming each variable and setting.
    """
    problems = [*_of_home(environment), *_of_arguments(environment), *_of_hadoop(conf, environment)]
    given = [(f"spark.conf {_MEMORY}", conf.get(_MEMORY, ""))]
    words = _words(environment.get("PYSPARK_SUBMIT_ARGS", ""))
    given += [(f"{word} of PYSPARK_SUBMIT_ARGS", value) for word, value in itertools.pairwise(words) if "memory" in word]
    problems += [
        f"{name} is {value}, without a unit: Java takes it for bytes. Write {value}m or {value}g"
        for name, value in given
        if value.isdigit() and int(value) < _LEAST_BYTES and "executor" not in name
    ]
    if problems:
        raise SettingsError("; ".join(problems))


def _of_home(environment: Mapping[str, str]) -> list[str]:
    home = environment.get("SPARK_HOME")
    if home is None:
        return []
    installed = importlib.metadata.version("pyspark")
    way_out = f"Unset it: the Spark of the installed pyspark {installed} serves"
    if not home.strip():
        return [f"SPARK_HOME is set and empty. {way_out}"]
    if not (Path(home) / "bin" / "spark-submit").is_file():
        return [f"SPARK_HOME {home} holds no Spark: expected bin/spark-submit in it. {way_out}"]
    jars = sorted(Path(home).glob("jars/spark-core_*.jar"))
    version = jars[0].stem.rpartition("-")[2] if jars else installed
    if version.split(".")[:2] != installed.split(".")[:2]:
        return [f"SPARK_HOME {home} is Spark {version}, and the installed pyspark is {installed}. {way_out}"]
    return []


def _of_arguments(environment: Mapping[str, str]) -> list[str]:
    arguments = environment.get("PYSPARK_SUBMIT_ARGS")
    if arguments is None or any(word.endswith("shell") for word in _words(arguments)):
        return []
    shown = "empty" if not arguments.strip() else "without its last word"
    return [f"PYSPARK_SUBMIT_ARGS is {shown}: expected it to end in pyspark-shell. Add that, or unset it and use spark.conf"]


def _of_hadoop(conf: Mapping[str, str], environment: Mapping[str, str]) -> list[str]:
    if conf.get("spark.master") != "yarn" or environment.get("SPARK_HOME"):  # whose spark-env.sh may name the folder
        return []
    folders = {name: environment.get(name, "") for name in ("HADOOP_CONF_DIR", "YARN_CONF_DIR")}
    if any(Path(folder, "yarn-site.xml").is_file() for folder in folders.values() if folder):
        return []
    found = ", ".join(f"{name} {folder}" for name, folder in folders.items() if folder) or "neither is set"
    return [
        f"spark.master yarn needs the cluster's configuration: expected yarn-site.xml in HADOOP_CONF_DIR or YARN_CONF_DIR, "
        f"got {found}. Copy the folder from a host of the cluster (/etc/hadoop/conf), and name it"
    ]


def _words(arguments: str) -> list[str]:
    try:
        return shlex.split(arguments)
    except ValueError:
        return arguments.split()


def said_by_jvm(conf: Mapping[str, str]) -> str:
    """What the JVM says when it is started once more as PySpark did; empty: nothing, or it starts.

    Args:
        conf: the Spark configuration; values are shown to other processes of this host, as PySpark's own are.
    """
    spec = importlib.util.find_spec("pyspark")
    own = Path(spec.origin or ".").parent if spec else Path()
    submit = Path(os.environ.get("SPARK_HOME") or own) / "bin" / "spark-submit"
    options = [word for name, value in conf.items() for word in ("--conf", f"{name}={value}")]
    with tempfile.TemporaryDirectory(prefix="ts4s-jvm-") as folder:
        environment = os.environ | {"_PYSPARK_DRIVER_CONN_INFO_PATH": str(Path(folder) / "port")}
        try:
            found = subprocess.run(
                [str(submit), *options, *_words(os.environ.get("PYSPARK_SUBMIT_ARGS", "pyspark-shell"))],
                env=environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=_AGAIN_S,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as exc:
            return str(exc)[:_MOST_CHARS] if isinstance(exc, OSError) else ""
    if not found.returncode:
        return ""
    lines = [line.strip() for line in (found.stderr + found.stdout).splitlines() if line.strip()]
    telling = [line for line in lines if _TELLING.search(line) and " WARN " not in line]
    return (telling or lines or [""])[0][:_MOST_CHARS]
