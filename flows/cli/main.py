"""The command line: ``ts4s COMMAND [--GROUP.SETTING VALUE ...]``.

Only what help and refused settings need is imported here; a command's own module is imported when it runs.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
import logging
import os
import signal
import sys
import tempfile
import threading
import traceback
import warnings
from collections.abc import Iterator, Sequence
from types import FrameType

from flows.cli.command import Command, Invocation
from flows.cli.help import command_help, overview, prefix_help
from flows.cli.options import Parsed, flags_without_effect, parse, settings_of
from flows.cli.output import write, write_text
from flows.cli.table import COMMANDS, find_command
from ts4s_core.addresses import problem_of, without_secrets
from ts4s_core.errors import SettingsError, Ts4sError, listed, one_line
from ts4s_core.settings import Settings
from ts4s_core.settings.root import SECRET_FIELDS
from ts4s_core.shown_text import line, lines

EXIT_FAILED = 1
EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143
#: After which a signal is given once more: by then whatever was being deleted is gone.
_AGAIN_S = 0.05
_OWN_LOGGERS = ("ts4s_core", "flows", "tasks")


class Terminated(BaseException):
    """SIGTERM or SIGHUP came: unwinds everything, so that every child is stopped, then exit 143."""


def main(words: Sequence[str] | None = None, commands: Sequence[Command] = COMMANDS) -> int:
    """Run one command of the table.

    Returns:
        0 done, 1 failed, 2 wrong settings or input, 130 Ctrl-C, 143 SIGTERM.
    """
    given = list(sys.argv[1:] if words is None else words)
    asked = _help_text(given, commands)
    if asked is not None:
        write_text(asked + "\n", sys.stdout)
        return 0
    secrets: list[str] = []
    debug = "--debug" in given
    try:
        with _signals():
            return _run(given, commands, secrets)
    except Ts4sError as exc:
        return _failed(str(exc), exc, exit_code=exc.exit_code, secrets=secrets, debug=debug)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except Terminated:
        return EXIT_TERMINATED
    except BrokenPipeError:
        # Whoever read our output has gone; nothing more can be said there, not even by the interpreter's last flush.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED
    except Exception as exc:
        kept = "" if debug else f"; the traceback is in {_kept_traceback(exc, secrets)}"
        message = f"unexpected {type(exc).__name__}: {exc}"
        return _failed(one_line(message) + kept, exc, exit_code=EXIT_FAILED, secrets=secrets, debug=debug)


def _help_text(words: list[str], commands: Sequence[Command]) -> str | None:
    """What ``--help``, ``--version`` and a bare ``ts4s`` print."""
    wants_help = any(word in ("-h", "--help") for word in words)
    if words[:1] == ["--version"]:
        return f"ts4s {importlib.metadata.version('ts4s')}"
    command, _ = find_command(words, commands)
    if command is not None:
        return command_help(command) if wants_help else None
    prefixes = {command.name.split(" ")[0] for command in commands if " " in command.name}
    if words and words[0] in prefixes and (wants_help or len(words) == 1):
        return prefix_help(words[0], commands)
    return overview(commands) if wants_help or not words else None


def _run(words: list[str], commands: Sequence[Command], secrets: list[str]) -> int:
    command, length = find_command(words, commands)
    if command is None:
        raise SettingsError(_no_command(words, commands))
    parsed = parse(command, words[length:])
    refused = [problem for name, text in _texts(parsed) if (problem := problem_of(f"--{name.replace('_', '-')}", text))]
    if refused:
        raise SettingsError("; ".join(refused))
    settings = settings_of(command, parsed)
    idle = flags_without_effect(command, parsed, settings)
    if idle:
        sys.stderr.write(f"note: {line(idle)}\n")
    secrets += _secrets_of(settings)
    return _execute(command, parsed, settings)


def _texts(parsed: Parsed) -> Iterator[tuple[str, str]]:
    """Every text among a command's own flags and arguments."""
    for name, given in vars(parsed.options).items():
        yield from ((name, text) for text in (given if isinstance(given, list) else [given]) if isinstance(text, str))


