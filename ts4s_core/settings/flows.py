"""Which settings each flow uses, and in which order a form, help or a report shows them.

A flow that trains has those of its kinds of task (:mod:`ts4s_core.task_kinds`); the others have theirs here. A setting that
a flow does not use is accepted and has no effect: one file and one environment serve all commands.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from ts4s_core.settings.root import Settings
from ts4s_core.task_kinds.kind import TaskKind, load
from ts4s_core.task_kinds.registry import TASK_KINDS, kind_of, kind_of_flow, kinds_of_flow
from ts4s_core.task_kinds.shared_settings import PLACES, STORE

#: What tells the kinds of a flow apart.
TASK_SETTING = "model.task"
_PREDICT_FIRST = ("data.source", "data.format", "data.text_column", "data.id_column", "train.threads_per_worker")
_PREDICT_REST = ("name", "data.csv_escape", "data.csv_escape_unquoted", "data.show_text", "train.timeout_s", *PLACES)


@dataclass(frozen=True)
class FlowSettings:
    """Names of the settings of a flow, ``GROUP.SETTING`` or that of the root.

    Attributes:
        first: those that people change first.
        rest: all others, group by group.
    """

    first: tuple[str, ...]
    rest: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """All of them, in the order of display."""
        return (*self.first, *self.rest)

    def of_group(self, group: str, *, first: bool) -> tuple[str, ...]:
        """The settings of one group among the first ones, or among the rest."""
        names = self.first if first else self.rest
        return tuple(name.partition(".")[2] for name in names if name.startswith(f"{group}."))


#: The flows that use settings, in the order of the table of settings.
FLOWS = (*dict.fromkeys(kind.flow for kind in TASK_KINDS.values()), "predict", "watch")


@functools.cache
def flow_settings(flow: str) -> FlowSettings:
    """The settings that any kind of task of a flow uses; ``model.task`` too, if the flow trains several."""
    if flow == "predict":
        return FlowSettings(_PREDICT_FIRST, tuple(_expanded(_PREDICT_REST)))
    if flow == "watch":  # it hands the data's settings on to the retraining that it starts
        of_retrain = flow_settings("retrain")
        data = [name for name in of_retrain.names if name.startswith("data.")]
        return FlowSettings(tuple(data[:2]), ("name", *data[2:], *STORE))
    kinds = kinds_of_flow(flow)
    first = tuple(dict.fromkeys(name for kind in kinds for name in kind.first_settings))
    task = (TASK_SETTING,) if len(kinds) > 1 else ()
    rest = dict.fromkeys((*task, *(name for kind in kinds for name in settings_of_kind(kind))))
    return FlowSettings(first, tuple(name for name in rest if name not in first))


@functools.cache
def settings_of_kind(kind: TaskKind) -> tuple[str, ...]:
    """Names of all settings that a kind of task uses, in the order of display."""
    return tuple(dict.fromkeys((*kind.first_settings, *_expanded(kind.settings))))


def settings_that_apply(flow: str, task: str | None) -> Collection[str]:
    """Names of the settings that a run uses.

    Args:
        flow: the flow.
        task: ``model.task``, where it was given.

    Raises:
        SettingsError: the flow does not train this kind of task.
    """
    if flow in {kind.flow for kind in TASK_KINDS.values()}:
        return {TASK_SETTING, *settings_of_kind(kind_of_flow(flow, task))}
    return flow_settings(flow).names


def restricted_to(settings: Settings, names: Collection[str]) -> Settings:
    """The settings with every other one at its default, as if it had not been given."""
    changes: dict[str, Any] = {}
    for name, field in Settings.model_fields.items():
        value = getattr(settings, name)
        members = getattr(field.annotation, "model_fields", None)
        if members is not None:
            kept = {member for member in value.model_fields_set if f"{name}.{member}" in names}
            changes[name] = type(value)(**{member: getattr(value, member) for member in kept})
        elif name not in names:
            changes[name] = field.default
    return settings.model_copy(update=changes)


def completed(settings: Settings) -> Settings:
    """The settings with the defaults of their kind of task where nothing was set.

    Raises:
        SettingsError: something was set that the kind does not have.
    """
    facet = kind_of(settings.model.task).completed
    if facet is None:
        return settings
    filled: Settings = load(facet)(settings)
    return filled


@functools.cache
def defaults_of(flow: str) -> Settings:
    """What a flow uses where nothing is given."""
    if flow not in {kind.flow for kind in TASK_KINDS.values()}:
        return Settings()
    return completed(Settings(model={"task": kind_of_flow(flow).name}))


def value_of(settings: Settings, name: str) -> Any:
    """The value of a setting by its name."""
    group, _, member = name.rpartition(".")
    return getattr(getattr(settings, group) if group else settings, member)


def shown_settings(settings: Settings, kind: TaskKind) -> dict[str, Any]:
    """The settings that a kind of task uses, by name in the order of display, as JSON values without secrets: for its report."""
    plain, shown = settings.plain(), {}
    for name in settings_of_kind(kind):
        group, _, member = name.rpartition(".")
        values = plain[group] if group else plain
        if member in values:
            shown[name] = values[member]
    return shown


def _expanded(entries: Iterable[str]) -> Iterator[str]:
    """A group's name stands for all settings of the group."""
    for entry in entries:
        field = Settings.model_fields.get(entry)
        members = None if field is None else getattr(field.annotation, "model_fields", None)
        yield from (entry,) if members is None else (f"{entry}.{member}" for member in members)
