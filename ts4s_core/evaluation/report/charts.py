"""The report's charts as inline SVG, drawn by matplotlib without its global state.

A chart holds numbers and our own words only: names and texts of the data stand in HTML, where every script has a font.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

BLUE, ORANGE, GREY = "#2f6db3", "#c8641a", "#8a94a0"
MOST_POINTS = 800
_STYLE: Any = {
    "svg.fonttype": "path",  # no font of the reader's machine changes the layout
    "svg.hashsalt": "ts4s",  # the same figures give the same bytes
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e3e7eb",
    "axes.edgecolor": "#8a94a0",
    "xtick.color": "#47505a",
    "ytick.color": "#47505a",
}
Points = tuple[Sequence[float], Sequence[float]]


def lines(series: Mapping[str, Points], *, x: str, y: str, alt: str) -> Markup:
    """Line chart of named (x, y) series; long ones are thinned to 800 points.

    Args:
        series: values by the legend's name, in the order to draw.
        x: name of the horizontal axis.
        y: name of the vertical axis.
        alt: what the chart shows, for a reader that cannot see it.
    """

    def draw(axes: Any) -> None:
        for (name, (xs, ys)), colour in zip(series.items(), (BLUE, ORANGE, GREY), strict=False):
            step = max(1, len(xs) // MOST_POINTS)
            marker = "o" if len(xs) <= 30 else None
            axes.plot(xs[::step], ys[::step], color=colour, label=name, linewidth=1.6, marker=marker, markersize=3.5)
        axes.set_xlabel(x)
        axes.set_ylabel(y)
        if len(series) > 1:
            axes.legend(frameon=False)

    return _svg(draw, alt=alt)


def bars(edges: Sequence[float], counts: Sequence[float], *, x: str, y: str, alt: str) -> Markup:
    """Histogram with one more edge than counts."""

    def draw(axes: Any) -> None:
        axes.stairs(counts, edges, fill=True, color=BLUE)
        axes.set_ylim(bottom=0)
        axes.set_xlabel(x)
        axes.set_ylabel(y)

    return _svg(draw, alt=alt)


def reliability(bins: Sequence[Mapping[str, Any]], *, alt: str) -> Markup:
    """Reliability diagram: how often the model is right against how sure it says it is."""
    filled = [entry for entry in bins if entry["rows"]]
    most = max((entry["rows"] for entry in filled), default=1)

    def draw(axes: Any) -> None:
        axes.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1.2, label="perfectly calibrated")
        axes.bar(
            [entry["low"] for entry in filled],
            [entry["accuracy"] for entry in filled],
            width=1 / len(bins),
            align="edge",
            color=BLUE,
            alpha=0.3,
            edgecolor="white",
        )
        sizes = [18 + 90 * entry["rows"] / most for entry in filled]
        points = [entry["confidence"] for entry in filled], [entry["accuracy"] for entry in filled]
        axes.scatter(*points, s=sizes, color=BLUE, label="this model (area: rows)", zorder=3)
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1.3)
        axes.set_yticks([0, 0.25, 0.5, 0.75, 1])
        axes.set_xlabel("stated probability")
        axes.set_ylabel("share right")
        axes.legend(frameon=False, loc="upper left", ncols=2, fontsize=9)

    return _svg(draw, alt=alt)


def durations(seconds: Mapping[str, float], *, alt: str) -> Markup:
    """Horizontal bars of the seconds that each step took, in order from the top."""
    names = list(seconds)

    def draw(axes: Any) -> None:
        drawn = axes.barh(range(len(names)), [seconds[name] for name in names], color=BLUE)
        axes.bar_label(drawn, fmt="%.1f s", padding=4)
        axes.set_yticks(range(len(names)), names)
        axes.invert_yaxis()
        axes.margins(x=0.15)
        axes.set_xlabel("seconds")
        axes.grid(visible=False, axis="y")

    return _svg(draw, alt=alt, height=0.8 + 0.42 * len(names))


def _svg(draw: Any, *, alt: str, height: float = 3.0) -> Markup:
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(5.6, height), layout="constrained")
        FigureCanvasAgg(figure)
        draw(figure.add_subplot())
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None}, transparent=True)
    return _inline(out.getvalue(), alt)


def _inline(document: str, alt: str) -> Markup:
    """The bare <svg> element that matplotlib wrote: without prolog, metadata, namespaces (HTML needs none) and fixed size."""
    svg = document[document.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    head, rest = svg.split(">", 1)
    head = re.sub(r'\s(?:xmlns(?::\w+)?|width|height|version)="[^"]*"', "", head)
    return Markup('{} role="img" aria-label="{}">{}').format(Markup(head), alt, Markup(rest.strip()))
