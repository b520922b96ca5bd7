"""What YARN is asked for, as far as that shows without one: Spark's own YARN client runs until it looks for its resource manager.

There is no Hadoop cluster here: no container of YARN's was ever started by these tests.
"""

from __future__ import annotations

import itertools
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ts4s_core.spark.session.java import find_java

PROGRAM = Path(__file__).parents[2] / "infra" / "examples" / "spark_submit" / "ts4s_flow.py"
SUBMIT = Path(sys.prefix) / "bin" / "spark-submit"
PROPERTY = "<property><name>{}</name><value>{}</value></property>"
pytestmark = [pytest.mark.long, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def manager() -> Iterator[str]:
    """An address that nobody answers at, and that nobody else takes."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{held.getsockname()[1]}"


@pytest.fixture(scope="module")
def environ(tmp_path_factory: pytest.TempPathFactory, manager: str) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("hadoop")
    yarn = {
        "yarn.resourcemanager.address": manager,
        "yarn.resourcemanager.connect.max-wait.ms": "100",
        "yarn.resourcemanager.connect.retry-interval.ms": "100",
    }
    for name, properties in {"yarn-site": yarn, "core-site": {"ipc.client.connect.max.retries": "0"}}.items():
        body = "".join(PROPERTY.format(*pair) for pair in properties.items())
        (folder / f"{name}.xml").write_text(f"<configuration>{body}</configuration>", encoding="utf-8")
    own = {name: value for name, value in os.environ.items() if not name.startswith(("TS4S_", "SPARK_", "PYSPARK_"))}
    return find_java(own).environment(own) | {"HADOOP_CONF_DIR": str(folder), "HF_HUB_OFFLINE": "1"}


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("packed") / "env.tar.gz"
    file.touch()
    return str(file)


def said(text: str, head: str, end: str) -> list[str]:
    return text.partition(f"\n{head}:\n")[2].partition(f"\n{end}")[0].splitlines()


def test_cluster_mode_asks_for_the_program_its_words_and_the_packed_environment(
    environ: dict[str, str], archive: str, manager: str
) -> None:
    words = ["retrain", "--name", "news", "--data.source", "s3://bucket/news.tsv"]
    conf = ["--conf", "spark.pyspark.python=env/bin/python", "--conf", "spark.yarn.appMasterEnv.HOST_PYTHON=/opt/python3.11"]
    done = subprocess.run(
        [
            *(str(SUBMIT), "--verbose", "--master", "yarn", "--deploy-mode", "cluster", "--archives", f"{archive}#env"),
            *(*conf, str(PROGRAM), *words),
        ],
        capture_output=True,
        text=True,
        timeout=200,
        env=environ | {"PYSPARK_PYTHON": sys.executable},
    )
    shown = done.stdout + done.stderr
    assert said(shown, "Main class", "Arguments:") == ["org.apache.spark.deploy.yarn.YarnClusterApplication"], shown[-2_000:]
    arguments = said(shown, "Arguments", "Spark config:")
    assert arguments[1] == PROGRAM.as_uri().replace("file:///", "file:/")
    assert [word for flag, word in itertools.pairwise(arguments) if flag == "--arg"] == words
    settings = set(said(shown, "Spark config", "Classpath elements:"))
    assert {
        f"(spark.yarn.dist.archives,{Path(archive).as_uri()}#env)",
        "(spark.pyspark.python,env/bin/python)",
        "(spark.yarn.isPython,true)",
        "(spark.submit.deployMode,cluster)",
    } <= settings
    assert done.returncode != 0
    assert f"{manager.rpartition(':')[2]} failed on connection exception" in shown


def test_client_mode_gives_yarn_what_the_settings_say_and_a_cluster_that_is_away_is_one_line(
    environ: dict[str, str], archive: str, tmp_path: Path
) -> None:
    (tmp_path / "rows.tsv").write_text("a\tone text\nb\tanother text\n", encoding="utf-8")
    flags = ["--spark.master", "yarn", "--spark.conf", f"spark.archives={archive}#env"]
    flags += ["--spark.conf", "spark.pyspark.python=env/bin/python", "--storage.uri", str(tmp_path / "store")]
    done = subprocess.run(
        [sys.executable, "-P", "-m", "flows.cli", "doctor", *flags, "--json"],
        capture_output=True,
        text=True,
        timeout=200,
        env=environ,
        cwd=tmp_path,
    )
    assert done.returncode == 1, done.stderr
    (found,) = (check for check in json.loads(done.stdout.splitlines()[-1])["checks"] if check["check"] == "cluster")
    assert found["status"] == "failed"
    assert "Spark did not start for spark.master yarn" in found["found"]
    assert "onnection refused" in found["found"]
    assert "\n" not in found["found"]
