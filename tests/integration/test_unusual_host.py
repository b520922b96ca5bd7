"""Spark for a user that the system does not know, with blanks and quotes in the name of the temporary folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NOBODY_KNOWS = "54321"
LIMIT_S = 240
PROGRAM = """
import sys, tempfile
from ts4s_core.settings import Settings
from ts4s_core.spark.driver.client import SparkProgram
with SparkProgram(Settings(spark={"master": "local[1]"})) as program:
    sys.stdout.write(str(program.run({"job": "echo", "items": ["a  b"]})))
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user needs root")
def test_spark_runs_there_and_leaves_nothing(tmp_path: Path) -> None:
    """The user keeps the right to read what root installed, and nothing else of root's."""
    temporary = tmp_path / "a b 'c\" d"
    temporary.mkdir()
    temporary.chmod(0o777)
    caps = ["--inh-caps=-all,+dac_read_search", "--ambient-caps=+dac_read_search", "--bounding-set=-all,+dac_read_search"]
    person = ["setpriv", "--reuid", NOBODY_KNOWS, "--regid", NOBODY_KNOWS, "--clear-groups", *caps]
    done = subprocess.run(
        [*person, sys.executable, "-c", PROGRAM],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "TMPDIR": str(temporary)},
        cwd=temporary,
        capture_output=True,
        text=True,
        check=False,
        timeout=LIMIT_S,
    )
    assert (done.returncode, done.stdout) == (0, "{'items': ['a b']}"), done.stderr
    assert list(temporary.iterdir()) == []


def test_a_comma_in_its_name_is_refused_by_name(tmp_path: Path) -> None:
    temporary = tmp_path / "a,b"
    temporary.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(temporary)},
        capture_output=True,
        text=True,
        check=False,
        timeout=LIMIT_S,
    )
    assert "SettingsError: temporary folder" in done.stderr
    assert done.stderr.rstrip().endswith("has a comma, at which Spark cuts lists of folders: set TMPDIR")
    assert list(temporary.iterdir()) == []
