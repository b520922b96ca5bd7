"""Every kind of task. To add one, write its file, and name it here."""

from __future__ import annotations

from ts4s_core.errors import InputError, SettingsError
from ts4s_core.task_kinds.classification import CLASSIFICATION
from ts4s_core.task_kinds.kind import TaskKind
from ts4s_core.task_kinds.language_model import LANGUAGE_MODEL
from ts4s_core.task_kinds.metrics import Metric
from ts4s_core.task_kinds.multi_label import MULTI_LABEL

#: By name; the first is the default of ``model.task``.
TASK_KINDS: dict[str, TaskKind] = {kind.name: kind for kind in (CLASSIFICATION, MULTI_LABEL, LANGUAGE_MODEL)}
TASK_NAMES: tuple[str, ...] = tuple(TASK_KINDS)
#: Every metric by name.
METRICS: dict[str, Metric] = {metric.name: metric for kind in TASK_KINDS.values() for metric in kind.metrics}


def kind_of(task: str) -> TaskKind:
    """The kind of task with this name.

    Raises:
        InputError: if there is none.
    """
    kind = TASK_KINDS.get(task)
    if kind is None:
        raise InputError(f"Task {task!r} is not known: expected {', '.join(TASK_NAMES)}")
    return kind


def kinds_of_flow(flow: str) -> tuple[TaskKind, ...]:
    """The kinds that a flow trains, its default first."""
    return tuple(kind for kind in TASK_KINDS.values() if kind.flow == flow)


def kind_of_flow(flow: str, task: str | None = None) -> TaskKind:
    """The kind that a flow trains where ``model.task`` says so; its default, where nothing is said.

    Raises:
        SettingsError: another flow trains it.
    """
    if task is None:
        return kinds_of_flow(flow)[0]
    kind = kind_of(task)
    if kind.flow != flow:
        raise SettingsError(f"model.task {task} does not go with ts4s {flow}: leave it out, or use ts4s {kind.flow}")
    return kind
