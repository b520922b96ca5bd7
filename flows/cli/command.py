"""A command of the command line: its name, options, input and result."""

from __future__ import annotations

import importlib
from argparse import Namespace
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TextIO

from ts4s_core.settings import Settings

if TYPE_CHECKING:
    from flows.cli.display import Display


@dataclass(frozen=True)
class Invocation:
    """The input of a command's function.

    Attributes:
        settings: all of them.
        options: the command's own flags and arguments.
        display: shows progress on standard error.
        stream: where text may be written as it is generated, before the result; None: only the result is printed (``--json``).
    """

    settings: Settings
    options: Namespace
    display: Display
    stream: TextIO | None = None


@dataclass(frozen=True)
class Outcome:
    """The result of a command's function.

    Attributes:
        values: the result: printed as a table, or with ``--json`` as one JSON object.
        text: what is printed instead of the table.
        exit_code: 0, or 1 where the result itself is bad news (``models verify``).
    """

    values: Mapping[str, Any]
    text: str | None = None
    exit_code: int = 0


@dataclass(frozen=True)
class Option:
    """A flag of one command that is not a setting.

    Attributes:
        default: shown in help; it is that of the options that the command makes of its flags.
    """

    flag: str
    help: str
    metavar: str = "TEXT"
    repeat: bool = False
    switch: bool = False
    required: bool = False
    default: object = None

    @property
    def note(self) -> str:
        """What help says of it."""
        return self.help if self.default is None else f"{self.help}; default: {self.default}"

    @property
    def dest(self) -> str:
        """Name of its attribute in the parsed options."""
        return self.flag.lstrip("-").replace("-", "_")


@dataclass(frozen=True)
class Argument:
    """A positional argument of one command."""

    name: str
    help: str
    optional: bool = False


@dataclass(frozen=True)
class Command:
    """A command: its words, a sentence, the function ``module:name`` that does it, and the settings that it uses.

    Attributes:
        groups: groups of settings that it uses.
        flow: the flow, or the step, whose settings of these groups it uses; empty: every setting of them.
        alias: an older name of it, which stays.
    """

    name: str
    summary: str
    function: str
    groups: tuple[str, ...]
    options: tuple[Option, ...] = ()
    arguments: tuple[Argument, ...] = ()
    notes: str = ""
    flow: str = ""
    alias: str = ""

    def load(self) -> Callable[[Invocation], Outcome]:
        """Import the function: only now, so that help and refused settings import nothing heavy."""
        module, _, name = self.function.partition(":")
        function: Callable[[Invocation], Outcome] = getattr(importlib.import_module(module), name)
        return function
