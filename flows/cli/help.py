"""Help texts, generated from the settings and the table of commands, at most 100 columns wide."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterable, Iterator, Sequence

from flows.cli.command import Command
from flows.cli.options import SettingFlag, flags_of_flow
from ts4s_core.settings import Settings
from ts4s_core.settings.flows import flow_settings
from ts4s_core.settings.root import ENV_PREFIX

MAX_COLUMNS = 100
MIN_COLUMNS = 60
_LEFT = 38

_WAYS = (
    "Every setting can be given three ways, strongest first: a flag (--train.workers 2), the environment "
    f"({ENV_PREFIX}TRAIN__WORKERS=2), a file (--config FILE.toml, with [train] workers = 2; --profile NAME lays its table "
    "[profile.NAME] over it). Every command takes every setting; help shows those that it uses."
)
_COMMON_ROWS = (
    ("--config FILE.toml", "read settings from this file"),
    ("--profile NAME", "lay the file's table [profile.NAME] over its other tables"),
    ("--json", "print the result as one JSON object, on the last line of standard output"),
    ("--debug", "log everything to standard error, with tracebacks"),
)


def overview(commands: Sequence[Command]) -> str:
    """``ts4s --help``."""
    rows = [(command.name, command.summary) for command in commands]
    return "\n".join(
        [
            "usage: ts4s COMMAND [--GROUP.SETTING VALUE ...]",
            "",
            *_wrapped("Retrain transformers on a Spark cluster without GPUs."),
            "",
            "commands",
            *_table(rows, left=18),
            "",
            *_wrapped("ts4s COMMAND --help lists the command's settings; ts4s --version prints the version."),
            "",
            *_wrapped(_WAYS),
            "",
            "exit codes",
            *_table(
                [
                    ("0", "done"),
                    ("1", "failed while running; the cause is in the first line of standard error"),
                    ("2", "wrong settings or input: nothing was written"),
                    ("130, 143", "ended by Ctrl-C or SIGTERM; the same command goes on where it stopped"),
                ],
                left=18,
            ),
        ]
    )


def prefix_help(prefix: str, commands: Sequence[Command]) -> str:
    """``ts4s models --help``: the commands that begin with a word."""
    rows = [(command.name, command.summary) for command in commands if command.name.startswith(f"{prefix} ")]
    return "\n".join([f"usage: ts4s {prefix} COMMAND", "", "commands", *_table(rows, left=18)])


def command_help(command: Command) -> str:
    """``ts4s COMMAND --help``."""
    usage = " ".join(
        [
            f"usage: ts4s {command.name}",
            *(f"[{argument.name.upper()}]" if argument.optional else argument.name.upper() for argument in command.arguments),
            *(f"{option.flag} {option.metavar}" for option in command.options if option.required),
            "[--GROUP.SETTING VALUE ...]",
        ]
    )
    own = [(argument.name.upper(), argument.help) for argument in command.arguments]
    own += [(option.flag if option.switch else f"{option.flag} {option.metavar}", option.note) for option in command.options]
    lines = [usage, "", *_wrapped(command.summary)]
    if command.notes:
        lines += _wrapped(command.notes)
    lines += ["", "options", *_table([*own, *_COMMON_ROWS])]
    for heading, flags in _sections(command):
        rows = [
            (f"{flag.flag} {flag.type}", f"{flag.description} ({flag.note})" if flag.note else flag.description) for flag in flags
        ]
        lines += ["", *heading, *_table(rows)]
    if "storage" in command.groups:
        variables = f"{ENV_PREFIX}STORAGE__KEY and {ENV_PREFIX}STORAGE__SECRET"
        lines += _wrapped(
            f"Keys to the store cannot be flags: {variables}, or [storage] in the file, or the usual AWS chain.", indent="  "
        )
    return "\n".join([*lines, "", *_wrapped(_WAYS)])


def _sections(command: Command) -> Iterator[tuple[list[str], list[SettingFlag]]]:
    """The settings that a command uses, the ones that people change first before the groups."""
    flags, shown = flags_of_flow(command.flow), flow_settings(command.flow)
    if shown.first:
        yield ["what people change first"], [flags[name] for name in shown.first]
    for group in ("", *command.groups):
        rest = [flags[name] for name in shown.rest if name in flags and flags[name].group == group]
        if rest:
            yield _heading(group), rest


def _heading(group: str) -> list[str]:
    if not group:
        return ["run"]
    sentence = (Settings.model_fields[group].annotation.__doc__ or "").strip().splitlines()[0]  # type: ignore[union-attr]
    return _wrapped(f"{group}: {sentence}")


def _columns() -> int:
    return max(MIN_COLUMNS, min(MAX_COLUMNS, shutil.get_terminal_size((MAX_COLUMNS, 24)).columns))


def _wrapped(text: str, *, indent: str = "") -> list[str]:
    return textwrap.wrap(
        text, _columns(), initial_indent=indent, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


def _table(rows: Iterable[tuple[str, str]], *, left: int = _LEFT) -> Iterator[str]:
    for name, text in rows:
        lines = textwrap.wrap(text, _columns() - left - 2, break_on_hyphens=False) or [""]
        if len(name) + 2 < left:
            yield f"  {name:<{left - 2}}{lines[0]}"
            lines = lines[1:]
        else:
            yield f"  {name}"
        yield from (" " * left + line for line in lines)
