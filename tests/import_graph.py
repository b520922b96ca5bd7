"""Who imports whom, read from the sources: imports inside functions and under TYPE_CHECKING count."""

from __future__ import annotations

import ast
import functools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("flows", "tasks", "ts4s_core")

Graph = dict[str, set[str]]


def module_of(path: Path, root: Path = ROOT) -> str:
    """The dotted name of a file."""
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def modules(root: Path = ROOT) -> dict[str, Path]:
    """Every module of the project by its dotted name."""
    return {module_of(path, root): path for package in PACKAGES for path in sorted((root / package).rglob("*.py"))}


@functools.cache
def tree_of(path: Path) -> ast.Module:
    """The syntax tree of a file, parsed once a process."""
    return ast.parse(path.read_text(encoding="utf-8"))


def named_imports(tree: ast.AST) -> Iterator[tuple[str, str | None, int]]:
    """Module, name taken from it (None for ``import module``) and line of every import, wherever it stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.module or "", alias.name, node.lineno) for alias in node.names)


def import_graph(root: Path = ROOT) -> Graph:
    """Modules of the project that each module imports."""
    found = modules(root)
    graph: Graph = {module: set() for module in found}
    for module, path in found.items():
        for target, name, _line in named_imports(tree_of(path)):
            inner = f"{target}.{name}"
            graph[module] |= {inner} if inner in found else {target} & found.keys()
        graph[module].discard(module)
    return graph


def grouped(graph: Mapping[str, set[str]], group: Callable[[str], str]) -> Graph:
    """The same graph between groups of modules."""
    between: Graph = {}
    for module, targets in graph.items():
        between.setdefault(group(module), set()).update(group(target) for target in targets)
    for name, targets in between.items():
        targets.discard(name)
    return between


def folder_of(module: str) -> str:
    """The sub-package that a module is in; a package's ``__init__`` is in the package."""
    return module if modules_cached()[module].name == "__init__.py" else module.rpartition(".")[0]


def package_of(module: str) -> str:
    """The package right below ``ts4s_core``; ``flows`` and ``tasks`` are one each."""
    parts = module.split(".")
    return ".".join(parts[:2]) if parts[0] == "ts4s_core" else parts[0]


@functools.cache
def modules_cached() -> dict[str, Path]:
    """See :func:`modules`."""
    return modules()


def circles(graph: Mapping[str, set[str]]) -> list[list[str]]:
    """Strongly connected components of more than one node (Tarjan 1972)."""
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        order[node] = low[node] = len(order)
        stack.append(node)
        for target in sorted(graph.get(node, ())):
            if target not in order:
                visit(target)
                low[node] = min(low[node], low[target])
            elif target in stack:
                low[node] = min(low[node], order[target])
        if low[node] == order[node]:
            place = stack.index(node)
            component = stack[place:]
            del stack[place:]
            if len(component) > 1:
                found.append(sorted(component))

    for node in sorted(graph):
        if node not in order:
            visit(node)
    return found


def defined_names(path: Path) -> set[str]:
    """Names that a module defines or imports at its top level, as far as the sources show."""
    names: set[str] = set()
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.alias):
            names.add((node.asname or node.name).split(".")[0])
    return names
