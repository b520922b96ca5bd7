"""What a run leaves in Prefect's UI: references as links, metrics as a table, progress as a bar and in the run's log."""

from __future__ import annotations

import base64
import logging
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote

from prefect import get_run_logger
from prefect.artifacts import (
    create_image_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)

from ts4s_core.artifacts.facts import shown
from ts4s_core.artifacts.steps import StepResult
from ts4s_core.evaluation.gate.decision import Decision
from ts4s_core.pipeline.run import Run
from ts4s_core.progress import Value, as_line
from ts4s_core.shown_text import line, markdown
from ts4s_core.task_kinds.registry import METRICS

UPDATE_EVERY_S = 3.0
LOG_EVERY_S = 10.0
logger = logging.getLogger(__name__)


def artifact_key(kind: str, name: str) -> str:
    """A key as Prefect takes it: lowercase letters, digits, dashes; the same for every version, so that the UI has a history."""
    return "".join(char if char.isascii() and char.isalnum() else "-" for char in f"{kind}-{name}".lower()).strip("-")


def show_version(run: Run, result: StepResult) -> None:
    """Show which version a step made or found, and what the manifest says of it."""
    ref = result.ref
    rows = [
        {"fact": name, "value": str(value)[:200]} for name, value in shown(result).items() if not isinstance(value, dict | list)
    ]
    lines = [
        f"`{ref}` {'was there already' if result.reused else f'made in {result.seconds:.1f} s'}",
        "",
        f"[{ref}](<{quote(f'{run.store.storage.uri}/{ref}', safe=':/')}>)",
    ]
    if rows:
        lines += ["", "| fact | value |", "| --- | --- |"]
        lines += [f"| {markdown(row['fact'])} | {markdown(row['value'])} |" for row in rows]
    show_page(ref.kind, ref.name, "\n".join(lines), description=str(ref))
    get_run_logger().info("%s %s", ref, "was there already" if result.reused else f"made in {result.seconds:.1f} s")


def show_page(kind: str, name: str, text: str, *, description: str) -> None:
    """Show markdown."""
    _leave(lambda: create_markdown_artifact(text, key=artifact_key(kind, name), description=description))


def show_table(kind: str, name: str, rows: list[dict[str, Any]], *, description: str) -> None:
    """Show a table."""
    cells = [{line(name): line(value) if isinstance(value, str) else value for name, value in row.items()} for row in rows]
    _leave(lambda: create_table_artifact(cells, key=artifact_key(kind, name), description=description))


def show_picture(kind: str, name: str, png: bytes, *, description: str) -> None:
    """Show a picture; it is part of the artifact itself, because a store's address is nothing that a browser can open."""
    address = f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}"
    _leave(lambda: create_image_artifact(address, key=artifact_key(kind, name), description=description))


def _leave(create: Callable[[], object]) -> None:
    """What cannot be shown, because the server is away, must not end the work that it shows."""
    try:
        create()
    except Exception as exc:
        logger.warning("something could not be shown in Prefect: %s", exc)


def decision_page(text: str, decision: Decision) -> str:
    """The gate's decision with the scores that it came from, as markdown; its text is a person's, perhaps."""
    figures = decision.figures
    metric = str(figures.get("metric", ""))
    gain = figures.get("gain")
    rows = [("candidate", gain["candidate"] if gain else figures.get("candidate"))]
    if gain:
        rows.append((f"champion {decision.champion}", gain["champion"]))
    rows.append(("best constant answer", figures.get("baseline")))
    head = METRICS[metric].shown if metric in METRICS else markdown(metric)
    lines = [f"**{markdown(text)}**", "", f"| | {head} |", "| --- | --- |"]
    lines += [f"| {markdown(who)} | {score:.4g} |" for who, score in rows if isinstance(score, int | float)]
    if gain:
        lines += [
            "",
            f"Gain {gain['gain']:.4g} (95 % interval {gain['low']:.4g} to {gain['high']:.4g}) on {gain['rows']:,} rows.",
        ]
    return "\n".join(lines)


@contextmanager
def showing_progress(run: Run, stage: str) -> Iterator[None]:
    """Keep a progress bar and the run's log up to date while a step runs."""
    with run.listening(_Bar(stage, run.settings.name)):
        yield


class _Bar:
    """Passes the events of one stage on, at most one each few seconds."""

    def __init__(self, stage: str, name: str) -> None:
        self._stage = stage
        self._key = artifact_key(f"{stage}-progress", name)
        self._artifact: uuid.UUID | None = None
        self._updated = self._logged = -LOG_EVERY_S
        self._log = get_run_logger()

    def __call__(self, stage: str, fields: Mapping[str, Value]) -> None:
        if stage != self._stage:
            return
        step, steps, now = fields.get("step"), fields.get("steps"), time.monotonic()
        news, last = as_line(stage, fields), step is not None and step == steps
        if last or now - self._logged >= LOG_EVERY_S:
            self._logged = now
            self._log.info("%s", news)
        counted = isinstance(step, int | float) and isinstance(steps, int | float) and steps > 0
        if counted and (last or now - self._updated >= UPDATE_EVERY_S):
            self._updated = now
            self._update(100 * float(step) / float(steps), news)  # type: ignore[arg-type]

    def _update(self, percent: float, news: str) -> None:
        try:
            if self._artifact is None:
                self._artifact = create_progress_artifact(percent, key=self._key, description=news)  # type: ignore[assignment]
            else:
                update_progress_artifact(self._artifact, percent, description=news)
        except Exception as exc:  # a bar that cannot be drawn must not end the training that it shows
            logger.info("progress could not be shown in Prefect: %s", exc)
