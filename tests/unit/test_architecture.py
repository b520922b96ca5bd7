"""The layering of the project, read from its imports."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("flows", "tasks", "ts4s_core")
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
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            yield (node.module or "", node.lineno)


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
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
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
    assert (settings["strict"], settings["files"]) == (True, ["ts4s_core"])
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
