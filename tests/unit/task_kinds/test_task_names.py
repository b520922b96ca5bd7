"""A task's name is compared in the registry of task kinds and nowhere else."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from import_graph import PACKAGES, ROOT

from ts4s_core.task_kinds.registry import TASK_KINDS, TASK_NAMES

REGISTRY = ROOT / "ts4s_core" / "task_kinds"
#: The kinds' own objects, whose names would be compared in disguise.
_OBJECTS = {kind.name.replace("-", "_").upper() for kind in TASK_KINDS.values()}


def _names_a_task(node: ast.AST) -> bool:
    """Whether a value is a task's name, a kind's ``name``, or a collection or a pattern that holds one."""
    for inner in ast.walk(node):
        if isinstance(inner, ast.Constant) and inner.value in TASK_NAMES:
            return True
        if isinstance(inner, ast.Attribute) and inner.attr == "name" and ast.unparse(inner.value).split(".")[-1] in _OBJECTS:
            return True
    return False


def comparisons(source: str) -> Iterator[int]:
    """Lines that tell tasks apart by name: ``==``, ``!=``, ``in``, ``is``, ``match``, keys of dictionaries, ``startswith``."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Compare():
                found = any(_names_a_task(part) for part in (node.left, *node.comparators))
            case ast.match_case():
                found = _names_a_task(node.pattern)
            case ast.Dict():
                found = any(key is not None and _names_a_task(key) for key in node.keys)
            case ast.Subscript():
                found = _names_a_task(node.slice)
            case ast.Call(func=ast.Attribute(attr="startswith" | "endswith" | "get")):
                found = any(_names_a_task(argument) for argument in node.args)
            case _:
                continue
        if found:
            yield node.pattern.lineno if isinstance(node, ast.match_case) else node.lineno


def test_no_task_is_told_apart_by_name_outside_the_registry() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line}"
        for package in PACKAGES
        for path in sorted((ROOT / package).rglob("*.py"))
        if REGISTRY not in path.parents
        for line in comparisons(path.read_text(encoding="utf-8"))
    ]
    assert wrong == []


def test_every_way_to_compare_is_found() -> None:
    ways = [
        'task == "multi-label"',
        '"classification" != task',
        'task in ("classification", "other")',
        'task not in {"language-model"}',
        "task == LANGUAGE_MODEL.name",
        '{"classification": 1, "other": 2}',
        'TABLE["multi-label"]',
        'TABLE.get("multi-label")',
        'task.startswith("language-model")',
        'match task:\n    case "classification" | "other":\n        pass',
    ]
    assert [len(list(comparisons(way))) for way in ways] == [1] * len(ways)
    innocent = ['task == "encoder"', 'run("language-model")', "{task: 1}", 'Field("classification")', 'x = "multi-label"']
    assert [list(comparisons(text)) for text in innocent] == [[]] * len(innocent)


def test_the_registry_needs_nothing_but_errors() -> None:
    imported = {
        node.module
        for path in REGISTRY.glob("*.py")
        for node in ast.walk(ast.parse(Path(path).read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("ts4s_core")
    }
    assert {module for module in imported if not str(module).startswith("ts4s_core.task_kinds.")} == {"ts4s_core.errors"}
