"""The layering of the project, read from its imports."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from import_graph import (
    PACKAGES,
    ROOT,
    circles,
    defined_names,
    folder_of,
    grouped,
    import_graph,
    modules,
    named_imports,
    package_of,
    tree_of,
)

MAX_MODULES = 14
LAYERS = {"flows": 2, "tasks": 1, "ts4s_core": 0}
MAX_LINES = 400
# Heavy libraries, and the packages that may name them at import time.
LEAVES = (
    "ts4s_core.errors",
    "ts4s_core.progress",
    "ts4s_core.settings",
    "ts4s_core.settings.load",
    "ts4s_core.processes",
    "ts4s_core.artifacts.versions.refs",
    "ts4s_core.artifacts.store",
    "ts4s_core.artifacts.steps",
    "ts4s_core.artifacts.registry",
    "ts4s_core.artifacts.leases.lease",
    "flows.cli.main",
    "flows.cli.help",
    "flows.cli.commands.models",
    "flows.prefect_api.server",
    "flows.cli.display",
)
HEAVY = ("torch", "prefect", "pyspark", "transformers", "onnx", "onnxruntime", "sklearn", "pandas", "matplotlib")
# Help and refused settings answer within two seconds: these do not even read tables.
LIGHT = ("pyarrow", "fsspec", "s3fs", "numpy", "rich")


def sources(*packages: str) -> list[Path]:
    return sorted(path for package in packages for path in (ROOT / package).rglob("*.py"))


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """Every module that a file names in an import, wherever in the file, with the line."""
    for module, _name, line in named_imports(tree_of(path)):
        assert module, f"{path}:{line}: relative import"
        yield module, line


def top(module: str) -> str:
    return module.split(".")[0]


def test_imports_run_one_way() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {module}"
        for package in PACKAGES
        for path in sources(package)
        for module, line in imports(path)
        if LAYERS.get(top(module), -1) > LAYERS[package]
    ]
    assert wrong == []


def test_no_circle_among_files_sub_packages_or_packages() -> None:
    graph = import_graph()
    assert circles(graph) == []
    assert circles(grouped(graph, folder_of)) == []
    assert circles(grouped(graph, package_of)) == []


def test_a_circle_is_found_wherever_its_imports_stand(tmp_path: Path) -> None:
    for package in PACKAGES:
        (tmp_path / package).mkdir()
    (tmp_path / "tasks/a.py").write_text("def late():\n    from tasks import b\n")
    (tmp_path / "tasks/b.py").write_text("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from tasks import a\n")
    assert circles(import_graph(tmp_path)) == [[f"tasks.{name}" for name in "ab"]]


def test_no_folder_is_too_large_to_look_through() -> None:
    counts: dict[str, int] = {}
    for path in sources(*PACKAGES):
        if path.name != "__init__.py":
            folder = str(path.parent.relative_to(ROOT))
            counts[folder] = counts.get(folder, 0) + 1
    assert {folder: count for folder, count in counts.items() if count > MAX_MODULES} == {}


_NAMED = re.compile(r"(?<![\w./-])((?:flows|tasks|ts4s_core)(?:\.\w+)+)(?::(\w+))?")
_FILES_NOT_MODULES = ("ts4s_core.zip",)


def _texts() -> Iterator[tuple[str, str]]:
    """Every text that may name code: strings of Python files, and whole files of infra, docs and the root."""
    for path in sources(*PACKAGES, "tests", "infra"):
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield f"{path.relative_to(ROOT)}:{node.lineno}", node.value
    others = [path for ending in ("md", "sh", "toml", "yaml", "json") for path in (ROOT / "infra").rglob(f"*.{ending}")]
    for path in (*others, ROOT / "README.md", ROOT / "Makefile", ROOT / "pyproject.toml", ROOT / "prefect.yaml"):
        yield str(path.relative_to(ROOT)), path.read_text(encoding="utf-8")


def test_code_that_is_named_by_a_string_exists() -> None:
    found, names = modules(), {}
    wrong = []
    for where, text in _texts():
        for module, attribute in _NAMED.findall(text):
            known = next((head for head in _heads(module) if head in found), "")
            rest = module[len(known) + 1 :].split(".")[0] or attribute
            if known and rest and known not in names:
                names[known] = defined_names(found[known])
            if module not in _FILES_NOT_MODULES and (not known or (rest and rest not in names[known])):
                wrong.append(f"{where}: {module}{':' if attribute else ''}{attribute}")
    assert wrong == []


def _heads(module: str) -> Iterator[str]:
    """``a.b.c``, ``a.b``, ``a``."""
    while module:
        yield module
        module = module.rpartition(".")[0]


# Prefect warns of a server that is not there, and PySpark's stages ask for a session: neither is asked for at import.
_ALONE = """
import gc, importlib, os, sys
sys.path.insert(0, {root!r})
for library in (
    "prefect.main", "pyspark.sql", "pyspark.ml", "torch", "transformers", "tokenizers", "safetensors",
    "onnx", "onnxruntime", "pandas", "pyarrow.parquet", "pydantic_settings", "psutil", "getpass",
):
    importlib.import_module(library)
