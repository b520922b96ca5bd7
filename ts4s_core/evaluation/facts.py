"""Facts of a report."""

from __future__ import annotations

from typing import ClassVar

from ts4s_core.artifacts.facts import Facts, JsonObject


class ReportFacts(Facts):
    """What an evaluation says of a trained version.

    Attributes:
        metrics: by name, on the test side.
        baseline: the metrics of the best constant answer, and that ``answer``.
        rows: that were scored; a language model's are blocks of text.
        decision: the gate's, as :meth:`ts4s_core.evaluation.gate.decision.Decision.to_json` gives it.
    """

    NOUN: ClassVar[str] = "report"
    REMEDY: ClassVar[str] = "Evaluate again"

    metrics: dict[str, float]
    baseline: dict[str, float | list[str]] = {}
    rows: int | None = None
    decision: JsonObject | None = None
