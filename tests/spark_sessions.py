"""A real Spark session in the process of the tests, and its end: the next module of tests starts a JVM of its own."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from ts4s_core.processes import kill_tree
from ts4s_core.spark.session.sessions import Sessions


@contextlib.contextmanager
def own_sessions() -> Iterator[Sessions]:
    """Sessions whose JVM is gone at the end."""
    sessions = Sessions()
    yield sessions
    sessions.stop()
    from pyspark import SparkContext

    gateway = SparkContext._gateway
    if gateway is not None:
        gateway.shutdown()
        kill_tree(gateway.proc.pid)
        gateway.proc.stdin.close()
        gateway.proc.wait()
        SparkContext._gateway = SparkContext._jvm = None
