"""Small pieces of HTML. Every text that enters through them is escaped; :class:`Markup` is what was escaped already."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence

_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


class Markup(str):
    """HTML that is safe as it stands."""

    __slots__ = ()


Cell = str | int | float | None
_NUMBER = ' class="n"'


def text(value: Cell) -> Markup:
    """A value as HTML: numbers in a readable form, everything else escaped, control and direction characters shown as such."""
    if isinstance(value, Markup):
        return value
    if value is None:
        return Markup("&ndash;")
    if isinstance(value, bool):
        return Markup("yes" if value else "no")
    if isinstance(value, int):
        return Markup(f"{value:,}")
    if isinstance(value, float):
        return Markup(number(value))
    return Markup(html.escape(_CONTROL.sub("\N{REPLACEMENT CHARACTER}", value), quote=True))


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
    body = "".join(f"<tr>{''.join(_cell(value) for value in row)}</tr>" for row in listed)
    heads = "".join(
        f'<th scope="col"{_NUMBER if _is_number(first) else ""}>{text(name)}</th>'
        for name, first in zip(header, listed[0], strict=True)
    )
    return Markup(f'<div class="wide"><table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div>')


def _is_number(value: Cell) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _cell(value: Cell) -> str:
    return f"<td{_NUMBER}>{text(value)}</td>" if _is_number(value) else f'<td dir="auto">{text(value)}</td>'


def facts(pairs: Iterable[tuple[str, Cell]]) -> Markup:
    """Named values as a list of tiles."""
    tiles = "".join(f"<div><dt>{text(name)}</dt><dd>{text(value)}</dd></div>" for name, value in pairs)
    return Markup(f'<dl class="tiles">{tiles}</dl>')


def note(sentence: str) -> Markup:
    """A sentence in place of what is not there."""
    return Markup(f'<p class="note">{text(sentence)}</p>')


def paragraph(sentence: str) -> Markup:
    """A plain paragraph."""
    return Markup(f"<p>{text(sentence)}</p>")


def figure(svg: str, caption: str) -> Markup:
    """A chart with its caption; ``svg`` comes from :mod:`ts4s_core.evaluation.report.charts`."""
    return Markup(f"<figure>{svg}<figcaption>{text(caption)}</figcaption></figure>")


def side_by_side(*parts: Markup) -> Markup:
    """Parts next to one another where the screen is wide enough, else below one another."""
    return Markup(f'<div class="pair">{"".join(parts)}</div>')


def joined(*parts: Markup) -> Markup:
    """Parts one after the other."""
    return Markup("".join(parts))
