"""``pip install ts4s`` is complete: the wheel, in an environment that has nothing else, trains to a promoted version."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from prefect_stand import packages_of_a_user

INSTALL = Path(__file__).parents[2] / "infra" / "clean_install.py"
#: Made by the script before, to try it again without the download.
MADE = "CLEAN_PYTHON"
#: It downloads some 3 GB.
pytestmark = [pytest.mark.long, pytest.mark.timeout(5_400)]


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if MADE in os.environ:
        return Path(os.environ[MADE])
    folder = tmp_path_factory.mktemp("clean") / "install"
    done = subprocess.run(
        [sys.executable, str(INSTALL), str(folder)], stdout=subprocess.PIPE, text=True, timeout=4_800, check=True
    )
    return Path(json.loads(done.stdout)["python"])


def test_an_installed_wheel_trains_to_a_promoted_version(
    python: Path, model_flags: list[str], learning_flags: list[str], tsv: Path, tmp_path: Path
) -> None:
    packages_of_a_user(tmp_path)
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("TS4S_", "PYTHON", "SPARK_"))}
    environ |= {"HF_HUB_OFFLINE": "1", "HOME": str(tmp_path)}

    def ts4s(*words: str) -> dict[str, object]:
        done = subprocess.run(
            [str(python.with_name("ts4s")), *words, "--json"],
            cwd=tmp_path,
            env=environ,
            capture_output=True,
            text=True,
            timeout=900,
        )
        assert done.returncode == 0, done.stderr[-4_000:]
        found: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
        return found

    trained = ts4s("retrain", "--name", "mine", *model_flags, *learning_flags, "--data.source", str(tsv))
    assert (trained["status"], trained["promoted"]) == ("done", True)
    predicted = ts4s("predict", "--model", "mine@champion", "--data.source", str(tsv), "--output", str(tmp_path / "out"))
    assert predicted["rows"] == 300
