"""Pictures for Prefect's UI: the loss of a training, the confusion of an evaluation. Drawn without matplotlib's global state."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ts4s_core.shown_text import line

#: With more classes than this a matrix cannot be read.
MOST_CLASSES = 25
_BLUE, _ORANGE = "#2f6fbb", "#d9822b"


def loss_picture(curves: Sequence[Mapping[str, float]]) -> bytes:
    """Training and validation loss over steps, as PNG.

    Args:
        curves: one row a step, with ``step``, ``loss`` and, where it was measured, ``validation_loss``.
    """

    def draw(figure: Any) -> None:
        axes = figure.add_subplot()
        for name, label, colour in (("loss", "training", _BLUE), ("validation_loss", "validation", _ORANGE)):
            points = [(row["step"], row[name]) for row in curves if "step" in row and name in row]
            if points:
                axes.plot(
                    *zip(*points, strict=True), label=label, color=colour, marker="" if len(points) > 40 else "o", markersize=3
                )
        axes.set_xlabel("step")
        axes.set_ylabel("loss")
        axes.grid(visible=True, alpha=0.3)
        axes.legend(frameon=False)

    return _png(draw, width=6.4, height=3.6)


def confusion_picture(labels: Sequence[str], matrix: Sequence[Sequence[int]]) -> bytes:
    """A confusion matrix (rows are true), as PNG; shaded by share of the row."""
    size = max(3.2, 0.55 * len(labels) + 1.6)

    def draw(figure: Any) -> None:
        axes = figure.add_subplot()
        shares = [[count / max(sum(row), 1) for count in row] for row in matrix]
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        for at, row in enumerate(matrix):
            for column, count in enumerate(row):
                dark = shares[at][column] > 0.5
                axes.text(column, at, str(count), ha="center", va="center", color="white" if dark else "black", fontsize=8)
        names = [line(label) for label in labels]  # as they are: nothing in them is a formula to be set
        axes.set_xticks(range(len(names)), names, rotation=45, ha="right", fontsize=8, parse_math=False)
        axes.set_yticks(range(len(names)), names, fontsize=8, parse_math=False)
        axes.set_xlabel("answered")
        axes.set_ylabel("true label")

    return _png(draw, width=size, height=size)


def _png(draw: Callable[[Any], None], *, width: float, height: float) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained", dpi=110)
    FigureCanvasAgg(figure)
    draw(figure)
    out = io.BytesIO()
    figure.savefig(out, format="png")
    return out.getvalue()
