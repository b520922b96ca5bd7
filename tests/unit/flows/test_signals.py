"""What ends a command: every signal unwinds it, wherever it is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flows.cli.command import Invocation, Outcome


def wait_for_signal(invocation: Invocation) -> Outcome:
    try:
        sys.stderr.write("ready\n")
        time.sleep(30)
    finally:
        Path(invocation.settings.data.source).write_text("stopped", encoding="utf-8")
    return Outcome({})


class Waiting:
    """Something whose end takes a while."""

    def __del__(self) -> None:
        sys.stderr.write("ready\n")
        time.sleep(2)


def wait_in_a_deletion(invocation: Invocation) -> Outcome:
    try:
        Waiting()
        time.sleep(30)
    finally:
        Path(invocation.settings.data.source).write_text("stopped", encoding="utf-8")
    return Outcome({})


@pytest.mark.parametrize(
    ("number", "code", "waits"),
    [
        (signal.SIGTERM, 143, "wait_for_signal"),
        (signal.SIGINT, 130, "wait_for_signal"),
        (signal.SIGHUP, 143, "wait_for_signal"),
        # What a handler raises there, Python drops.
        (signal.SIGTERM, 143, "wait_in_a_deletion"),
        (signal.SIGHUP, 143, "wait_in_a_deletion"),
    ],
)
def test_signals_unwind_everything(tmp_path: Path, number: signal.Signals, code: int, waits: str) -> None:
    mark = tmp_path / "mark"
    script = (
        "import importlib.util, sys\n"
        f"spec = importlib.util.spec_from_file_location('cli_test_commands', {__file__!r})\n"
        "module = importlib.util.module_from_spec(spec)\n"
        "sys.modules['cli_test_commands'] = module\n"
        "spec.loader.exec_module(module)\n"
        "from flows.cli import command, main\n"
        f"wait = command.Command('wait', 'w', 'cli_test_commands:{waits}', ('data',))\n"
        "sys.exit(main.main(['wait', '--data.source', sys.argv[1]], (wait,)))\n"
    )
    environ = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen([sys.executable, "-c", script, str(mark)], stderr=subprocess.PIPE, text=True, env=environ) as child:
        assert child.stderr is not None
        assert child.stderr.readline() == "ready\n"
        child.send_signal(number)
        assert child.wait(20) == code
        assert child.stderr.read() == ""
    assert mark.read_text(encoding="utf-8") == "stopped"
