"""Which settings each flow and each single step uses, and in which order a form, help or a report shows them.

A flow that trains has those of its kinds of task (:mod:`ts4s_core.task_kinds`), a step that runs alone those of them that it
names here; the others have theirs here. A setting that is not used is accepted and has no effect: one file and one environment
serve all commands.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from ts4s_core.settings.network_sizes import TRANSFORMER_SIZES
from ts4s_core.settings.root import Settings
from ts4s_core.task_kinds.kind import TaskKind, load
from ts4s_core.task_kinds.registry import TASK_KINDS, TASK_NAMES, kind_of, kind_of_flow, kinds_of_flow
from ts4s_core.task_kinds.shared_settings import PLACES, STORE

#: What tells the kinds of a flow apart.
TASK_SETTING = "model.task"
_PREDICT_FIRST = ("data.source", "data.format", "data.text_column", "data.id_column", "train.threads_per_worker")
_PREDICT_REST = (
    "name",
    "data.query",
    "data.options",
    "data.csv_escape",
    "data.csv_escape_unquoted",
    "data.show_text",
    "train.timeout_s",
    *PLACES,
)
_ALWAYS = ("name", "reuse", *STORE)
_ON_SPARK = ("spark", "train.threads_per_worker", "train.timeout_s")
_BASE_MODEL = (
    *("model.source", "model.tokenizer", "model.max_length", "model.architecture"),
    *(f"model.{size}" for size in TRANSFORMER_SIZES),
    *("data.window", "train.seed"),
)
_NETWORK = tuple(
    f"model.{name}"
    for name in ("embedding_size", "context", "cell", "tie_word_embeddings", "word_vectors", "freeze_word_vectors")
)
#: What each step that runs alone uses of the settings of its kind of task; a group's name stands for the whole group.
STEPS: dict[str, tuple[str, ...]] = {
    "export": _BASE_MODEL,
    "import": (
        *_BASE_MODEL,
        *_NETWORK,
        *("model.classes", "model.dropout", "model.attention_dropout", "model.freeze_encoder"),
        *("model.lora_rank", "model.lora_alpha"),
    ),
    "prepare": (
        *_BASE_MODEL,
        *_NETWORK,
        *("data", "model.classes", "model.tokenizer_kind", "model.vocabulary_size"),
        *_ON_SPARK,
    ),
    # A language model that is trained from scratch has a schedule of its own: source and architecture say whether it is.
    "train": ("model.source", "model.architecture", "model.class_weights", "train", *_ON_SPARK),
    "evaluate": ("evaluate", "data.show_text", "generate.prompt", "generate.prompt_file", *_ON_SPARK),
    "plan": ("model", "data.window", "train"),
}


@dataclass(frozen=True)
class FlowSettings:
    """Names of the settings of a flow or a step, ``GROUP.SETTING`` or that of the root.

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


def tasks_of(flow: str) -> tuple[str, ...]:
    """The kinds of task that a flow trains, its default first; every kind for what is no flow that trains."""
    return tuple(kind.name for kind in kinds_of_flow(flow)) or TASK_NAMES


@functools.cache
def flow_settings(flow: str) -> FlowSettings:
    """The settings that any kind of task of a flow or a step uses; ``model.task`` too, if there are several.

    Args:
        flow: the flow, or the step that runs alone; empty: every setting is used.
    """
    if not flow:
        return FlowSettings((), tuple(_expanded(Settings.model_fields)))
    if flow == "predict":
        return FlowSettings(_PREDICT_FIRST, tuple(_expanded(_PREDICT_REST)))
    if flow == "watch":  # it hands the data's settings on to the retraining that it starts
        of_retrain = flow_settings("retrain")
        data = [name for name in of_retrain.names if name.startswith("data.")]
        return FlowSettings(tuple(data[:2]), ("name", *data[2:], *STORE))
    kinds = [kind_of(task) for task in tasks_of(flow)]
    used = dict.fromkeys(name for kind in kinds for name in settings_of_kind(kind, step=flow))
    first = tuple(dict.fromkeys(name for kind in kinds for name in kind.first_settings if name in used))
    task = (TASK_SETTING,) if len(kinds) > 1 else ()
    return FlowSettings(first, (*task, *(name for name in used if name not in first)))


@functools.cache
def settings_of_kind(kind: TaskKind, *, step: str = "") -> tuple[str, ...]:
    """Names of all settings that a kind of task uses, in the order of display; of a step of :data:`STEPS` its own alone."""
    every = dict.fromkeys((*kind.first_settings, *_expanded(kind.settings)))
    own = set(_expanded((*_ALWAYS, *STEPS[step]))) if step in STEPS else every
    return tuple(name for name in every if name in own)


def settings_that_apply(flow: str, task: str | None, *, groups: Collection[str] | None = None) -> Collection[str]:
    """Names of the settings that a run uses.

    Args:
        flow: the flow, or the step that runs alone; empty: every setting.
        task: ``model.task``, where it was given.
        groups: of these groups alone, and of the root; None: of every group.

    Raises:
        SettingsError: the flow does not train this kind of task.
    """
    used: Collection[str] = flow_settings(flow).names
    if flow in STEPS:
        used = {TASK_SETTING, *settings_of_kind(kind_of(task or TASK_NAMES[0]), step=flow)}
    elif kinds_of_flow(flow):
        used = {TASK_SETTING, *settings_of_kind(kind_of_flow(flow, task))}
    return used if groups is None else {name for name in used if name.rpartition(".")[0] in ("", *groups)}


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
    return completed(Settings(model={"task": kind_of_flow(flow).name})) if kinds_of_flow(flow) else Settings()


def value_of(settings: Settings, name: str) -> Any:
    """The value of a setting by its name."""
    group, _, member = name.rpartition(".")
    return getattr(getattr(settings, group) if group else settings, member)


def shown_settings(settings: Settings, kind: TaskKind, *, step: str = "") -> dict[str, Any]:
    """The settings that a kind of task uses, by name in the order of display, as JSON values without secrets: for its report.

    Args:
        settings: of the run.
        kind: of its task.
        step: a step that ran alone; empty: the whole flow.
    """
    plain, shown = settings.plain(), {}
    for name in settings_of_kind(kind, step=step):
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
