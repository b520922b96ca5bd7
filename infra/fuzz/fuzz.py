"""Give damaged and hostile files to everything that reads files from outside: ``make fuzz MINUTES=10 [TARGETS="tsv onnx"]``.

Each target runs in a process of its own, guided by coverage (Atheris, libFuzzer). A finding is an exception that is no error of
ts4s, a crash, an input that takes more than 20 s, or more than 4 GiB of memory. What was tried is kept in ``.fuzz/`` and goes on
from there; what came of it is added to ``infra/fuzz/results.json``, so that short slices add up.
"""

from __future__ import annotations

import argparse
import datetime
import fcntl
import hashlib
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from homes import HOMES

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
RESULTS = HERE / "results.json"
LIMIT_S, LIMIT_MB, LONGEST_BYTES = 20, 4_096, 65_536
_RUNS = re.compile(r"stat::number_of_executed_units:\s*(\d+)")
#: Without the last figures: what a process that broke off had come to.
_REACHED = re.compile(r"^#(\d+)\s", re.MULTILINE)
_CAUGHT = re.compile(r"Test unit written to")
#: Of the process: libFuzzer starts it again where one input ended it.
_STARTUP_S = 120


def main() -> int:
    """0 if nothing was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, help="for each target")
    parser.add_argument("--targets", nargs="*", default=list(HOMES), choices=list(HOMES))
    parser.add_argument("--folder", type=Path, default=ROOT / ".fuzz", help="inputs that were tried, and findings")
    given = parser.parse_args()
    found = 0
    for name in given.targets:
        record = _fuzz(name, given.minutes * 60, given.folder)
        _add(record)
        sys.stdout.write(f"{json.dumps(record)}\n")
        found += len(record["findings"])
    return 1 if found else 0


def _fuzz(name: str, seconds: float, folder: Path) -> dict[str, Any]:
    corpus, fresh, words = folder / "corpus" / name, folder / "new" / name, folder / "words" / name
    shutil.rmtree(fresh, ignore_errors=True)
    for made in (corpus, fresh, words.parent):
        made.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    run = [sys.executable, str(HERE / "one_target.py"), name, str(fresh)]
    subprocess.run([*run[:1], str(HERE / "seeds.py"), name, str(corpus), str(words)], env=environment, check=True, timeout=300)
    start, cpu, runs, deaths = time.monotonic(), _cpu_s(), 0, 0
    while (left := seconds - (time.monotonic() - start)) > 1 and deaths < 20:
        options = [
            f"-max_total_time={int(left)}",
            f"-timeout={LIMIT_S}",
            f"-rss_limit_mb={LIMIT_MB}",
            f"-max_len={LONGEST_BYTES}",
        ]
        options += [f"-artifact_prefix={fresh}/", "-print_final_stats=1", *([f"-dict={words}"] if words.stat().st_size else [])]
        with (folder / f"{name}.log").open("wb") as log:
            limit = left + LIMIT_S + _STARTUP_S
            ended = subprocess.run(
                [*run, *options, str(corpus)], env=environment, cwd=fresh, stdout=log, stderr=log, check=False, timeout=limit
            )
        text = (folder / f"{name}.log").read_text(encoding="utf-8", errors="replace")
        runs += sum(map(int, _RUNS.findall(text) or _REACHED.findall(text)[-1:]))
        deaths += ended.returncode != 0
        if ended.returncode != 0 and not _CAUGHT.search(text):
            (fresh / f"harness-{deaths}.txt").write_text(f"the harness fell: {text.strip().splitlines()[-1]}\n", encoding="utf-8")
    return {
        "target": name,
        "seconds": round(time.monotonic() - start),
        "cpu_seconds": round(_cpu_s() - cpu),
        "runs": runs,
        "findings": _findings(fresh, folder / "findings" / name),
        "command": f"make fuzz MINUTES={seconds / 60:g} TARGETS={name}",
        "code": _code(),
        "at": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%MZ"),
    }


def _findings(fresh: Path, kept: Path) -> list[str]:
    """What was found, in one line each; the inputs are kept."""
    found = []
    kept.mkdir(parents=True, exist_ok=True)
    for path in sorted(fresh.iterdir()):
        if path.suffix == ".txt":
            found.append(path.read_text(encoding="utf-8").partition("\n")[0])
        elif "-" in path.name:  # libFuzzer's: crash-..., timeout-..., oom-...
            found.append(path.name.partition("-")[0])
        shutil.copy(path, kept / path.name)
    return found


def _cpu_s() -> float:
    """CPU time of all processes that were started and have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _code() -> str:
    """Hash over the sources that were tried."""
    digest = hashlib.sha256()
    for path in sorted((ROOT / "ts4s_core").rglob("*.py")):
        digest.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]


def _add(record: dict[str, Any]) -> None:
    """Several of these may run at once."""
    with (HERE / "fuzz.py").open("rb") as shared:
        fcntl.flock(shared, fcntl.LOCK_EX)
        _write(record)


def _write(record: dict[str, Any]) -> None:
    slices = json.loads(RESULTS.read_text(encoding="utf-8"))["slices"] if RESULTS.exists() else []
    slices.append(record)
    totals = {name: _total([entry for entry in slices if entry["target"] == name]) for name in HOMES}
    RESULTS.write_text(json.dumps({"totals": totals, "slices": slices}, indent=1) + "\n", encoding="utf-8")


def _total(slices: list[dict[str, Any]]) -> dict[str, Any]:
    """Sums over all slices, and over those since the last finding (what was found before is mended by then)."""
    last = max((place for place, entry in enumerate(slices, start=1) if entry["findings"]), default=0)
    sums = {of: sum(entry[of] for entry in slices) for of in ("seconds", "cpu_seconds", "runs")}
    findings = sorted({line for entry in slices for line in entry["findings"]})
    return {**sums, "findings": findings, "seconds_since": sum(entry["seconds"] for entry in slices[last:])}


if __name__ == "__main__":
    sys.exit(main())
