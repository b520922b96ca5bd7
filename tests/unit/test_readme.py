"""The README says what the code does."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("program", ["settings_table.py", "results_table.py"])
def test_a_table_is_that_of_the_code_and_of_the_files_of_results(program: str) -> None:
    """Mend with: python infra/PROGRAM."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "infra" / program), "--check"], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_file_tree_is_that_of_the_repository() -> None:
    tree = (ROOT / "README.md").read_text(encoding="utf-8").split("## Where the rest is")[1].split("```")[1]
    lines = [line for line in tree.splitlines() if line.strip()]
    top = [line.split("/")[0] for line in lines if not line.startswith(" ")]
    inner = [line.split("/")[0].strip() for line in lines if line.startswith(" ")]
    assert top == ["flows", "tasks", "ts4s_core", "infra", "tests"]
    there = {path.parent.name for path in (ROOT / "ts4s_core").glob("*/__init__.py")}
    assert sorted(inner) == sorted(there)


def test_the_readme_can_be_read_at_one_sitting() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 200


def test_the_index_has_every_page() -> None:
    index = (ROOT / "infra/docs/README.md").read_text(encoding="utf-8")
    pages = [path.name for path in sorted((ROOT / "infra/docs").glob("*.md")) if path.name != "README.md"]
    assert [page for page in pages if f"]({page})" not in index] == []


def test_every_link_into_the_repository_leads_somewhere() -> None:
    for document in (ROOT / "README.md", *sorted((ROOT / "infra").rglob("*.md"))):
        for target in re.findall(r"\]\(([^)#\s]+)", document.read_text(encoding="utf-8")):
            if "://" not in target:
                assert (document.parent / target).exists(), f"{document.relative_to(ROOT)}: {target}"


def test_every_test_that_a_page_names_exists() -> None:
    found = 0
    for document in (ROOT / "README.md", *sorted((ROOT / "infra/docs").glob("*.md"))):
        for path in re.findall(r"`(tests/[\w/]+\.py)`", document.read_text(encoding="utf-8")):
            found += 1
            assert (ROOT / path).is_file(), f"{document.relative_to(ROOT)}: {path}"
    assert found > 20


def test_the_table_of_promises_names_kinds_of_faults_that_the_matrix_draws() -> None:
    page = (ROOT / "infra/docs/operations.md").read_text(encoding="utf-8")
    named = {
        kind
        for kinds in re.findall(r"`tests/faults/test_fault_matrix\.py` \(([^)]*)\)", page)
        for kind in re.findall(r"`([\w-]+)`", kinds)
    }
    drawn = re.findall(
        r'^    "([\w-]+)": \(', (ROOT / "tests/faults/fault_points.py").read_text(encoding="utf-8"), flags=re.MULTILINE
    )
    assert named
    assert named <= set(drawn)
