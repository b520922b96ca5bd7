"""What a report shows, gathered before it is rendered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ts4s_core.evaluation.gate.decision import Decision
from ts4s_core.training.facts import TrainedFacts


@dataclass(frozen=True)
class Mistake:
    """A wrong answer. ``text`` is None where texts are kept out of reports."""

    id: str
    text: str | None
    label: str
    predicted: str
    confidence: float


@dataclass(frozen=True)
class ReportData:
    """Everything a report shows, as plain values.

    Attributes:
        name: the model's name in the registry.
        trained: reference of the version that was evaluated.
        metrics: what :func:`ts4s_core.evaluation.figures.metrics.measure` gave for it.
        labels: label names in the order of the classes.
        decision: what the gate said.
        lineage: (role, reference, created) of every artifact the version comes from, itself first.
        card: the dataset's card.
        novelty: how many training texts the champion's dataset did not have; None without a champion.
        curves: the rows of the training's metrics stream, numbers by column name.
        training: facts of the training step.
        step_seconds: seconds by step of the flow, in order.
        mistakes: the most confident wrong answers, most confident first.
        settings: the settings that the run's kind of task uses, by name, without secrets.
        created: UTC time of the report.
    """

    name: str
    trained: str
    metrics: Mapping[str, Any]
    labels: Sequence[str]
    decision: Decision
    lineage: Sequence[tuple[str, str, str]] = ()
    card: Mapping[str, Any] = field(default_factory=dict)
    novelty: Mapping[str, Any] | None = None
    curves: Sequence[Mapping[str, float]] = ()
    training: TrainedFacts | None = None
    step_seconds: Mapping[str, float] = field(default_factory=dict)
    mistakes: Sequence[Mistake] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    created: str = ""
