"""What ts4s asks of pyspark by names that pyspark keeps to itself: here, and nowhere else.

``tests/unit/spark/test_internals.py`` says whether the installed version still has them.
"""

from __future__ import annotations

import contextlib
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pyspark import SparkConf, SparkContext
    from pyspark.ml.param import Params
    from pyspark.sql import SparkSession


def is_open(context: SparkContext) -> bool:
    """Whether a context was not stopped from Python."""
    return context._jsc is not None


def scala_context(context: SparkContext) -> Any:
    """Spark's own ``SparkContext``, through py4j."""
    return context._jsc.sc()


def hadoop_configuration(context: SparkContext) -> Any:
    """Hadoop's configuration of a context, through py4j."""
    return context._jsc.hadoopConfiguration()


def jvm_of(context: SparkContext) -> Any:
    """The JVM's packages, through py4j."""
    assert context._jvm is not None
    return context._jvm


def start_jvm(conf: SparkConf) -> Any:
    """The JVM's packages before there is a context; starts the JVM."""
    from pyspark import SparkContext

    SparkContext._ensure_initialized(conf=conf)  # type: ignore[attr-defined]
    assert SparkContext._jvm is not None
    return SparkContext._jvm


def jvm_process(context: SparkContext | type[SparkContext]) -> subprocess.Popen[bytes] | None:
    """The JVM that pyspark started; None if there is none, or it is our parent, as under spark-submit."""
    return getattr(context._gateway, "proc", None)


def own_folder(context: SparkContext) -> Path:
    """A folder of this host that Spark deletes when the context ends."""
    return Path(str(context._temp_dir))


def forget_jvm(process: subprocess.Popen[bytes]) -> None:
    """Close what pyspark holds of a JVM that is dead, and let it start another."""
    from pyspark import SparkContext
    from pyspark.sql import SparkSession

    context, gateway = SparkContext._active_spark_context, SparkContext._gateway
    if context is not None and getattr(context, "_accumulatorServer", None):
        context._accumulatorServer.shutdown()
    with contextlib.suppress(Exception):  # its sockets are dead already
        gateway.shutdown()  # type: ignore[union-attr]
    with contextlib.suppress(OSError):  # so is the pipe
        if process.stdin is not None:
            process.stdin.close()
    for name in ("_active_spark_context", "_gateway", "_jvm"):
        setattr(SparkContext, name, None)
    for name in ("_instantiatedSession", "_activeSession"):
        setattr(SparkSession, name, None)


def owner_to_be() -> Params:
    """Whom a ``Param`` of a class belongs to until there is an instance."""
    from pyspark.ml.param import Params

    return Params._dummy()  # type: ignore[no-untyped-call, no-any-return]


def give_uid(stage: Params, uid: str) -> None:
    """Give a stage the identity of the one that it was made of or saved as."""
    stage._resetUid(uid)  # type: ignore[attr-defined]


def described(stage: Params, session: SparkSession) -> str:
    """What Spark writes of a stage beside its data: class, uid and Params, as JSON."""
    from pyspark.ml.util import DefaultParamsWriter

    return str(DefaultParamsWriter._get_metadata_to_save(stage, session))  # type: ignore[arg-type]


def description(text: str) -> dict[str, Any]:
    """What :func:`described` gave, read again."""
    from pyspark.ml.util import DefaultParamsReader

    found: dict[str, Any] = DefaultParamsReader._parseMetaData(text)  # type: ignore[attr-defined]
    return found
