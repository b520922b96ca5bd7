"""Progress of a step, as events that any front end can show."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ts4s_core.shown_text import line

Value = str | int | float | None
#: ``progress("train", {"step": 12, "steps": 30, "loss": 0.693, "tokens_per_s": 810})``
Progress = Callable[[str, Mapping[str, Value]], None]


def silent(stage: str, fields: Mapping[str, Value]) -> None:
    """Show nothing."""


def as_line(stage: str, fields: Mapping[str, Value]) -> str:
    """``train step=12/30 loss=0.693 tokens_per_s=810``: one event as one line of text."""
    parts = [stage]
    for name, value in fields.items():
        if value is None or (name.endswith("s") and name[:-1] in fields):
            continue  # a total is shown behind its count
        shown = f"{value:.4g}" if isinstance(value, float) else str(value)
        total = fields.get(f"{name}s")
        parts.append(f"{name}={shown}" if total is None else f"{name}={shown}/{total}")
    return line(" ".join(parts))
