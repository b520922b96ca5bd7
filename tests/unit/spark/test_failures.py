from __future__ import annotations

from ts4s_core.errors import DataError, SparkError, Ts4sError
from ts4s_core.spark.execution.barrier_launcher import _as_training_error
from ts4s_core.spark.session.failures import as_error

PYTHON_EXCEPTION = """
Job aborted due to stage failure: Task 0 in stage 2.0 failed 1 times, most recent failure: Lost task 0.0 in stage 2.0
(TID 3) (127.0.0.1 executor driver): org.apache.spark.api.python.PythonException: Traceback (most recent call last):
  File "/somewhere/rows.py", line 1, in read
    raise DataError("x")
ts4s_core.errors.DataError: line 3 of rows.tsv: expected a tab, got none. Mend the line

\tat org.apache.spark.api.python.BasePythonRunner.handlePythonException(PythonRunner.scala:581)
Driver stacktrace:
"""
VALUE_ERROR = PYTHON_EXCEPTION.replace("ts4s_core.errors.DataError: line 3", "ValueError: line 3")


class ForeignError(Exception):
    """An exception of Spark's."""


ForeignError.__module__ = "pyspark.errors.exceptions.captured"


def test_an_error_of_a_task_keeps_its_class_and_message() -> None:
    error = as_error(ForeignError(PYTHON_EXCEPTION), what="scan")
    assert type(error) is DataError
    assert str(error) == "line 3 of rows.tsv: expected a tab, got none. Mend the line"


def test_another_error_of_a_task_becomes_a_spark_error_of_one_line() -> None:
    error = as_error(ForeignError(VALUE_ERROR), what="scan")
    assert type(error) is SparkError
    assert str(error) == "scan failed in Spark: ValueError: line 3 of rows.tsv: expected a tab, got none. Mend the line"


def test_own_errors_pass_and_unforeseen_ones_are_named() -> None:
    own = DataError("x")
    assert as_error(own, what="scan") is own
    assert type(as_error(KeyError("a"), what="scan")) is Ts4sError
    assert str(as_error(KeyError("a"), what="scan")) == "scan failed: KeyError: 'a'"
    assert isinstance(as_error(ConnectionRefusedError(111, "no"), what="scan"), SparkError)


def test_a_crashed_worker_is_a_lost_one() -> None:
    text = "Job aborted: org.apache.spark.SparkException: Python worker exited unexpectedly (crashed)\n\tat x"
    assert type(_as_training_error(ForeignError(text))).__name__ == "WorkerLostError"
    assert type(_as_training_error(ForeignError(PYTHON_EXCEPTION))) is DataError
