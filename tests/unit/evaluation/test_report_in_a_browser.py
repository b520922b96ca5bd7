"""The report on a desk and on a phone: nothing is wider than the screen, nothing is fetched, nothing is complained of."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest

from ts4s_core.evaluation.figures.drift import Sample, drift
from ts4s_core.evaluation.figures.metrics import measure
from ts4s_core.evaluation.gate.decision import Evidence, decide
from ts4s_core.evaluation.report.data import Mistake, ReportData
from ts4s_core.evaluation.report.render import render
from ts4s_core.evaluation.scoring.predictions import Predictions

_CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
VERSION = "trained/demo/20261121T041500.123456Z-1a2b3c4d"
LABELS = ["a label of several words that is long " * 2, "WithoutAnyPlaceToBreakIt" * 6, "c"]


def report() -> ReportData:
    """Long names, long texts, long hashes, many steps."""
    random = np.random.default_rng(0)
    truth = np.eye(3, dtype=bool)[random.integers(0, 3, 90)]
    logits = (truth * 2 + random.normal(0, 1, truth.shape)).astype(np.float32)
    metrics = measure(Predictions(np.arange(90).astype(">u8").view("S8").astype("S16"), truth, logits), LABELS)
    sample = Sample(["one two"] * 40, [("a",)] * 40)
    evidence = Evidence("accuracy", 0.9, 0.4, labels=LABELS, champion_labels=LABELS, drift_figures=drift(sample, sample))
    lengths = {"mean": 8.5, "median": 8, "p95": 15, "max": 16, "histogram": [{"from": 1, "to": 8, "rows": 30}]}
    return ReportData(
        name="demo",
        trained=VERSION,
        metrics=metrics,
        labels=LABELS,
        decision=decide(evidence, champion=VERSION, min_improvement=0.0),
        lineage=[("trained", VERSION, "2026-11-21"), ("dataset", VERSION, "2026-11-21")],
        card={"labels": {"train": dict.fromkeys(LABELS, 30)}, "lengths": {"all": lengths}, "fingerprint": "ab" * 64},
        curves=[{"step": step, "loss": 1 / step, "learning_rate": 1e-4, "memory": 700.0} for step in range(1, 500)],
        step_seconds={"export": 3.0, "train": 61.5},
        mistakes=[Mistake("ab", "unbroken" * 200, LABELS[0], LABELS[1], 0.987)],
        settings={"model": {"source": "/folder" * 40}},
    )


@pytest.mark.long
@pytest.mark.skipif(_CHROMIUM is None, reason="chromium is not installed: apt-get install chromium")
def test_it_fits_the_screen_and_fetches_nothing(tmp_path: Path) -> None:
    playwright_of = pytest.importorskip("playwright.sync_api")
    bare = dataclasses.replace(report(), card={}, curves=(), lineage=(), mistakes=(), settings={}, step_seconds={})
    for name, data in (("full", report()), ("bare", bare)):
        (tmp_path / f"{name}.html").write_text(render(data), encoding="utf-8")
    with playwright_of.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=_CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        try:
            for width in (1280, 390, 320):
                page = browser.new_page(viewport={"width": width, "height": 800})
                asked: list[str] = []
                said: list[str] = []
                page.on("request", lambda request, asked=asked: asked.append(request.url))
                page.on("console", lambda message, said=said: said.append(message.text))
                for name in ("full", "bare"):
                    page.goto((tmp_path / f"{name}.html").as_uri())
                    found = page.evaluate("[document.scrollingElement.scrollWidth, window.innerWidth]")
                    assert found[0] <= found[1] == width, (name, found)
                    wide = page.evaluate(
                        "[...document.querySelectorAll('section *')].filter(one => !one.closest('.wide, svg') && "
                        "one.getBoundingClientRect().right > window.innerWidth).map(one => one.outerHTML.slice(0, 80))"
                    )
                    assert wide == [], (name, width, wide)
                assert [address.rpartition("/")[2] for address in asked] == ["full.html", "bare.html"]
                assert said == []
                page.close()
        finally:
            browser.close()
