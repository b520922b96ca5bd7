"""The README says what the code does."""

from __future__ import annotations

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


def test_every_folder_in_the_file_tree_exists() -> None:
    tree = (ROOT / "README.md").read_text(encoding="utf-8").split("## Files")[1].split("```")[1]
    folders = [line.split("/")[0].strip() for line in tree.splitlines() if "/" in line.split("  ")[0] or line.startswith("  ")]
    named = [name for name in folders if name]
    assert {"flows", "tasks", "ts4s_core", "infra", "tests", "training", "spark"} <= set(named)
    for name in named:
        assert (ROOT / name).is_dir() or (ROOT / "ts4s_core" / name).is_dir(), name


def test_every_link_into_the_repository_leads_somewhere() -> None:
    import re

    for document in (ROOT / "README.md", *sorted((ROOT / "infra").rglob("*.md"))):
        for target in re.findall(r"\]\(([^)#\s]+)", document.read_text(encoding="utf-8")):
            if "://" not in target:
                assert (document.parent / target).exists(), f"{document.relative_to(ROOT)}: {target}"
