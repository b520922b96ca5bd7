"""Results on standard output: a readable table, or one JSON object on the last line."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any, TextIO

from flows.cli.command import Outcome


def write(outcome: Outcome, *, as_json: bool, stream: TextIO) -> None:
    """Print what a command gave back."""
    if as_json:
        stream.write(json.dumps(_finite(outcome.values), ensure_ascii=False, allow_nan=False) + "\n")
    elif outcome.text is not None:
        stream.write(outcome.text.rstrip("\n") + "\n" if outcome.text else "")
    else:
        stream.write("\n".join(table(outcome.values)) + "\n")
    stream.flush()


def table(values: Mapping[str, Any]) -> Iterator[str]:
    """``metrics.accuracy  0.934``: one line a value, nested names joined by points."""
    rows = list(_rows("", values))
    width = max((len(name) for name, _ in rows), default=0)
    for name, value in rows:
        yield f"{name:<{width}}  {value}".rstrip()


def columns(heads: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """A table with a head line."""
    lines = [heads, *rows]
    widths = [max(len(line[at]) for line in lines) for at in range(len(heads))]
    return "\n".join("  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines)


def in_bytes(count: int) -> str:
    """``1.4 GiB``: a size as a person reads it."""
    size, units = float(count), ["B", "KiB", "MiB", "GiB", "TiB"]
    while size >= 1024 and len(units) > 1:
        size, units = size / 1024, units[1:]
    return f"{count} B" if units[0] == "B" else f"{size:.1f} {units[0]}"


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
