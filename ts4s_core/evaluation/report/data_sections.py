"""Sections of the report that are about what went in: lineage, data, training, time, settings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from ts4s_core.evaluation.report import charts
from ts4s_core.evaluation.report.elements import (
    facts,
    figure,
    heading,
    joined,
    note,
    number,
    paragraph,
    side_by_side,
    table,
)

if TYPE_CHECKING:
    from ts4s_core.evaluation.report.data import ReportData

MOST_LABELS = 50
_WIDEST_BAR_REM = 12
#: Columns of a training's metrics stream, with the axis and the caption of their charts.
_CURVES = {
    "learning_rate": ("learning rate", "Learning rate by step."),
    "tokens_per_s": ("tokens per s", "Throughput in tokens a second, by step."),
    "memory": ("MiB", "Memory of the largest worker in MiB, by step."),
}


def lineage(data: ReportData) -> Markup:
    """Every artifact that this version comes from."""
    return table(["what", "artifact", "made"], data.lineage, empty="no upstream artifact is recorded")


def card(data: ReportData) -> Markup:
    """Rows, labels, lengths, duplicates and bad rows of the dataset, and what is new in it."""
    found = data.card
    if not found:
        return joined(note("The dataset has no card."), _novelty(data))
    return joined(figures(found), side_by_side(_label_table(found), _lengths(found)), _novelty(data))


def figures(found: Mapping[str, Any]) -> Markup:
    """Numbers as tiles, words below them: hashes are too long for a tile."""
    words = [note(f"{name.replace('_', ' ')}: {value}") for name, value in found.items() if isinstance(value, str)]
    return joined(facts(_counts(found)), *words)


def _counts(found: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Every single number, those of small tables included."""
    for name, value in found.items():
        if name in ("labels", "lengths"):
            continue
        if isinstance(value, int | float):
            yield name.replace("_", " "), value
        elif isinstance(value, Mapping):
            for part, inner in value.items():
                if isinstance(inner, int | float):
                    yield f"{name.replace('_', ' ')}, {part}", inner


def _label_table(found: Mapping[str, Any]) -> Markup:
    counts: Counter[str] = Counter()
    for side in (found.get("labels") or {}).values():
        counts.update(side)
    if not counts:
        return note("No label counts are recorded.")
    most, whole = max(max(counts.values()), 1), max(sum(counts.values()), 1)
    shown = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:MOST_LABELS]
    rows = [(name, count, f"{100 * count / whole:.1f}\N{NO-BREAK SPACE}%", _bar(count / most)) for name, count in shown]
    rest = note(f"The {MOST_LABELS} most frequent of {len(counts):,} labels.") if len(counts) > MOST_LABELS else ""
    return joined(table(["label", "rows", "share", ""], rows), rest)


def _bar(share: float) -> Markup:
    return Markup('<span class="bar" style="width:{:.2f}rem"></span>').format(_WIDEST_BAR_REM * share)


def _lengths(found: Mapping[str, Any]) -> Markup:
    lengths = (found.get("lengths") or {}).get("all")
    if not lengths:
        return note("No lengths are recorded.")
    bins = lengths["histogram"]
    edges = [bins[0]["from"] - 1, *(entry["to"] for entry in bins)]
    counts = [entry["rows"] for entry in bins]
    chart = charts.bars(edges, counts, x="tokens", y="rows", alt="Histogram of the texts' lengths in tokens")
    figures = ", ".join(f"{name} {number(lengths[name])}" for name in ("mean", "median", "p95", "max"))
    return figure(chart, f"Length of the texts in tokens, after truncation: {figures}.")


def _novelty(data: ReportData) -> Markup:
    title = heading("New since the champion was trained")
    if data.novelty is None:
        return joined(title, note("No champion yet, or its dataset is no longer in the store."))
    fresh, looked_at = data.novelty["new"], data.novelty["texts"]
    about = "" if data.novelty["whole"] else ", in a sample by the texts' hash"
    share = 100 * fresh / max(looked_at, 1)
    sentence = f"{fresh:,} of {looked_at:,} training texts ({share:.1f} %) were not in the champion's dataset{about}."
    return joined(title, paragraph(sentence))


def training(data: ReportData) -> Markup:
    """Loss and learning-rate curves, throughput, padding and memory."""
    memory = [row["memory"] for row in data.curves if "memory" in row]
    peak = {"peak_memory_mib": max(memory)} if memory else {}
    shown = figures({**data.training.shown(), **peak}) if data.training else note("No training figures are recorded.")
    return joined(shown, _curves(data.curves))


def _curves(rows: Sequence[Mapping[str, float]]) -> Markup:
    losses = {
        name: points
        for name, column in (("training loss", "loss"), ("validation loss", "validation_loss"))
        if (points := _column(rows, column))[0]
    }
    if not losses:
        return note("No curves: the training recorded no steps.")
    charts_of = [figure(charts.lines(losses, x="step", y="loss (nats)", alt="Loss by step"), "Loss by step.")]
    for column, (axis, caption) in _CURVES.items():
        points = _column(rows, column)
        if points[0]:
            charts_of.append(figure(charts.lines({axis: points}, x="step", y=axis, alt=caption.rstrip(".")), caption))
    return side_by_side(*charts_of)


def _column(rows: Sequence[Mapping[str, float]], name: str) -> charts.Points:
    pairs = [(row["step"], row[name]) for row in rows if name in row and "step" in row]
    return [x for x, _y in pairs], [y for _x, y in pairs]


def steps(data: ReportData) -> Markup:
    """How long each step of the flow took."""
    if not data.step_seconds:
        return note("No times: this report was made outside a flow.")
    chart = charts.durations(data.step_seconds, alt="Seconds by step of the flow")
    total = sum(data.step_seconds.values())
    return figure(
        chart, f"{total:,.1f} s until this report was written. A step that was found done counts the time of finding it."
    )


def settings(data: ReportData) -> Markup:
    """The settings that the run's kind of task uses; secrets are not among them."""
    rows = [(name, _shown(value)) for name, value in _flat(data.settings)]
    return table(["setting", "value"], rows, empty="no settings are recorded")


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "none"
    return "" if value is None else str(value)
