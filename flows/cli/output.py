"""Results on standard output: a readable table, or one JSON object on the last line."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, TextIO

from flows.cli.command import Outcome
from ts4s_core.shown_text import for_encoding, json_line, line, lines


def write(outcome: Outcome, *, as_json: bool, stream: TextIO) -> None:
    """Print the result of a command."""
    if as_json:
        stream.write(json_line(_finite(outcome.values), stream.encoding) + "\n")
    elif outcome.text is None:
        write_text("\n".join(table(outcome.values)) + "\n", stream)
    elif outcome.text:
        write_text(outcome.text.rstrip("\n") + "\n", stream)
    stream.flush()


def write_text(text: str, stream: TextIO) -> None:
    """Write text that is laid out already: control characters, and characters that the stream cannot encode, are escaped."""
    stream.write(for_encoding(lines(text), stream.encoding))


def table(values: Mapping[str, Any]) -> Iterator[str]:
    """``metrics.accuracy  0.934``: one line a value, nested names joined by points."""
    rows = [(line(name), line(value)) for name, value in _rows("", values)]
    width = max((len(name) for name, _ in rows), default=0)
    for name, value in rows:
        yield f"{name:<{width}}  {value}".rstrip()


def columns(heads: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """A table with a head line."""
    cells = [[line(cell) for cell in row] for row in (heads, *rows)]
    widths = [max(len(row[at]) for row in cells) for at in range(len(heads))]
    return "\n".join("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells)


def in_bytes(count: int) -> str:
    """``1.4 GiB``: a size as a person reads it."""
    from pydantic import ByteSize

    return ByteSize(count).human_readable(separator=" ")


def shown(value: object) -> str:
    """One value as a person reads it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1e6 else f"{value:,.0f}"
    return "-" if value is None else str(value)


def _rows(prefix: str, values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _rows(f"{prefix}{name}.", value)
        elif isinstance(value, list | tuple):
            yield prefix + name, ", ".join(shown(item) for item in value) or "-"
        else:
            yield prefix + name, shown(value)


def _finite(value: Any) -> Any:
    """JSON has no NaN: such numbers become null."""
    if isinstance(value, Mapping):
        return {str(name): _finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
