"""The text of a program's own modules: known to the driver, and had by every worker."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from ts4s_core.errors import InputError
from ts4s_core.modules.sources import renew, sources, zip_name
from ts4s_core.modules.trust import find, trust
from ts4s_core.process_state import PROCESS
from ts4s_core.spark.session.shipping import write_zip

TOP = "from helper_of_sources import factor\n\ndef twice(x):\n    return x * factor()\n"


def helper(number: int) -> str:
    return f"def factor():\n    return {number}\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "top_of_sources.py").write_text(TOP)
    (tmp_path / "helper_of_sources.py").write_text(helper(2))
    for name in ("top_of_sources", "helper_of_sources"):
        sys.modules.pop(name, None)
    PROCESS.clear()
    importlib.invalidate_caches()
    return tmp_path


def test_modules_that_a_module_uses_count_too(folder: Path) -> None:
    assert list(sources(["top_of_sources:twice", "torch.nn:Linear", "json:dumps"])) == ["top_of_sources"]  # not imported yet
    importlib.import_module("top_of_sources")
    before = sources(["top_of_sources:twice"])
    assert list(before) == ["helper_of_sources", "top_of_sources"]
    (folder / "helper_of_sources.py").write_text(helper(30))
    with pytest.raises(InputError, match=r"helper_of_sources was edited after it was imported: factor of .*reload"):
        sources(["top_of_sources:twice"])
    importlib.reload(sys.modules["helper_of_sources"])
    after = sources(["top_of_sources:twice"])
    assert {name for name in after if after[name] != before[name]} == {"helper_of_sources"}


def test_a_worker_that_holds_another_text_imports_anew(folder: Path) -> None:
    importlib.import_module("top_of_sources")
    first = sources(["top_of_sources:twice"])
    renew(first)
    trust("top_of_sources")
    assert find("top_of_sources:twice")(5) == 10
    held = sys.modules["top_of_sources"]
    renew(first)
    assert sys.modules["top_of_sources"] is held  # nothing to do
    (folder / "helper_of_sources.py").write_text(helper(30))
    importlib.reload(sys.modules["helper_of_sources"])
    second = sources(["top_of_sources:twice"])
    renew(second)
    assert find("top_of_sources:twice")(5) == 150
    with pytest.raises(InputError, match=r"helper_of_sources of this worker .* is not the driver's"):
        renew(first)


def test_what_was_sent_is_chosen_by_its_hash(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    sent, texts = tmp_path_factory.mktemp("sent"), []
    for number in (7, 8):
        (folder / "helper_of_sources.py").write_text(helper(number))
        text = sources(["helper_of_sources:factor"])["helper_of_sources"]
        write_zip(folder / "helper_of_sources.py", sent / zip_name("helper_of_sources", text))
        texts.append(text)
    (folder / "helper_of_sources.py").unlink()
    sys.path += [str(path) for path in sent.iterdir()]
    trust("helper_of_sources")
    try:
        for text, number in ((texts[0], 7), (texts[1], 8), (texts[0], 7)):
            renew({"helper_of_sources": text})
            assert find("helper_of_sources:factor")() == number
    finally:
        sys.path[:] = [entry for entry in sys.path if not entry.startswith(str(sent))]
