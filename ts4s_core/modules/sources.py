"""The text of a program's own modules, so that every worker computes with the text that its driver has.

Python workers are used again, and hold a module as it was when they first imported it; a notebook edits and reloads it
meanwhile. So a job says the hash of each, and a worker that holds another text imports anew.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.util
import inspect
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Mapping
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

import ts4s_core
from ts4s_core.errors import InputError
from ts4s_core.modules.carried import carried
from ts4s_core.process_state import PROCESS

_SHOWN = 12


def source_of(top: str) -> Path | None:
    """The file or folder of a module that is not part of the installation (this package may be), or None."""
    try:
        found = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return None
    if found is None or not found.origin or found.origin in ("built-in", "frozen"):
        return None
    origin = Path(found.origin).resolve()
    homes = {Path(sysconfig.get_path(name)).resolve() for name in ("purelib", "platlib", "stdlib", "platstdlib")}
    if not origin.is_file() or (top != ts4s_core.__name__ and any(origin.is_relative_to(home) for home in homes)):
        return None
    return origin.parent if origin.name == "__init__.py" else origin


def sources(paths: Iterable[str]) -> dict[str, str]:
    """Hash of each of the program's own modules that import paths reach, by name.

    Args:
        paths: ``module:name`` each.

    Raises:
        InputError: if one was edited after it was imported: this process would compute something else than its workers.
    """
    found: dict[str, str] = {}
    given = list(paths)
    here = carried(given)
    seen = {ts4s_core.__name__, "__main__"}
    waiting = [path.partition(":")[0].partition(".")[0] for path in given if path not in here]
    for thing in here.values():  # it is sent by itself, and refers to the modules that its own one has
        home = sys.modules.get(thing.__module__)
        waiting += [thing.__module__.partition(".")[0], *(_used_by(home) if home is not None else ())]
    while waiting:
        top = waiting.pop()
        if top in seen:
            continue
        seen.add(top)
        source = source_of(top)
        if source is None:
            continue
        for module in _loaded(top):
            _check_current(module)
            waiting += _used_by(module)
        found[top] = digest(source)
    return dict(sorted(found.items()))


def zip_name(top: str, text: str) -> str:
    """Name of the zip that brings a module of this hash to executors: another text has another name."""
    return f"{top}-{text[:_SHOWN]}.zip"


def digest(source: Path) -> str:
    """SHA-256 of a module's file, or of the Python files of its folder with their names."""
    hashed = hashlib.sha256()
    for file in sorted(source.rglob("*.py")) if source.is_dir() else [source]:
        text = file.read_bytes()
        hashed.update(f"{file.relative_to(source.parent).as_posix()} {len(text)}\n".encode() + text)
    return hashed.hexdigest()


def renew(wanted: Mapping[str, str]) -> None:
    """Have modules as the driver has them: if this process holds one of another text, all are imported anew.

    Args:
        wanted: what :func:`sources` gave on the driver.

    Raises:
        InputError: if this host has another text.
    """
    held = PROCESS.get_or_make("module sources", (), dict[str, str])
    if not any(held.get(top) != text for top, text in wanted.items()):
        return
    for top, text in wanted.items():
        for module in _loaded(top):
            del sys.modules[module.__name__]
        held.pop(top, None)
        # Of several texts that were sent, the one that is meant comes first.
        sent = [entry for entry in sys.path if entry.endswith(zip_name(top, text))]
        sys.path[:] = sent + [entry for entry in sys.path if entry not in sent]
    importlib.invalidate_caches()
    for top, text in wanted.items():
        found = importlib.util.find_spec(top)
        source = source_of(top)
        if (source is None or digest(source) != text) and zip_name(top, text) not in str(found and found.origin):
            raise InputError(
                f"Module {top} of this worker ({found.origin if found else 'none'}) is not the driver's: expected a text of "
                f"hash {text[:_SHOWN]}. Install the same one on all hosts, or restart the session"
            )
        held[top] = text


def _loaded(top: str) -> list[ModuleType]:
    found = [module for name, module in list(sys.modules.items()) if name == top or name.startswith(f"{top}.")]
    return [module for module in found if isinstance(module, ModuleType)]


def _used_by(module: ModuleType) -> Iterator[str]:
    """Top names of the modules that a module has imported, or something from."""
    for value in list(vars(module).values()):
        home = None
        with contextlib.suppress(Exception):  # lazy things of other libraries
            home = value.__name__ if isinstance(value, ModuleType) else value.__module__
        if isinstance(home, str):
            yield home.partition(".")[0]


def _check_current(module: ModuleType) -> None:
    file = getattr(module, "__file__", None)
    if not file or type(module.__loader__) is not SourceFileLoader:
        return
    try:
        written = set(_codes(compile(Path(file).read_bytes(), file, "exec", dont_inherit=True)))
    except (OSError, SyntaxError, ValueError):
        return
    held = {found for code in _functions(vars(module), module.__name__) if code.co_filename == file for found in _codes(code)}
    odd = sorted(name for name, _content in held - written)
    if odd:
        raise InputError(
            f"Module {module.__name__} was edited after it was imported: {odd[0]} of {file} is another here than in the file, "
            f"which workers read. Call importlib.reload({module.__name__}) and make the module anew, or restart the program"
        )


def _functions(names: Mapping[str, Any], home: str) -> Iterator[CodeType]:
    """Code of the functions and methods that are made in a module."""
    for value in list(names.values()):
        if isinstance(value, type):
            if value.__module__ == home and value.__dict__ is not names:
                yield from _functions(value.__dict__, home)
            continue
        for function in (value, getattr(value, "__func__", None), getattr(value, "fget", None)):
            if inspect.isfunction(function) and function.__module__ == home:
                yield inspect.unwrap(function).__code__


def _codes(code: CodeType) -> Iterator[tuple[str, str]]:
    """Qualified name and content of a code object and all within it; where it stands in the file does not count."""
    plain = [repr(constant) for constant in code.co_consts if not isinstance(constant, CodeType)]
    content = (code.co_code, code.co_names, code.co_varnames, code.co_freevars, code.co_flags, plain)
    yield code.co_qualname, hashlib.sha256(repr(content).encode()).hexdigest()
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)
