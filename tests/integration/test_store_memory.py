"""Two gigabytes up and down: memory does not grow with the artifact."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "infra" / "benchmarks" / "store_throughput.py"
MOST_MIB = 350


@pytest.mark.long
@pytest.mark.timeout(1_200)
def test_peak_memory_of_a_transfer(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), "--only", "ts4s", "--mib", "2048", "--rounds", "1", "--folder", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1_100, check=True)
    result = json.loads(done.stdout.splitlines()[-1])
    peaks = {way: result[f"ts4s-{way}"]["peak_mib"] for way in ("up", "down")}
    assert max(peaks.values()) < MOST_MIB, peaks
