"""Which import paths a loaded model may name.

A saved model says ``module:name`` of what builds it. Importing a module runs its code, so a file from elsewhere must not
choose it: only ``torch.nn``, ``torch.optim`` and what this process's own code has named are taken. :func:`find`, which alone
imports, checks that itself, whoever else did; a worker takes what its driver vouched for.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable, Iterable
from typing import Any

from ts4s_core.errors import InputError
from ts4s_core.process_state import PROCESS

#: Spark configuration with further names, separated by commas.
CONF = "spark.ts4s.trustedModules"
_LIBRARIES = ("torch.nn", "torch.optim")
_PATH = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*\Z")


def trust(*names: str) -> None:
    """Let saved models of this process name these.

    Args:
        names: modules (``my_package``, with all below it), or single paths (``my_package.networks:Net``).
    """
    _trusted().update(names)


def _trusted() -> set[str]:
    return PROCESS.get_or_make("trusted names", (), set)


def check_trusted(paths: Iterable[str], *, also: Iterable[str] = ()) -> None:
    """Refuse import paths that are not trusted; nothing is imported.

    Args:
        paths: ``module:name`` each.
        also: further names that are trusted.

    Raises:
        InputError: naming the first one.
    """
    known = {*_trusted().copy(), *also}
    for path in paths:
        if not _PATH.match(path):
            raise InputError(f"Saved model names {path!r}, which would be imported: expected module:name")
        module, _, name = path.partition(":")
        parents = {module[:end] for end, char in enumerate(f"{module}.") if char == "."}
        if module in _LIBRARIES and name.isidentifier():
            continue
        if path not in known and not parents & known:
            raise InputError(
                f"Saved model names {path!r}, which would be imported: expected torch.nn, or a module that you trust. "
                f"Call ts4s_core.spark.trust({module!r}) before loading, or set the Spark configuration {CONF}"
            )


def find(path: str) -> Callable[..., Any]:
    """What ``module:name`` (dots allowed in both) stands for; nothing is imported before it is known to be trusted.

    Raises:
        InputError: if it is not trusted, cannot be imported, or cannot be called.
    """
    check_trusted([path])
    module, _, name = path.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for depth, piece in enumerate(name.split(".")):
            if depth and not inspect.isclass(found):
                raise AttributeError(f"{piece} of {type(found).__name__} {name.rpartition('.')[0]}: only a class has inner names")
            found = getattr(found, piece)
    except (ImportError, AttributeError, ValueError) as exc:
        raise InputError(
            f"{path!r} cannot be used: expected module:name that every worker can import, got {exc}. "
            "Install that module on the executors, or hand its file over with SparkContext.addPyFile"
        ) from exc
    if not callable(found):
        raise InputError(f"{path!r} cannot be used: expected a class or a function, got {type(found).__name__}")
    _check_home(path, str(getattr(found, "__module__", "")))
    return found  # type: ignore[no-any-return]


def _check_home(path: str, home: str) -> None:
    """A trusted module vouches for what is made in it, not for whatever it has imported, such as a library's ``system``."""
    known = {*_trusted().copy(), *_LIBRARIES}
    parents = {home[:end] for end, char in enumerate(f"{home}.") if char == "."}
    if path not in known and not parents & known:
        raise InputError(
            f"Saved model names {path!r}, which is {home}'s own: expected what the module itself defines. "
            f"Call ts4s_core.spark.trust({path!r}) if that is meant"
        )
