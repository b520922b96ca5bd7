"""What Spark and py4j raise, as the errors of this project."""

from __future__ import annotations

import re

from ts4s_core.errors import SparkError, Ts4sError, from_wire

# Spark carries a task's Python traceback as text; its last line names our class.
_OWN_ERROR = re.compile(r"^(?:.*?: )?ts4s_core\.errors\.(\w+): (.+)$", flags=re.MULTILINE)
_CAUSE = re.compile(r"^(?:Caused by: )?(?:[\w.]+\.)?(\w+(?:Error|Exception)): (.+)$", flags=re.MULTILINE)
_GONE = ("Py4JNetworkError", "ConnectionRefusedError", "ConnectionResetError", "BrokenPipeError")
_MAX_CAUSE_CHARS = 400


def as_error(exc: BaseException, *, what: str) -> Ts4sError:
    """The error of this project that an exception stands for.

    An error that a task raised on an executor comes back as its own class; anything else that Spark says becomes a
    SparkError with its cause in one line, and any other exception a plain Ts4sError.

    Args:
        exc: what was raised.
        what: what was being done, for the message.
    """
    if isinstance(exc, Ts4sError):
        return exc
    own = _OWN_ERROR.findall(str(exc))
    if own:
        name, message = own[-1]
        return from_wire({"type": name, "message": message})
    if type(exc).__name__ in _GONE:
        return SparkError(f"{what} failed: Spark's JVM went away ({type(exc).__name__}). Run the command again: it resumes")
    if type(exc).__module__.split(".")[0] in ("pyspark", "py4j"):
        return SparkError(f"{what} failed in Spark: {first_cause(exc)}")
    return Ts4sError(f"{what} failed: {type(exc).__name__}: {exc}")


def first_cause(exc: BaseException) -> str:
    """The line of a Spark exception that says most: the last Python or Java cause, else its first line."""
    text = str(exc)
    causes = [f"{name}: {message.strip()}" for name, message in _CAUSE.findall(text) if name != "SparkException"]
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return (causes or lines or [type(exc).__name__])[-1 if causes else 0][:_MAX_CAUSE_CHARS]
