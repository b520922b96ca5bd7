from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import ts4s_core
from ts4s_core.errors import SettingsError
from ts4s_core.settings import SparkSettings
from ts4s_core.spark.session.sessions import SessionPlan, describe_session, session_conf
from ts4s_core.spark.session.shipping import package_folder, write_zip


def plan(folder: Path, *, master: str = "local[2]", threads: int = 1, conf: tuple[str, ...] = ()) -> SessionPlan:
    return SessionPlan(SparkSettings(master=master, conf=conf), threads, folder)


def test_defaults_are_quiet_private_and_on_the_loopback(tmp_path: Path) -> None:
    conf = session_conf(plan(tmp_path, threads=2))
    assert conf["spark.master"] == "local[2]"
    assert conf["spark.task.cpus"] == "2"
    assert conf["spark.ui.enabled"] == "false"
    assert conf["spark.ui.showConsoleProgress"] == "false"
    assert conf["spark.dynamicAllocation.enabled"] == "false"
    assert conf["spark.sql.session.timeZone"] == "UTC"
    assert conf["spark.driver.host"] == conf["spark.driver.bindAddress"] == "127.0.0.1"
    assert conf["spark.local.dir"] == str(tmp_path / "local")
    assert f"-Djava.io.tmpdir={tmp_path}" in conf["spark.driver.extraJavaOptions"]


def test_a_local_jvm_compiles_once_unless_its_user_says_otherwise(tmp_path: Path) -> None:
    again = "-XX:TieredStopAtLevel=4"
    options = session_conf(plan(tmp_path, conf=(f"spark.driver.extraJavaOptions={again}",)))["spark.driver.extraJavaOptions"]
    assert [word for word in options.split() if "Tiered" in word] == ["-XX:TieredStopAtLevel=1", again]  # Java takes the last


def test_a_cluster_reaches_the_driver_by_its_own_address(tmp_path: Path) -> None:
    conf = session_conf(plan(tmp_path, master="spark://host:7077"))
    assert "Tiered" not in conf["spark.driver.extraJavaOptions"]
    assert "spark.driver.host" not in conf
    assert "spark.driver.bindAddress" not in conf


def test_a_clusters_user_finds_the_ui_and_nobody_ends_jobs_there(tmp_path: Path) -> None:
    conf = session_conf(plan(tmp_path, master="spark://host:7077"))
    assert (conf["spark.ui.enabled"], conf["spark.ui.killEnabled"]) == ("true", "false")
    assert session_conf(plan(tmp_path, master="yarn", conf=("spark.ui.enabled=false",)))["spark.ui.enabled"] == "false"


def test_the_users_own_configuration_wins(tmp_path: Path) -> None:
    given = (
        "spark.ui.enabled=true",
        "spark.dynamicAllocation.enabled=true",
        "spark.driver.memory=2g",
        "spark.driver.extraJavaOptions=-Da=b=c",
        "spark.task.cpus=1",
    )
    conf = session_conf(plan(tmp_path, conf=given))
    assert conf["spark.ui.enabled"] == "true"
    assert conf["spark.driver.memory"] == "2g"
    assert conf["spark.dynamicAllocation.enabled"] == "true"  # for what trains nothing
    assert conf["spark.driver.extraJavaOptions"].startswith("-Dlog4j2.")
    assert conf["spark.driver.extraJavaOptions"].endswith(" -Da=b=c")


def test_what_training_relies_on_cannot_be_overridden(tmp_path: Path) -> None:
    given = ("spark.task.cpus=4", "spark.master=yarn")
    with pytest.raises(SettingsError) as caught:
        session_conf(plan(tmp_path, threads=2, conf=given))
    message = str(caught.value)
    assert "spark.conf spark.task.cpus=4 contradicts train.threads_per_worker, which makes it 2" in message
    assert "spark.conf spark.master=yarn contradicts spark.master, which makes it local[2]" in message


def test_the_zip_is_importable_complete_and_always_the_same(tmp_path: Path) -> None:
    package = package_folder()
    assert package == Path(ts4s_core.__file__).parent
    first, second = write_zip(package, tmp_path / "a.zip"), write_zip(package, tmp_path / "b.zip")
    assert first.read_bytes() == second.read_bytes()
    names = set(zipfile.ZipFile(first).namelist())
    sources = {path.relative_to(package.parent).as_posix() for path in package.rglob("*.py")}
    assert sources <= names
    assert not [name for name in names if "__pycache__" in name or "java_home" in name or not name.startswith("ts4s_core/")]
    code = (
        f"import sys; sys.path = [{str(first)!r}, *[p for p in sys.path if not p.endswith({package.parent.name!r})]]; "
        "import ts4s_core.spark.execution.barrier_launcher as found; "
        "from ts4s_core.spark.session.shipping import package_folder; "
        "print(found.__file__, package_folder())"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [f"{first}/ts4s_core/spark/execution/barrier_launcher.py", "None"]


@pytest.mark.parametrize(
    ("address", "shown"), [("http://h:4040", "http://h:4040"), (None, "off, --spark.conf spark.ui.enabled=true")]
)
def test_the_log_says_where_spark_can_be_watched(address: str | None, shown: str) -> None:
    context = SimpleNamespace(applicationId="local-1", master="local[2]", uiWebUrl=address)
    session: Any = SimpleNamespace(sparkContext=context)
    assert describe_session(session).startswith(f"Spark application local-1 on local[2]; its UI: {shown}")
