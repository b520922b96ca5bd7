"""Elements of a report's page. MarkupSafe escapes what is formatted into them; only literal HTML and charts are ``Markup``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from markupsafe import Markup

Cell = str | int | float | None


def text(value: Cell) -> str:
    """A value as people read it: numbers with thousands apart, yes and no, a dash for nothing."""
    if value is None:
        return "\N{EN DASH}"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return number(value) if isinstance(value, float) else value


def number(value: float) -> str:
    """Four significant digits, thousands apart, no exponent where it can be avoided."""
    if value != value or value in (float("inf"), float("-inf")):
        return str(value)
    if abs(value) >= 1_000:
        return f"{value:,.0f}"
    return f"{value:.4g}"


def table(header: Sequence[str], rows: Iterable[Sequence[Cell]], *, empty: str = "nothing to show") -> Markup:
    """A table that scrolls sideways by itself on a narrow screen; numbers stand right."""
    listed = [list(row) for row in rows]
    if not listed:
        return note(empty)
    heads = joined(
        *(
            Markup('<th scope="col"{}>{}</th>').format(Markup(' class="n"') if _is_number(first) else "", name)
            for name, first in zip(header, listed[0], strict=True)
        )
    )
    body = joined(*(Markup("<tr>{}</tr>").format(joined(*map(_cell, row))) for row in listed))
    return Markup('<div class="wide"><table><thead><tr>{}</tr></thead><tbody>{}</tbody></table></div>').format(heads, body)


def _is_number(value: Cell) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _cell(value: Cell) -> Markup:
    return Markup('<td class="n">{}</td>' if _is_number(value) else '<td dir="auto">{}</td>').format(text(value))


def facts(pairs: Iterable[tuple[str, Cell]]) -> Markup:
    """Named values as a list of tiles."""
    tiles = joined(*(Markup("<div><dt>{}</dt><dd>{}</dd></div>").format(name, text(value)) for name, value in pairs))
    return Markup('<dl class="tiles">{}</dl>').format(tiles)


def note(sentence: str) -> Markup:
    """A sentence in place of what is not there."""
    return Markup('<p class="note">{}</p>').format(sentence)


def paragraph(sentence: str) -> Markup:
    """A plain paragraph."""
    return Markup("<p>{}</p>").format(sentence)


def heading(title: str) -> Markup:
    """A heading within a section."""
    return Markup("<h3>{}</h3>").format(title)


def verdict(decision: str, *, why: str, good: bool) -> Markup:
    """What was decided, and why, in the colour of good or bad news."""
    return Markup('<p class="{}"><strong>{}</strong>{}</p>').format("verdict yes" if good else "verdict", decision, why)


def quotation(words: str) -> Markup:
    """A text of the data, in its own direction of writing."""
    return Markup('<blockquote dir="auto">{}</blockquote>').format(words)


def entry(*parts: str) -> Markup:
    """One of several entries of a section, set apart by a line; parts that are not ``Markup`` are escaped."""
    return Markup('<div class="mistake">{}</div>').format(joined(*parts))


def figure(chart: Markup, caption: str) -> Markup:
    """A chart of :mod:`ts4s_core.evaluation.report.charts` with its caption."""
    return Markup("<figure>{}<figcaption>{}</figcaption></figure>").format(chart, caption)


def side_by_side(*parts: str) -> Markup:
    """Parts next to one another where the screen is wide enough, else below one another."""
    return Markup('<div class="pair">{}</div>').format(joined(*parts))


def joined(*parts: str) -> Markup:
    """Parts one after the other; those that are not ``Markup`` are escaped."""
    return Markup("").join(parts)
