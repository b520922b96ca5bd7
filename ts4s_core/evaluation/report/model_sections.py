"""Sections of the report that are about what the model answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from ts4s_core.evaluation.report import charts
from ts4s_core.evaluation.report.elements import (
    Cell,
    entry,
    facts,
    figure,
    heading,
    joined,
    note,
    number,
    paragraph,
    quotation,
    side_by_side,
    table,
    text,
    verdict,
)
from ts4s_core.task_kinds.metrics import ACCURACY, OF_CLASSES
from ts4s_core.task_kinds.registry import METRICS

if TYPE_CHECKING:
    from ts4s_core.evaluation.report.data import Mistake, ReportData

MATRIX_LABELS = 20
PAIRS = 20
CLASS_ROWS = 200
TEXT_CHARS = 600


def verdict_of(data: ReportData) -> Markup:
    """What the gate said, and why."""
    promote = data.decision.promote
    return verdict("Promoted by the gate" if promote else "Not promoted by the gate", why=data.decision.why, good=promote)


def summary(data: ReportData) -> Markup:
    """The gate's verdict and the headline figures beside those of the best constant answer."""
    metrics, base = data.metrics, data.metrics["baseline"]
    tiles = facts([("test rows", metrics["rows"]), *((metric.shown, metrics[metric.name]) for metric in OF_CLASSES)])
    constant = facts((f"{metric.shown}, majority class", base[metric.name]) for metric in OF_CLASSES)
    answer = ", ".join(base["answer"]) or "no label"
    return joined(
        verdict_of(data),
        tiles,
        constant,
        note(f"The majority class answers “{answer}” to everything, with the label shares of the test side as probabilities."),
    )


def champion(data: ReportData) -> Markup:
    """Gain over the champion with its interval, and what can stop a promotion."""
    figures = data.decision.figures
    gain = figures.get("gain")
    if data.decision.champion is None:
        metric = METRICS.get(figures.get("metric", ""), ACCURACY)
        compared = note(f"No champion yet: this is compared with {metric.constant} alone.")
    elif gain is None:
        compared = note(f"Not compared with the champion {data.decision.champion}: {data.decision.why}.")
    else:
        name = METRICS[figures["metric"]].shown
        compared = joined(
            paragraph(f"Champion: {data.decision.champion}. Both answered the same test rows."),
            facts(
                [
                    (f"{name}, this version", gain["candidate"]),
                    (f"{name}, champion", gain["champion"]),
                    ("gain (positive is better)", f"{gain['gain']:+.4f}"),
                    ("95 % interval of the gain", f"{gain['low']:+.4f} to {gain['high']:+.4f}"),
                    ("gain asked for", figures["min_improvement"]),
                    ("rows compared", gain["rows"]),
                    ("rows left out (trained on)", figures["removed"]),
                ]
            ),
            note("Interval: paired bootstrap, 2,000 seeded resamples of the rows."),
        )
    return joined(compared, heading("What can stop a promotion"), _checks(data))


def _checks(data: ReportData) -> Markup:
    figures = data.decision.figures
    leaked = int(figures.get("leaked", 0))
    rows: list[Sequence[Any]] = [("leak: test texts in the training side", leaked, 0, "stops" if leaked else "passes")]
    changed = figures.get("changed_labels")
    if changed is not None:
        rows.append(("labels that differ from the champion's", changed, 0, "stops" if changed else "passes"))
    for name, found in (figures.get("drift_figures") or {}).items():
        shown = f"{number(found['psi'])} (noise {number(found['noise'])})"
        result = "stops" if found["beyond"] else "passes"
        rows.append((f"drift in {name}: population stability index", shown, float(found["bound"]), result))
    without = note("Labels and drift are compared with the champion's data: no champion yet.") if len(rows) == 1 else ""
    return joined(table(["check", "found", "bound", "result"], rows), without)