def _execute(command: Command, parsed: Parsed, settings: Settings) -> int:
    from flows.cli.display import Display

    result_stream = sys.stdout
    # Libraries print (torch's exporter does); standard output is the result's alone.
    with _quiet(parsed.debug), Display() as display, contextlib.redirect_stdout(sys.stderr if parsed.debug else io.StringIO()):
        outcome = command.load()(Invocation(settings, parsed.options, display, None if parsed.json else result_stream))
    write(outcome, as_json=parsed.json, stream=result_stream)
    return outcome.exit_code


def _no_command(words: list[str], commands: Sequence[Command]) -> str:
    names = [command.name for command in commands]
    if words[0].startswith("-"):
        return f"the command comes first, got {words[0].split('=', 1)[0]}: ts4s COMMAND {words[0].split('=', 1)[0]} ..."
    asked = " ".join(words[:2]) if any(name.startswith(f"{words[0]} ") for name in names) else words[0]
    return f"no command {asked!r}: there is {listed(names, most=len(names))}"


def _secrets_of(settings: Settings) -> list[str]:
    given = [getattr(getattr(settings, group), name) for group, name in SECRET_FIELDS]
    return [secret.get_secret_value() for secret in given if secret is not None and secret.get_secret_value()]


@contextlib.contextmanager
def _signals() -> Iterator[None]:
    """SIGTERM and SIGHUP unwind the stack like Ctrl-C does, so that every ``finally`` runs; a second one changes nothing.

    Python drops what a handler raises while an object is being deleted, and goes on: then the signal is given once more.
    """

    def end(_number: int, _frame: FrameType | None) -> None:
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        raise Terminated

    def dropped(what: sys.UnraisableHookArgs) -> None:
        if not issubclass(what.exc_type, Terminated):
            hook(what)
            return
        signal.signal(signal.SIGTERM, end)
        threading.Timer(_AGAIN_S, os.kill, (os.getpid(), signal.SIGTERM)).start()

    hook, sys.unraisablehook = sys.unraisablehook, dropped
    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        sys.unraisablehook = hook
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _quiet(debug: bool) -> Iterator[None]:
    """Own warnings go to standard error, one line each; other libraries' logs and warnings only with ``--debug``."""
    if debug:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(_Lines("%(asctime)s %(name)s %(levelname)s %(message)s"))
        logging.basicConfig(level=logging.INFO, handlers=[handler])
        yield
        return
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_OneLine("warning: %(message)s"))
    handler.setLevel(logging.WARNING)
    nothing = logging.NullHandler()  # else logging's last resort would print other libraries' warnings
    handled: list[tuple[logging.Logger, logging.Handler]] = [(logging.getLogger(), nothing)]
    handled += [(logging.getLogger(name), handler) for name in _OWN_LOGGERS]
    for logger, added in handled:
        logger.addHandler(added)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, added in handled:
            logger.removeHandler(added)


class _Lines(logging.Formatter):
    """Records, with their tracebacks, as a terminal may have them."""

    def format(self, record: logging.LogRecord) -> str:
        return lines(without_secrets(super().format(record)))


class _OneLine(logging.Formatter):
    """One line a record, whatever is in it."""

    def format(self, record: logging.LogRecord) -> str:
        return line(without_secrets(super().format(record)))


def _failed(message: str, exc: BaseException, *, exit_code: int, secrets: Sequence[str], debug: bool) -> int:
    if debug:
        sys.stderr.write(lines(without_secrets(_redacted("".join(traceback.format_exception(exc)), secrets))))
    sys.stderr.write(f"error: {_redacted(one_line(message), secrets)}\n")
    return exit_code


def _kept_traceback(exc: BaseException, secrets: Sequence[str]) -> str:
    handle, path = tempfile.mkstemp(prefix="ts4s-error-", suffix=".log")
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(lines(without_secrets(_redacted("".join(traceback.format_exception(exc)), secrets))))
    return path


def _redacted(text: str, secrets: Sequence[str]) -> str:
    for secret in secrets:
        text = text.replace(secret, "********")
    return text
