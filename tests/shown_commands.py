"""The commands that README.md and infra/docs show, taken from them: fixtures for the tests that run them."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCUMENTS = ("README.md", *(path.relative_to(ROOT).as_posix() for path in sorted((ROOT / "infra/docs").glob("*.md"))))
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
_INLINE = re.compile(r"`((?:ts4s|make) [^`\n]+)`")
_PROGRAM = re.compile(r"(?:[A-Z_]+=\S+ )*(?:ts4s|\.venv/bin/ts4s|make|prefect|export) ")

LONG, STACK, MAKE = "end_to_end/test_shown_commands.py", "stack", "a target"
#: Who runs a block's command as it is printed, by what it begins with.
RUN_BY = {
    "make": MAKE,
    "ts4s retrain --config": STACK,
    "ts4s stack": STACK,
    "ts4s": LONG,
    "prefect": LONG,
    "export": LONG,
}


@dataclass(frozen=True)
class Shown:
    """One command.

    Attributes:
        document: where it is shown.
        text: as printed, without the remark behind it.
        in_block: in a block of its own, to be copied; else in the middle of a sentence.
    """

    document: str
    text: str
    in_block: bool

    @property
    def environment(self) -> dict[str, str]:
        """Variables that are set in front of it."""
        return dict(word.split("=", 1) for word in self._all if re.match(r"[A-Z_]+=", word))

    @property
    def words(self) -> list[str]:
        """The program and its words; what may be left out, in brackets, is given too."""
        found = [word for word in self._all if not re.match(r"[A-Z_]+=", word) or self._all[0] == "make"]
        return ["ts4s" if word == ".venv/bin/ts4s" else word for word in found]

    @property
    def run_by(self) -> str:
        """The tests that run it as printed; the first match counts."""
        line = " ".join(self.words)
        return next(home for begin, home in RUN_BY.items() if f"{line} ".startswith(f"{begin} "))

    @property
    def _all(self) -> list[str]:
        return shlex.split(re.sub(r"\[(--[^\]]*)\]", r"\1", self.text))


@dataclass(frozen=True)
class ShownTexts:
    """All that the documents show."""

    commands: tuple[Shown, ...]
    blocks: tuple[tuple[str, str, str], ...]

    def of(self, program: str, *, in_block: bool | None = None) -> list[Shown]:
        """Those of one program."""
        return [
            shown
            for shown in self.commands
            if shown.words[:1] == [program] and in_block in (None, shown.in_block) and shown.words[1:]
        ]

    def to_run(self, home: str) -> list[Shown]:
        """The commands in blocks that these tests run, in the order of the documents, each once."""
        lines = {shown.text: shown for shown in self.commands if shown.in_block and shown.run_by == home}
        return list(lines.values())


def read_documents() -> ShownTexts:
    """Of every document, in order."""
    commands, blocks = [], []
    for name in DOCUMENTS:
        text = (ROOT / name).read_text(encoding="utf-8")
        for language, body in _BLOCK.findall(text):
            blocks.append((name, language, body))
            if language in ("", "bash", "sh"):
                lines = [re.sub(r"\s+#.*", "", line).strip() for line in body.splitlines()]
                commands += [Shown(name, line, True) for line in lines if _PROGRAM.match(f"{line} ")]
        commands += [Shown(name, found, False) for found in _INLINE.findall(_BLOCK.sub("", text))]
    return ShownTexts(tuple(commands), tuple(blocks))


@pytest.fixture(scope="session")
def shown_texts() -> ShownTexts:
    """What the documents show."""
    return read_documents()
