"""The wheel: it holds every file of the packages, and asks for every library that they import."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from email.parser import HeaderParser
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PACKAGES = ("flows", "tasks", "ts4s_core")
BUILD = "import sys\nfrom setuptools import build_meta\nbuild_meta.build_wheel(sys.argv[1])"
#: Packages whose library is not called so: several have a part of `google`, and PySpark settles which py4j there is.
LIBRARIES = {"google": "protobuf", "py4j": "pyspark"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("wheel")
    source, target = folder / "source", folder / "dist"
    for package in PACKAGES:
        shutil.copytree(ROOT / package, source / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    subprocess.run([sys.executable, "-c", BUILD, str(target)], cwd=source, check=True, capture_output=True, timeout=120)
    (built,) = target.iterdir()
    return zipfile.ZipFile(built)


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_it_holds_every_file_of_the_packages(wheel: zipfile.ZipFile) -> None:
    files = {path for package in PACKAGES for path in (ROOT / package).rglob("*") if path.is_file()}
    wanted = {path.relative_to(ROOT).as_posix() for path in files if "__pycache__" not in path.parts}
    assert {name for name in wheel.namelist() if ".dist-info/" not in name} == wanted


def test_its_java_can_be_run(wheel: zipfile.ZipFile) -> None:
    found = wheel.getinfo("ts4s_core/spark/session/java_home/bin/java")
    assert found.external_attr >> 16 & 0o111


def test_it_asks_for_every_library_that_is_imported(wheel: zipfile.ZipFile) -> None:
    (about,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    asked = HeaderParser().parsestr(wheel.read(about).decode()).get_all("Requires-Dist", [])
    always = {canonical(re.split(r"[^\w.-]", word)[0]) for word in asked if "extra ==" not in word}
    imported: set[str] = set()
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
                imported |= {name.partition(".")[0] for name in names}
    foreign = imported - set(sys.stdlib_module_names) - set(PACKAGES)
    places = packages_distributions()
    homes = {name: {LIBRARIES[name]} if name in LIBRARIES else set(map(canonical, places.get(name, [name]))) for name in foreign}
    missing = {name: sorted(found) for name, found in homes.items() if not found & always}
    assert missing == {}


def test_the_lock_has_every_library_that_it_asks_for() -> None:
    locked = {
        canonical(found) for found in re.findall(r"^([\w.-]+)==", (ROOT / "infra/requirements.lock").read_text(), re.MULTILINE)
    }
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [word for words in project["optional-dependencies"].values() for word in words]
    asked = {canonical(re.split(r"[^\w.-]", word)[0]) for word in [*project["dependencies"], *extras]}
    assert asked - locked == set()
