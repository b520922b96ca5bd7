"""Names that pyspark, torch and Prefect keep to themselves are asked for in one module of each, and nowhere else."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HOMES = ("ts4s_core/spark/session/internals.py", "ts4s_core/torch_internals.py")
#: The standard library's in public, transformers' field of a configuration, and what Spark ML has for stages of one's own.
ALLOWED = {
    "os._exit",
    "node._fields",
    "kind._fields",
    "LossSum._fields",
    "config._attn_implementation",
    "self._setDefault",
    "self._copyValues",
}


def private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name != "_"


def own_names(trees: list[ast.Module]) -> set[str]:
    """Every private name that the project defines, in a module, a class or on ``self``."""
    found = set()
    for tree in trees:
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                found.add(node.name)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                found.add(node.id)
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and ast.unparse(node.value) == "self":
                found.add(node.attr)
    return found


def foreign(tree: ast.Module, own: set[str]) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and private(node.attr) and node.attr not in own:
            yield ast.unparse(node)
        elif isinstance(node, ast.ImportFrom) and node.module:
            pieces = [*node.module.split("."), *(alias.name for alias in node.names)]
            if node.module.split(".")[0] in ("torch", "pyspark", "py4j", "prefect") and any(map(private, pieces)):
                yield ast.unparse(node)


def test_private_names_of_libraries_have_one_home_each() -> None:
    paths = [path for package in ("flows", "tasks", "ts4s_core") for path in sorted((ROOT / package).rglob("*.py"))]
    trees = {str(path.relative_to(ROOT)): ast.parse(path.read_text(encoding="utf-8")) for path in paths}
    own = own_names(list(trees.values()))
    found = {path: sorted(set(foreign(tree, own)) - ALLOWED) for path, tree in trees.items()}
    elsewhere = {path: names for path, names in found.items() if names and path not in HOMES}
    assert (elsewhere, [path for path in HOMES if not found[path]]) == ({}, [])
