"""What a kind of task is: plain facts, the settings that it uses, and the names of what other packages do for it."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ts4s_core.task_kinds.metrics import Metric

#: What the graph of a base model gives: hidden states for a head, or logits over the vocabulary.
BaseTask = Literal["encoder", "causal-lm"]
#: How many labels a row has.
Labels = Literal["none", "one", "many"]
#: What a dataset's rows are: labelled texts, or windows over running text.
DataRows = Literal["texts", "windows"]
Defaults = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True, eq=False)
class TaskKind:
    """One kind of task.

    A facet is a string ``module:name``, imported by :func:`load` only where it is used: a step reaches its own facet and no
    other, and this package imports nothing.

    Attributes:
        name: value of ``model.task``, kept in manifests and ``model.json``: a contract.
        noun: a trained model of this kind in a message, with its article.
        flow: name of the flow, and of the command, that trains it.
        labels: labels of a row.
        least_classes: the fewest classes that make sense; 0: it has none.
        rows: what the dataset's rows are.
        base: what is asked of the base model.
        use: the command that uses a trained model.
        metrics: what the gate can compare by, the default first.
        hugging_face_class: class of the ``transformers`` library that loads an exported model.
        problem_type: what that library calls the kind of labels; empty: it does not ask.
        first_settings: the settings that people change first, in the order of forms, help and report.
        settings: all others that it uses, likewise; a group's name stands for the whole group.
        defaults: by group, defaults that differ from those of the settings.
        defaults_of_new: further ones where the weights are random at first.

        run: the class of a run, :class:`ts4s_core.pipeline.training_run.TrainingRun`.
        completed: fills in defaults that depend on other settings; None: there are none.
        scan_job: reads the data completely, as a job of the Spark driver.
        prepare_job: makes the dataset, likewise.
        head: the module behind the base model; None: the base model's own output is trained.
        head_nodes: writes the head as standard ONNX nodes.
        training_rows: opens a dataset artifact for training.
        objective: what is minimised.
        class_weights: balanced weights of the classes; None: classes are not weighed.
        evaluation: the evaluation step: figures, the gate's evidence and the report's sections.
        predictions: the columns of predictions; None: rows are not predicted.
    """

    name: str
    noun: str
    flow: str
    labels: Labels
    least_classes: int
    rows: DataRows
    base: BaseTask
    use: str
    metrics: tuple[Metric, ...]
    hugging_face_class: str
    problem_type: str = ""
    first_settings: tuple[str, ...]
    settings: tuple[str, ...]
    defaults: Defaults = field(default_factory=dict)
    defaults_of_new: Defaults = field(default_factory=dict)

    run: str
    completed: str | None = None
    scan_job: str
    prepare_job: str
    head: str | None
    head_nodes: str | None
    training_rows: str
    objective: str
    class_weights: str | None = None
    evaluation: str
    predictions: str | None

    def facets(self, *names: str) -> tuple[str, ...]:
        """Those that the kind has of some facets: a step counts the code that it loads by them as its own."""
        return tuple(facet for facet in (getattr(self, name) for name in names) if facet is not None)


def load(facet: str) -> Any:
    """What a facet names, imported now."""
    module, _, name = facet.partition(":")
    return getattr(importlib.import_module(module), name)
