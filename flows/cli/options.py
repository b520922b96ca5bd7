"""Flags from the settings: every field of every group is ``--group.field``, and nothing else is a setting."""

from __future__ import annotations

import argparse
import difflib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

from flows.cli.command import Command
from ts4s_core.errors import SettingsError, listed
from ts4s_core.settings import Settings, load_settings
from ts4s_core.settings.flows import TASK_SETTING, defaults_of, flow_settings, settings_that_apply, tasks_of, value_of
from ts4s_core.settings.root import ENV_PREFIX, SECRET_FIELDS

COMMON = ("--config", "--profile", "--json", "--debug")
_FALSE_OR_TRUE = "true|false"
_NEGATIVE = re.compile(r"-(\d|\.\d|inf)")


@dataclass(frozen=True)
class SettingFlag:
    """One setting as a flag: what the parser and the help need to know of it."""

    group: str
    name: str
    type: str
    bounds: str
    default: str
    description: str

    @property
    def flag(self) -> str:
        """``--train.workers``, or ``--name`` for a setting of the root."""
        return f"--{self.group}.{self.name}" if self.group else f"--{self.name}"

    @property
    def note(self) -> str:
        """Bounds and default, as help shows them."""
        return "; ".join(part for part in (self.bounds, self.default) if part)

    @property
    def repeat(self) -> bool:
        """May be given several times."""
        return self.type == "KEY=VALUE"

    @property
    def switch(self) -> bool:
        """Means true when it stands alone."""
        return self.type == _FALSE_OR_TRUE


def setting_flags() -> Iterator[SettingFlag]:
    """Every setting that may be a flag (secrets may not), in the order of the settings."""
    for name, field in Settings.model_fields.items():
        members = getattr(field.annotation, "model_fields", None)
        if members is None:
            yield _flag("", name, Settings.model_json_schema()["properties"][name])
            continue
        schema = field.annotation.model_json_schema()["properties"]  # type: ignore[union-attr]
        for member in members:
            if (name, member) not in SECRET_FIELDS:
                yield _flag(name, member, schema[member])


def flags_of_flow(flow: str) -> dict[str, SettingFlag]:
    """The flags of the settings that a flow or a step uses, by name in the order of display, with its defaults and choices."""
    every = {flag.flag[2:]: flag for flag in setting_flags()}
    defaults, tasks = defaults_of(flow), tasks_of(flow)
    found = {}
    for name in flow_settings(flow).names:
        if name not in every:
            continue  # a secret
        flag = every[name]
        bounds = " | ".join(tasks) if name == TASK_SETTING else flag.bounds
        found[name] = replace(flag, bounds=bounds, default=_default(value_of(defaults, name)))
    return found


def settings_of(command: Command, parsed: Parsed) -> Settings:
    """The settings of a command line, environment and file; what has no effect on the command is as if it had not been given.

    Raises:
        SettingsError: naming every unknown name and every refused value at once.
    """
    return load_settings(parsed.settings, config=parsed.config, profile=parsed.profile, flow=command.flow, groups=command.groups)


def flags_without_effect(command: Command, parsed: Parsed, settings: Settings) -> str:
    """A sentence that names the flags that were given and have no effect on the command; empty, where there are none."""
    groups = {name: value for name, value in parsed.settings.items() if isinstance(value, dict)}
    given = [name for name in parsed.settings if name not in groups]
    given += [f"{group}.{name}" for group, values in groups.items() for name in values]
    task = settings.model.task if "task" in settings.model.model_fields_set else None
    used = settings_that_apply(command.flow, task, groups=command.groups)
    idle = [f"--{name}" for name in given if name not in used]
    if not idle:
        return ""
    tasks = tasks_of(command.flow)
    of_task = f" with {TASK_SETTING} {task or tasks[0]}" if len(tasks) > 1 and TASK_SETTING in used else ""
    return f"{listed(idle, len(idle))} {'has' if len(idle) == 1 else 'have'} no effect on ts4s {command.name}{of_task}"


def _flag(group: str, name: str, schema: dict[str, Any]) -> SettingFlag:
    kinds = [kind for kind in schema.get("anyOf", [schema]) if kind.get("type") != "null"]
    kind = kinds[0]
    shown = {"integer": "INT", "number": "NUMBER", "boolean": _FALSE_OR_TRUE, "array": "KEY=VALUE"}.get(
        kind.get("type", ""), "TEXT"
    )
    if "enum" in kind:
        shown = "CHOICE"
    return SettingFlag(group, name, shown, _bounds(kind), _default(schema.get("default")), schema.get("description", ""))


def _bounds(kind: dict[str, Any]) -> str:
    if "enum" in kind:
        return " | ".join(kind["enum"])
    low, high = kind.get("minimum"), kind.get("maximum")
    if low is not None and high is not None:
        return f"{low:g} to {high}"
    words = [
        f"at least {low:g}" if low is not None else "",
        f"above {kind['exclusiveMinimum']:g}" if "exclusiveMinimum" in kind else "",
        f"at most {high:g}" if high is not None else "",
        f"below {kind['exclusiveMaximum']}" if "exclusiveMaximum" in kind else "",
    ]
    return ", ".join(word for word in words if word)


