"""Classes and functions of the running program that no other process can import: of a notebook, of a script, of a function.

This process finds them here by a name. Workers get them as Spark sends any function of a user's program, inside the task's
closure (``carried`` there, ``receive`` here); at rest there is only the name, which nobody else can import.
"""

from __future__ import annotations

import sys
import uuid
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ts4s_core.process_state import PROCESS

_MARK = "@"


def carry(thing: Any) -> str:
    """The name that this process and its workers find a class or function by: ``module:name`` of a script, else one of no module.

    A script's ``module:name`` is what another program could import it by; the running one never does.
    """
    things = _things()
    for path, known in things.items():
        if known is thing:
            return path
    home, name = thing.__module__, thing.__qualname__
    module = main_name() if home == "__main__" and "<" not in name else None
    path = f"{module}:{name}" if module else f"{home}:{name}{_MARK}{uuid.uuid4().hex[:12]}"
    things[path] = thing
    return path


def carried(paths: Iterable[str]) -> dict[str, Any]:
    """Those of some names that are carried, with what they stand for."""
    things = _things()
    return {path: things[path] for path in paths if path in things}


def receive(things: Mapping[str, Any]) -> None:
    """Take what another process carried here."""
    _things().update(things)


def is_nameless(path: str) -> bool:
    """Whether no other program can import what a name stands for."""
    return _MARK in path


def nameless_among(paths: Iterable[str]) -> str | None:
    """The first class or function that no other program can import, by what it is called; None if there is none."""
    return next((path.partition(_MARK)[0] for path in paths if is_nameless(path)), None)


def main_name() -> str | None:
    """The name that others import the running program by; None for a notebook, standard input, or a file off Python's path."""
    main = sys.modules["__main__"]
    spec, file = getattr(main, "__spec__", None), getattr(main, "__file__", None)
    if spec is not None:
        return str(spec.name)
    if not file:
        return None
    stem = Path(file).stem
    try:
        found = find_spec(stem)
    except (ImportError, ValueError):
        return None
    return stem if found is not None and found.origin and Path(found.origin).resolve() == Path(file).resolve() else None


def _things() -> dict[str, Any]:
    return PROCESS.get_or_make("carried things", (), dict)
