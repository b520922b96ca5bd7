"""``ts4s doctor``: what a run needs of this machine, and how a cluster differs; what is written for a trial is gone at once.

Nothing is started where Spark is local; a cluster is asked by a job of seconds.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import psutil

from flows.cli.command import Invocation, Outcome
from flows.cli.output import columns
from flows.prefect_api.server import configured_api_url
from ts4s_core.addresses import without_secrets
from ts4s_core.artifacts.storage.folder import nearest
from ts4s_core.artifacts.store import ArtifactStore
from ts4s_core.errors import Ts4sError, listed
from ts4s_core.host_user import expanded, home
from ts4s_core.pipeline.preflight import trials
from ts4s_core.settings import Settings, local_slots
from ts4s_core.spark.driver.client import SparkProgram
from ts4s_core.spark.session.java import find_java

MIN_MEMORY_GB = 4.0
MIN_DISK_GB = 5.0
SERVER_TIMEOUT_S = 5.0
CLUSTER_TIMEOUT_S = 180.0
LIBRARIES = ("torch", "transformers", "onnx", "onnxruntime", "onnx2torch", "pyspark", "prefect", "fastapi", "pyarrow")
_GB = 2**30
Status = Literal["ok", "warning", "failed"]


@dataclass(frozen=True)
class Finding:
    """The result of one check."""

    check: str
    status: Status
    found: str


def doctor_command(invocation: Invocation) -> Outcome:
    """Run every check; exit 1 if one failed."""
    findings = [*examine(invocation.settings)]
    failed = [finding.check for finding in findings if finding.status == "failed"]
    rows: list[tuple[str, ...]] = [(finding.check, finding.status, finding.found) for finding in findings]
    values = {"ok": not failed, "checks": [asdict(finding) for finding in findings]}
    return Outcome(values, text=columns(("check", "status", "found"), rows), exit_code=1 if failed else 0)


def examine(settings: Settings) -> Iterator[Finding]:
    """Every check, in the order in which a run needs what it looks at."""
    yield Finding("python", "ok" if (3, 11) <= sys.version_info[:2] <= (3, 13) else "failed", sys.version.split()[0])
    yield from (_library(name) for name in LIBRARIES)
    if settings.spark.master != "none" and not settings.spark.master.startswith("sc://"):
        yield _asked("java", _java)
    yield _memory()
    yield _slots(settings)
    yield _disk(settings)
    yield from _writes(settings)
    if local_slots(settings.spark.master) is None:
        yield from _cluster(settings)
    yield _prefect()


def _library(name: str) -> Finding:
    try:
        return Finding(name, "ok", importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return Finding(name, "failed", "not installed: run make setup")


def _asked(check: str, ask: Callable[[], str]) -> Finding:
    try:
        return Finding(check, "ok", ask())
    except Ts4sError as exc:
        return Finding(check, "failed", str(exc))


def _java() -> str:
    java = find_java()
    return f"Java {java.version} at {java.home}"


def _memory() -> Finding:
    memory = psutil.virtual_memory()
    status: Status = "ok" if memory.available >= MIN_MEMORY_GB * _GB else "warning"
    return Finding("memory", status, f"{memory.available / _GB:.1f} GB of {memory.total / _GB:.1f} GB available")


def _slots(settings: Settings) -> Finding:
    slots, train = local_slots(settings.spark.master), settings.train
    if slots is None:
        return Finding("slots", "ok", f"known to the cluster {settings.spark.master} alone")
    wanted = max(1, train.workers) * train.threads_per_worker
    cores = os.cpu_count() or 1
    status: Status = "ok" if wanted <= cores else "warning"
    return Finding("slots", status, f"{slots} on {cores} cores; train.workers {train.workers or 'as many as fit'}")


def _disk(settings: Settings) -> Finding:
    folder = settings.storage.uri if "://" not in settings.storage.uri else home() or tempfile.gettempdir()
    place = nearest(expanded(folder).absolute())
    free = shutil.disk_usage(place).free
    return Finding("disk", "ok" if free >= MIN_DISK_GB * _GB else "warning", f"{free / _GB:.1f} GB free at {place}")


def _writes(settings: Settings) -> Iterator[Finding]:
    """What a run tries before its first write."""
    try:
        store = ArtifactStore.open(settings.storage)
    except Ts4sError as exc:
        yield Finding("store", "failed", str(exc))
        return
    for trial in trials(settings, store):
        yield _asked(trial.name, trial.attempt)


def _cluster(settings: Settings) -> Iterator[Finding]:
    """How the cluster's hosts differ from this one in what training needs."""
    try:
        with SparkProgram(settings) as program:
            found = program.run({"job": "hosts"}, timeout_s=CLUSTER_TIMEOUT_S)
    except Ts4sError as exc:
        yield Finding("cluster", "failed", str(exc))
        return
    yield from differences(found)


def differences(found: Mapping[str, Any]) -> Iterator[Finding]:
    """What the job ``hosts`` found, beside what is here.

    Args:
        found: ``spark`` (the cluster's version), ``slots``, ``here`` and ``hosts`` (versions and instruction sets).
    """
    here, hosts = found["here"], found["hosts"]
    yield Finding("cluster", "ok", f"{found['slots']} slots on {listed(sorted({host['host'] for host in hosts}))}")
    same_spark = found["spark"].split(".")[:2] == here["pyspark"].split(".")[:2]
    yield Finding("cluster spark", "ok" if same_spark else "warning", f"{found['spark']}; pyspark here is {here['pyspark']}")
    pythons = {host["python"] for host in hosts}
    minor = {tuple(python.split(".")[:2]) for python in (*pythons, here["python"])}
    remedy = (
        "" if len(minor) == 1 else ". PySpark wants one minor version: set spark.pyspark.python, or PYSPARK_PYTHON on the hosts"
    )
    status: Status = "ok" if len(minor) == 1 else "failed"
    yield Finding("cluster python", status, f"{listed(sorted(pythons))}; {here['python']} here{remedy}")
    for library in ("torch", "numpy", "pyarrow"):
        there = {host[library] for host in hosts}
        yield Finding(f"cluster {library}", *_compared(there, here[library], library))
    instructions = {host["instructions"] for host in hosts}
    mixed = "" if len(instructions) == 1 else ". Workers refuse a mixture: choose hosts of one kind"
    yield Finding("cluster instructions", "ok" if not mixed else "failed", f"{listed(sorted(instructions))}{mixed}")


def _compared(there: set[str], here: str, library: str) -> tuple[Status, str]:
    shown = f"{listed(sorted(there))}; {here} here"
    if "none" in there:
        return "failed", f"{shown}. Workers need {library}: install it on every host, or send an environment"
    if len(there) > 1:
        return "failed", f"{shown}. Workers refuse a mixture: install one version on every host"
    return ("ok", shown) if there == {here} else ("warning", f"{shown}: weights will be those of the cluster's")


def _prefect() -> Finding:
    try:
        url = configured_api_url()
    except Ts4sError as exc:
        return Finding("prefect server", "failed", str(exc))
    if url is None:
        return Finding("prefect server", "ok", "none configured: retrain starts its own for the time of the run")
    try:
        with urllib.request.urlopen(f"{url.rstrip('/')}/health", timeout=SERVER_TIMEOUT_S) as answer:
            healthy = json.loads(answer.read()) is True
    except (urllib.error.URLError, OSError, ValueError) as exc:
        return Finding("prefect server", "failed", without_secrets(f"{url} does not answer: {exc}"))
    said = f"{without_secrets(url)} {'answers' if healthy else 'is not healthy'}"
    return Finding("prefect server", "ok" if healthy else "failed", said)
