"""What keeps Spark's JVM from starting is named, with the variable and the way out."""

from __future__ import annotations

from pathlib import Path

import pyspark
import pytest

from ts4s_core.errors import SettingsError
from ts4s_core.spark.session import start_checks
from ts4s_core.spark.session.start_checks import check_start


def spark_home(folder: Path, version: str) -> Path:
    (folder / "bin").mkdir(parents=True)
    (folder / "bin/spark-submit").write_text(
        "#!/bin/sh\necho 'Picked up options' >&2\necho 'Error: too small a heap' >&2\nexit 1\n"
    )
    (folder / "bin/spark-submit").chmod(0o755)
    (folder / "jars").mkdir()
    (folder / f"jars/spark-core_2.13-{version}.jar").touch()
    return folder


@pytest.mark.parametrize(
    ("environment", "conf", "message"),
    [
        ({"SPARK_HOME": ""}, {}, "SPARK_HOME is set and empty"),
        ({"SPARK_HOME": "/opt/gone"}, {}, "SPARK_HOME /opt/gone holds no Spark"),
        ({"PYSPARK_SUBMIT_ARGS": "--driver-memory 1g"}, {}, "expected it to end in pyspark-shell"),
        ({"PYSPARK_SUBMIT_ARGS": " "}, {}, "PYSPARK_SUBMIT_ARGS is empty"),
        (
            {"PYSPARK_SUBMIT_ARGS": "--driver-memory 900 pyspark-shell"},
            {},
            "--driver-memory of PYSPARK_SUBMIT_ARGS is 900",
        ),
        ({}, {"spark.master": "yarn"}, "expected yarn-site.xml in HADOOP_CONF_DIR or YARN_CONF_DIR, got neither is set"),
        ({"YARN_CONF_DIR": "/no"}, {"spark.master": "yarn"}, "got YARN_CONF_DIR /no. Copy the folder from a host of the cluster"),
        ({}, {"spark.driver.memory": "2048"}, "spark.conf spark.driver.memory is 2048, without a unit: .* Write 2048m or 2048g"),
    ],
)
def test_what_cannot_start_is_refused(environment: dict[str, str], conf: dict[str, str], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        check_start(conf, environment)


@pytest.mark.parametrize(
    ("environment", "conf"),
    [
        ({}, {}),
        ({"PYSPARK_SUBMIT_ARGS": "--driver-memory 1g --executor-memory 900 pyspark-shell"}, {}),
        ({}, {"spark.driver.memory": "512m", "spark.executor.memory": "512"}),
        ({}, {"spark.driver.memory": str(2**30)}),
    ],
)
def test_what_can_start_is_left_alone(environment: dict[str, str], conf: dict[str, str]) -> None:
    check_start(conf, environment)


def test_the_spark_of_another_version(tmp_path: Path) -> None:
    check_start({}, {"SPARK_HOME": str(spark_home(tmp_path / "same", pyspark.__version__))})
    with pytest.raises(SettingsError, match=rf"is Spark 3\.5\.1, and the installed pyspark is {pyspark.__version__}"):
        check_start({}, {"SPARK_HOME": str(spark_home(tmp_path / "old", "3.5.1"))})


def test_the_line_that_the_jvm_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPARK_HOME", str(spark_home(tmp_path, pyspark.__version__)))
    assert start_checks.said_by_jvm({"spark.master": "local[1]"}) == "Error: too small a heap"