def classes(data: ReportData) -> Markup:
    """Precision, recall, F1 and support of each class, rarest scores first where there are too many to show."""
    rows = list(data.metrics["classes"])
    cut = len(rows) > CLASS_ROWS
    if cut:
        rows = sorted(rows, key=lambda row: row["f1"])[:CLASS_ROWS]
    shown = table(
        ["class", "precision", "recall", "F1", "rows"],
        [(row["label"], row["precision"], row["recall"], row["f1"], row["support"]) for row in rows],
    )
    rest = note(f"The {CLASS_ROWS} classes with the lowest F1; per_class.csv has all {len(data.labels):,}.") if cut else ""
    return joined(shown, rest)


def confusion(data: ReportData) -> Markup:
    """The matrix where it can be read, the most confused pairs where it cannot."""
    matrix = data.metrics["confusion"]
    if matrix is None:
        return note(
            f"{len(data.labels):,} classes are too many for a matrix here: confusion.csv has every cell that is not zero."
        )
    if matrix and isinstance(matrix[0][0], list):
        named = zip(data.labels, matrix, strict=True)
        cells: list[Sequence[Cell]] = [(name, *(int(n) for row in counts for n in row)) for name, counts in named]
        return table(["class", "rightly not", "wrongly yes", "wrongly not", "rightly yes"], cells)
    if len(data.labels) <= MATRIX_LABELS:
        return joined(
            _matrix(data.labels, matrix), note("Rows: the true label. Columns: what the model answered. Shade: share of the row.")
        )
    pairs = [
        (matrix[row][column], data.labels[row], data.labels[column])
        for row in range(len(matrix))
        for column in range(len(matrix))
        if row != column and matrix[row][column]
    ]
    pairs.sort(key=lambda pair: (-pair[0], pair[1:]))
    worst = table(["rows", "true label", "answered"], pairs[:PAIRS], empty="no row was confused")
    return joined(note(f"The {PAIRS} most confused pairs; confusion.csv has every cell that is not zero."), worst)


def _matrix(labels: Sequence[str], matrix: Sequence[Sequence[int]]) -> Markup:
    heads = joined(*(Markup('<th scope="col">{}</th>').format(name) for name in labels))
    rows = []
    for name, counts in zip(labels, matrix, strict=True):
        whole = max(sum(counts), 1)
        cells = joined(*(_shaded(count, count / whole) for count in counts))
        rows.append(Markup('<tr><th scope="row">{}</th>{}</tr>').format(name, cells))
    return Markup(
        '<div class="wide"><table class="matrix"><thead><tr><td></td>{}</tr></thead><tbody>{}</tbody></table></div>'
    ).format(heads, joined(*rows))


def _shaded(count: int, share: float) -> Markup:
    ink = "#fff" if share > 0.55 else "#1d2329"
    cell = Markup('<td style="background:rgba(47,109,179,{:.3f});color:{}">{}</td>')
    return cell.format(0.04 + 0.96 * share, ink, text(int(count)))


def calibration(data: ReportData) -> Markup:
    """Reliability diagram and expected calibration error."""
    calibrated = data.metrics["calibration"]
    chart = charts.reliability(calibrated["bins"], alt="Reliability diagram: share right by stated probability")
    filled = [entry for entry in calibrated["bins"] if entry["rows"]]
    bins = table(
        ["probability", "rows", "mean stated", "share right"],
        [
            (f"{entry['low']:.2f} to {entry['high']:.2f}", entry["rows"], entry["confidence"], entry["accuracy"])
            for entry in filled
        ],
    )
    return joined(
        facts([("expected calibration error (15 bins)", calibrated["ece"])]),
        side_by_side(figure(chart, "Bars below the dashed line: the model is surer than it should be."), bins),
    )


def mistakes(data: ReportData) -> Markup:
    """The wrong answers that the model was surest of."""
    if not data.mistakes:
        return note("No mistake on the test side.")
    return joined(*map(_mistake, data.mistakes))


def _mistake(mistake: Mistake) -> Markup:
    head = Markup("answered <b>{}</b> ({:.1f} %), is <b>{}</b>").format(
        mistake.predicted, 100 * mistake.confidence, mistake.label
    )
    if mistake.text is None:
        return entry(head, note(f"row {mistake.id}: texts are kept out of this report"))
    return entry(head, quotation(mistake.text if len(mistake.text) <= TEXT_CHARS else f"{mistake.text[:TEXT_CHARS]} ..."))
