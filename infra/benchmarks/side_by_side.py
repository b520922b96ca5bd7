"""What the benchmarks share: running programs in turn, reading their figures, and writing the results down."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

HERE = Path(__file__).parent
TS4S = Path(sys.executable).parent / "ts4s"
RUN_TIME_LIMIT_S = 3_600


def run_json(command: Sequence[str], *, environ: dict[str, str] | None = None) -> dict[str, Any]:
    """Run a program and return the JSON object in the last line of its standard output."""
    done = subprocess.run(
        list(command),
        capture_output=True,
        text=True,
        timeout=RUN_TIME_LIMIT_S,
        check=False,
        env={**os.environ, **(environ or {})},
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{first_and_last(done.stderr)}")
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def first_and_last(text: str, size: int = 2_000) -> str:
    """A long text without its middle: a program's own words come before Java's."""
    return text if len(text) <= 2 * size else f"{text[:size]}\n...\n{text[-size:]}"


def ts4s(*arguments: str) -> dict[str, Any]:
    """Run a ts4s command and return its JSON result."""
    return run_json([str(TS4S), *arguments, "--json"])


def seconds_until(word: str, *arguments: str) -> float:
    """Seconds from the start of a ts4s command until its standard error shows a word; the command is run to its end."""
    begun, shown = time.perf_counter(), None
    with subprocess.Popen([str(TS4S), *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None, "asked for a pipe"
        for line in process.stderr:
            if shown is None and word in line:
                shown = time.perf_counter() - begun
    if process.returncode or shown is None:
        raise SystemExit(f"ts4s {' '.join(arguments)} ended with {process.returncode} and showed no {word!r}")
    return shown


def prepare_spark() -> None:
    """The environment of a Spark program of ours: its Java, this Python in its workers, which find these files, the loopback."""
    from ts4s_core.spark.session.java import find_java

    os.environ.update(find_java().environment(os.environ))
    os.environ["PYSPARK_PYTHON"] = sys.executable
    os.environ["PYTHONPATH"] = os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])
    os.environ["SPARK_LOCAL_IP"] = "127.0.0.1"  # where processes meet: a host's name need not lead anywhere


def manifest(store: Path, ref: str) -> dict[str, Any]:
    """The manifest of an artifact in a folder store."""
    values: dict[str, Any] = json.loads((store / ref / "manifest.json").read_text(encoding="utf-8"))
    return values


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    model = "unknown"
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        model = next(
            (line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")), model
        )
    return {"cpu": model, "cores": os.cpu_count(), "python": platform.python_version(), "system": platform.platform()}


def medians(rounds: Sequence[dict[str, float]]) -> dict[str, float]:
    """The median of each figure over rounds."""
    return {name: median(values[name] for values in rounds) for name in rounds[0]}


def write_result(path: Path, result: dict[str, Any]) -> None:
    """Write a result with the command that made it; folders of this machine are left out of it."""
    words = ["python", f"infra/benchmarks/{Path(sys.argv[0]).name}"]
    words += ["FOLDER" if Path(word).is_absolute() else word for word in sys.argv[1:]]
    result = {"command": " ".join(words), "machine": machine(), **result}
    path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
