"""Commands of ts4s, given as a user gives them, and how they are started."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ts4s_core.errors import Ts4sError
from ts4s_core.settings import Settings

COMMAND_LIMIT_S = 400.0
#: Has started, and waits for a line before it reads its flags.
READY = """import sys, flows.cli.commands.models
from flows.cli.main import main
sys.stdin.readline()
sys.exit(main(sys.argv[1:]))"""


@dataclass(frozen=True)
class Launch:
    """How commands are started.

    Attributes:
        before: words before the command, as ``unshare ...``.
        env: added to its environment.
        ready: it waits for :meth:`Command.go_on`.
    """

    before: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    ready: bool = False


class Command:
    """A command that runs."""

    def __init__(self, words: Sequence[str], launch: Launch, *, folder: Path) -> None:
        module = ("-c", READY) if launch.ready else ("-m", "flows.cli")
        self.said: list[str] = []
        self._errors = tempfile.TemporaryFile("w+", dir=folder, encoding="utf-8")  # noqa: SIM115
        self._process = subprocess.Popen(
            [*launch.before, sys.executable, *module, *words, "--json"],
            stdin=subprocess.PIPE if launch.ready else None,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            cwd=folder,
            env={**os.environ, **launch.env},
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        """Its process."""
        return self._process.pid

    @property
    def code(self) -> int:
        """Its exit code, once it has ended."""
        return self._process.returncode

    def go_on(self) -> None:
        """Let one that was started ready do its work."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def end(self) -> dict[str, Any]:
        """Wait for its result.

        Raises:
            Ts4sError: with its last line, if it failed, was killed or was skipped.
        """
        try:
            out, _ = self._process.communicate(timeout=COMMAND_LIMIT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            out, _ = self._process.communicate()
        with self._errors:
            self._errors.seek(0)
            self.said = self._errors.read().strip().splitlines()
        if self.code != 0:
            raise Ts4sError(f"exit {self.code}: {self.said[-1] if self.said else 'no word'}")
        values: dict[str, Any] = json.loads(out.splitlines()[-1])
        if values.get("status") == "skipped":
            raise Ts4sError(f"skipped: {values['why']}")
        return {**values, **values.get("train", {})}


def flags(settings: Settings) -> list[str]:
    """Settings as flags of the command line: what was given alone."""
    words = [f"--name={settings.name}"]
    for group, values in settings.model_dump(mode="json", exclude_unset=True).items():
        if isinstance(values, dict):
            words += [f"--{group}.{name}={value}" for name, value in values.items() if value not in (None, [], ())]
    return words