def _default(value: object) -> str:
    if value is None or value in ("", [], ()):
        return ""
    shown = f"{value:g}" if isinstance(value, float) else str(value)
    return f"default {shown.lower() if isinstance(value, bool) else shown}"


class _Parser(argparse.ArgumentParser):
    """A parser that raises instead of printing its usage and ending the process."""

    def error(self, message: str) -> NoReturn:
        raise SettingsError(message.removeprefix("argument ").replace(": expected one argument", " needs a value"))


@dataclass(frozen=True)
class Parsed:
    """A command line, taken apart: nested settings by group, and everything else."""

    settings: dict[str, Any]
    options: argparse.Namespace
    config: Path | None
    profile: str | None
    json: bool
    debug: bool


def parse(command: Command, words: Sequence[str]) -> Parsed:
    """Take the words behind a command apart.

    Raises:
        SettingsError: an unknown flag (with the nearest name), a secret as a flag, a missing or surplus value.
    """
    _refuse_secrets(words)
    flags = {flag.flag: flag for flag in setting_flags()}
    parser = _parser(command, flags)
    known, left = parser.parse_known_args(_joined_numbers(words, flags))
    unknown = [word.split("=", 1)[0] for word in left if word.startswith("-")]
    if unknown:
        choices = [*flags, *COMMON, *(option.flag for option in command.options)]
        raise SettingsError("; ".join(_unknown(word, choices, command) for word in unknown))
    if left:
        raise SettingsError(
            f"ts4s {command.name}: unexpected {listed(repr(word) for word in left)}: settings are given as --GROUP.SETTING VALUE"
        )
    values = vars(known)
    settings: dict[str, Any] = {}
    for flag in flags.values():
        if flag.flag in values:
            target = settings.setdefault(flag.group, {}) if flag.group else settings
            target[flag.name] = values.pop(flag.flag)
    config = values.pop("config", None)
    return Parsed(
        settings=settings,
        config=None if config is None else Path(config),
        profile=values.pop("profile", None),
        json=values.pop("json", False),
        debug=values.pop("debug", False),
        options=argparse.Namespace(**values),
    )


def _joined_numbers(words: Sequence[str], flags: dict[str, SettingFlag]) -> list[str]:
    """``--x -1e-3`` as ``--x=-1e-3``: argparse takes a negative number with an exponent for a flag."""
    joined: list[str] = []
    for word in words:
        if joined and joined[-1] in flags and _NEGATIVE.match(word):
            joined[-1] += f"={word}"
        else:
            joined.append(word)
    return joined


def _parser(command: Command, flags: dict[str, SettingFlag]) -> _Parser:
    parser = _Parser(prog=f"ts4s {command.name}", add_help=False, allow_abbrev=False, argument_default=argparse.SUPPRESS)
    for name in ("--config", "--profile"):
        parser.add_argument(name)
    for name in ("--json", "--debug"):
        parser.add_argument(name, action="store_true")
    for flag in flags.values():
        if flag.repeat:
            parser.add_argument(flag.flag, dest=flag.flag, action="append")
        elif flag.switch:
            parser.add_argument(flag.flag, dest=flag.flag, nargs="?", const="true")
        else:
            parser.add_argument(flag.flag, dest=flag.flag)
    for option in command.options:
        if option.switch:
            parser.add_argument(option.flag, action="store_true", default=False)
        else:
            action = "append" if option.repeat else "store"
            parser.add_argument(option.flag, dest=option.dest, action=action, required=option.required, default=None)
    for argument in command.arguments:
        parser.add_argument(argument.name, nargs="?" if argument.optional else None, default=None)
    return parser


def _refuse_secrets(words: Sequence[str]) -> None:
    secrets = {f"--{group}.{name}": f"{ENV_PREFIX}{group}__{name}".upper() for group, name in sorted(SECRET_FIELDS)}
    given = [word.split("=", 1)[0] for word in words]
    problems = [
        f"{flag} is a secret and refused as a flag, because anybody on the machine can read process arguments: "
        f"set {variable} in the environment, or {flag[2:]} in the --config file"
        for flag, variable in secrets.items()
        if flag in given
    ]
    if problems:
        raise SettingsError("; ".join(problems))


def _unknown(word: str, choices: list[str], command: Command) -> str:
    bare = word.lstrip("-").replace("-", "_")
    near = [choice for choice in choices if choice.rpartition(".")[2].lstrip("-") == bare]
    near = near or difflib.get_close_matches(word, choices, n=2, cutoff=0.6)
    remedy = f"did you mean {' or '.join(near)}?" if near else f"see ts4s {command.name} --help"
    return f"unknown flag {word}: {remedy}"