gc.disable()
gc.freeze()  # children share these pages as long as nobody counts in them
failed = 0
for module in sys.argv[1:]:
    child = os.fork()
    if child == 0:
        try:
            importlib.import_module(module)
        except BaseException as exc:
            sys.stderr.write(f"{{module}}: {{type(exc).__name__}}: {{exc}}\\n")
            os._exit(1)
        os._exit(0)
    failed += os.waitpid(child, 0)[1] != 0
sys.exit(failed != 0)
"""


def _importable() -> list[str]:
    return [module for module in modules() if not module.endswith("__main__")]


def test_every_module_can_be_imported_first() -> None:
    """Each in a process of its own, which has the libraries in memory and nothing of the project."""
    command = [sys.executable, "-W", "ignore", "-c", _ALONE.format(root=str(ROOT)), *_importable()]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.long
@pytest.mark.parametrize("module", _importable())
def test_every_module_can_be_imported_in_a_fresh_interpreter(module: str) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", f"import {module}"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("library", "homes"),
    [
        ("prefect", ("flows", "tasks")),
        ("pyspark", ("ts4s_core/spark",)),
        ("py4j", ("ts4s_core/spark",)),
        ("onnx2torch", ("ts4s_core/onnx",)),
    ],
)
def test_a_foreign_library_has_one_home(library: str, homes: tuple[str, ...]) -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in sources(*PACKAGES)
        for module, line in imports(path)
        if top(module) == library and not str(path.relative_to(ROOT)).startswith(homes)
    ]
    assert wrong == []


def test_sparks_jvm_has_two_homes() -> None:
    """What needs the driver's JVM, which Spark Connect has not, and PySpark's private names for it."""
    homes = ("ts4s_core/spark/session/classic.py", "ts4s_core/spark/session/internals.py")
    words = ("sparkContext", "_jsc", "_jvm", "rdd")
    wrong = [
        f"{path.relative_to(ROOT)}:{node.lineno}: {node.attr}"
        for path in sources(*PACKAGES)
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Attribute) and node.attr in words and str(path.relative_to(ROOT)) not in homes
    ]
    assert wrong == []


def test_training_knows_no_spark_and_no_flow() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {module}"
        for path in sources("ts4s_core/training")
        for module, line in imports(path)
        if module.startswith("ts4s_core.spark")
    ]
    assert wrong == []


@pytest.mark.parametrize("forbidden", ["pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"])
def test_nothing_is_pickled(forbidden: str) -> None:
    assert [path.name for path in sources(*PACKAGES) for module, _ in imports(path) if top(module) == forbidden] == []


def test_no_calls_that_run_text_or_unpickle() -> None:
    wrong = []
    for path in sources(*PACKAGES):
        for node in ast.walk(tree_of(path)):
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            shell = any(keyword.arg == "shell" for keyword in node.keywords)
            if called in ("eval", "exec", "torch.load", "torch.save", "os.system", "print") or shell:
                wrong.append(f"{path.relative_to(ROOT)}:{node.lineno}: {called}")
    assert wrong == []


def test_files_stay_small_and_have_names() -> None:
    found = sources(*PACKAGES, "tests", "infra")
    assert [path.name for path in found if path.name in ("utils.py", "helpers.py", "common.py", "misc.py")] == []
    too_long = {
        str(path.relative_to(ROOT)): lines for path in found if (lines := len(path.read_text("utf-8").splitlines())) > MAX_LINES
    }
    assert too_long == {}


def test_types_are_checked_strictly() -> None:
    """What ``mypy`` reads; the check itself takes a minute, see the next one."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["mypy"]
    assert (settings["strict"], settings["files"]) == (True, ["flows", "tasks", "ts4s_core"])
    loosened = [table for table in settings["overrides"] if set(table) != {"module", "ignore_missing_imports"}]
    assert loosened == []


@pytest.mark.long
def test_mypy_finds_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mypy", "--cache-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout[-3_000:]


def test_every_package_is_installed() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    packages = {".".join(path.parent.relative_to(ROOT).parts) for path in sources(*PACKAGES) if path.name == "__init__.py"}
    assert sorted(package for package in packages if f'"{package}",' not in text) == []


def _loaded(module: str, libraries: tuple[str, ...]) -> str:
    code = f"import sys, {module}; sys.stdout.write(' '.join(name for name in {libraries!r} if name in sys.modules))"
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60).stdout


@pytest.mark.parametrize("module", LEAVES)
def test_leaf_modules_import_nothing_heavy(module: str) -> None:
    assert _loaded(module, HEAVY) == ""


def test_the_way_to_help_imports_next_to_nothing() -> None:
    assert _loaded("flows.cli.main", HEAVY + LIGHT) == ""
