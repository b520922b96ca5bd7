"""pyspark still has the names that it keeps to itself: on its classes, and in what a context's start sets."""

from __future__ import annotations

import ast
import inspect
import textwrap

import pytest
from pyspark import SparkContext
from pyspark.ml.param import Params
from pyspark.ml.util import DefaultParamsReader, DefaultParamsWriter
from pyspark.sql import SparkSession

from ts4s_core.spark.session import internals


@pytest.mark.parametrize("name", ["_gateway", "_jvm", "_active_spark_context", "_ensure_initialized"])
def test_a_context_class_has(name: str) -> None:
    assert name in vars(SparkContext)


@pytest.mark.parametrize("name", ["_instantiatedSession", "_activeSession"])
def test_a_session_class_has(name: str) -> None:
    assert name in vars(SparkSession)


@pytest.mark.parametrize("name", ["_set", "_setDefault", "_copyValues", "_resetUid", "_dummy"])
def test_what_has_params_has(name: str) -> None:
    assert callable(getattr(Params, name))


@pytest.mark.parametrize("name", ["_jsc", "_temp_dir", "_accumulatorServer"])
def test_a_context_sets_at_its_start(name: str) -> None:
    tree = ast.parse(textwrap.dedent(inspect.getsource(SparkContext._do_init)))
    targets = [target for node in ast.walk(tree) if isinstance(node, ast.Assign) for target in node.targets]
    assert f"self.{name}" in [ast.unparse(target) for target in targets]


def test_without_a_jvm_there_is_no_process() -> None:
    class Submitted(SparkContext):
        """Started by spark-submit: the gateway has no process of its own."""

        _gateway = object()  # type: ignore[assignment]

    assert internals.jvm_process(Submitted) is None


def test_a_stage_takes_another_identity() -> None:
    class Stage(Params):
        """A stage without Params."""

    stage = Stage()
    internals.give_uid(stage, "Stage_saved")
    assert stage.uid == "Stage_saved"
    assert isinstance(internals.owner_to_be(), Params)


@pytest.mark.parametrize(
    ("kind", "name"), [(DefaultParamsWriter, "_get_metadata_to_save"), (DefaultParamsReader, "_parseMetaData")]
)
def test_what_writes_and_reads_stages_has(kind: type, name: str) -> None:
    assert callable(getattr(kind, name))
