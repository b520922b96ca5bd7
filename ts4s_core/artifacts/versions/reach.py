"""Which of the package's sources a step reaches from its entries, and one hash of what they do.

Followed are imports, wherever they stand in a module (in functions and under ``TYPE_CHECKING`` too: what is only named there
is handed in, and runs), the packages around a module, and strings that are a module's whole name or ``module:name``: so code
is named that is loaded late, or in another process. Two packages are neither hashed nor followed, because they hold values,
which are in the key themselves: the settings, and the kinds of task, whose facets are names of code. A step gives those that
it uses among its entries, and so reaches no other step's.

What runs a step elsewhere (launchers, data engines, sessions) is handed to it, and by contract changes no result.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable

PACKAGE = "ts4s_core"
LEFT_OUT = (f"{PACKAGE}.settings", f"{PACKAGE}.task_kinds")
_NAMED = re.compile(rf"({PACKAGE}(?:\.\w+)+)(?::\w+)?")
#: Fields of a syntax tree that say nothing, or nothing more: how a string was written, whether a name is read or set.
_NO_CODE = {"ctx", "kind", "type_comment"}


@dataclass(frozen=True)
class _Module:
    """One source file: the hash of its syntax tree, and the dotted names in it that may be modules of the package."""

    sha256: str
    names: frozenset[str]


class Sources:
    """The sources of the package, each read once at most.

    Args:
        root: the package's folder, on disk or in a zip.
    """

    def __init__(self, root: Traversable) -> None:
        self._root = root
        self._modules: dict[str, _Module | None] = {}

    def reached(self, entries: Iterable[str]) -> list[str]:
        """Names of all modules that the entries reach, themselves and the packages around them included, in order.

        Args:
            entries: modules, or ``module:name``; one that is not of the package is its owner's to hash.

        Raises:
            ValueError: an entry is of the package, and there is no such module.
        """
        ahead = [entry.partition(":")[0] for entry in entries]
        missing = [name for name in ahead if _is_in(name, PACKAGE) and self._module(name) is None]
        if missing:
            raise ValueError(f"Entries of a step: expected modules of {PACKAGE}, got {', '.join(missing)}")
        found: set[str] = set()
        while ahead:
            name = ahead.pop()
            if name in found or not _is_in(name, PACKAGE) or any(_is_in(name, package) for package in LEFT_OUT):
                continue
            ahead.append(name.rpartition(".")[0])
            module = self._module(name)
            if module is not None:  # what a module defines has a dotted name too
                found.add(name)
                ahead += module.names
        return sorted(found)

    def sha256(self, entries: Iterable[str]) -> str:
        """Hash of every module that the entries reach, by name: of syntax trees, without docstrings, comments and format."""
        digest = hashlib.sha256()
        for name in self.reached(entries):
            module = self._module(name)
            assert module is not None
            digest.update(f"{name} {module.sha256}\n".encode())
        return digest.hexdigest()

    def _module(self, name: str) -> _Module | None:
        if name not in self._modules:
            source = self._read(name)
            self._modules[name] = None if source is None else _parsed(source)
        return self._modules[name]

    def _read(self, name: str) -> bytes | None:
        place = "/".join(name.split(".")[1:])
        for path in (f"{place}.py", f"{place}/__init__.py") if place else ("__init__.py",):
            file = self._root.joinpath(path)
            if file.is_file():
                return file.read_bytes()
        return None


@functools.cache
def installed_sources() -> Sources:
    """The sources that this process runs, zipped or not."""
    return Sources(resources.files(PACKAGE))


def _is_in(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


@functools.cache
def _parsed(source: bytes) -> _Module:
    reading = _Reading()
    reading.node(ast.parse(source))
    text = "\n".join(reading.words).encode("utf-8", "surrogatepass")
    return _Module(hashlib.sha256(text).hexdigest(), frozenset(name for name in reading.names if _is_in(name, PACKAGE)))


class _Reading:
    """One pass over a syntax tree, which it spells out. ``ast.dump`` takes longer, and changes with Python's version."""

    def __init__(self) -> None:
        self.words: list[str] = []
        self.names: set[str] = set()

    def node(self, node: ast.AST) -> None:
        """Spell a node and all below it."""
        if isinstance(node, ast.Import):
            self.names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            self.names.update((node.module, *(f"{node.module}.{alias.name}" for alias in node.names)))
        words = self.words
        words.append(type(node).__name__)
        for field in node._fields:
            value = getattr(node, field, None)
            if value is None or field in _NO_CODE:
                continue
            words.append(field)
            if not isinstance(value, list):
                self._value(value)
                continue
            for item in value:
                # A text that stands alone, as a docstring does, does nothing.
                if not (isinstance(item, ast.Expr) and _is_text(item.value)):
                    self._value(item)
            words.append("]")
        words.append(")")

    def _value(self, value: object) -> None:
        if isinstance(value, ast.AST):
            self.node(value)
            return
        self.words.append(repr(value))
        if isinstance(value, str) and value.startswith(PACKAGE) and (match := _NAMED.fullmatch(value)):
            self.names.add(match[1])


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)
