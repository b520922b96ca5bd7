from __future__ import annotations

import ast
import dataclasses
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from ts4s_core.evaluation import report
from ts4s_core.evaluation.figures.drift import Sample, drift
from ts4s_core.evaluation.figures.metrics import measure
from ts4s_core.evaluation.figures.paired_gain import Gain
from ts4s_core.evaluation.gate.decision import Evidence, decide
from ts4s_core.evaluation.report.data import Mistake, ReportData
from ts4s_core.evaluation.report.elements import number, table, text
from ts4s_core.evaluation.report.language_report import render_language_report
from ts4s_core.evaluation.report.render import render
from ts4s_core.evaluation.scoring.next_tokens import Candidate, NextTokens
from ts4s_core.evaluation.scoring.predictions import Predictions
from ts4s_core.language.word_vectors import Neighbours
from ts4s_core.training.facts import TrainedFacts

CHAMPION = "trained/demo/20261121T041500.123456Z-1a2b3c4d"
EVIL = "<script>alert(1)</script> & \"x\" '東京' \x00\u202e $\\frac{1}{2}$"
LENGTHS = {
    "mean": 8.5,
    "median": 8,
    "p95": 15,
    "max": 16,
    "histogram": [{"from": 1, "to": 8, "rows": 30}, {"from": 9, "to": 16, "rows": 60}],
}
SECTIONS = [
    "summary",
    "champion",
    "lineage",
    "data",
    "training",
    "steps",
    "classes",
    "confusion",
    "calibration",
    "mistakes",
    "settings",
]


def answers(classes: int = 3, *, rows: int = 90, multi_label: bool = False) -> Predictions:
    random = np.random.default_rng(0)
    truth = np.eye(classes, dtype=bool)[random.integers(0, classes, rows)]
    logits = (truth * 2 + random.normal(0, 1, truth.shape)).astype(np.float32)
    return Predictions(np.arange(rows).astype(">u8").view("S8").astype("S16"), truth, logits, multi_label)


def bare(classes: int = 3, *, multi_label: bool = False) -> ReportData:
    """A first version with nothing recorded beside it."""
    labels = [f"label {place}" for place in range(classes)]
    metrics = measure(answers(classes, multi_label=multi_label), labels)
    evidence = Evidence("accuracy", metrics["accuracy"], metrics["baseline"]["accuracy"], labels=labels)
    decision = decide(evidence, champion=None, min_improvement=0.0)
    return ReportData(name="demo", trained=CHAMPION, metrics=metrics, labels=labels, decision=decision)


def full() -> ReportData:
    data = bare()
    labels = [EVIL, "b", "c"]
    sample = Sample(["one two"] * 40, [("a",)] * 40)
    evidence = Evidence(
        metric="accuracy",
        candidate=0.9,
        baseline=0.4,
        gain=Gain(0.9, 0.85, 0.05, 0.01, 0.09, 80),
        labels=labels,
        champion_labels=labels,
        drift_figures=drift(sample, sample),
        removed=10,
    )
    return dataclasses.replace(
        data,
        name=EVIL,
        labels=labels,
        metrics=measure(answers(), labels),
        decision=decide(evidence, champion=CHAMPION, min_improvement=0.02),
        lineage=[("trained", CHAMPION, "2026-11-21"), (EVIL, EVIL, EVIL)],
        card={
            "sides": {"train": 700, "test": 90},
            "labels": {"train": {EVIL: 250, "b": 200, "c": 250}, "test": {EVIL: 50, "c": 42}},
            "lengths": {"all": LENGTHS},
            "duplicates": 4,
            "fingerprint": EVIL,
        },
        novelty={"texts": 700, "new": 70, "whole": True},
        curves=[{"step": step, "loss": 1 / step, "learning_rate": 1e-4, "memory": 700.0 + step / 10} for step in range(1, 2_000)],
        training=TrainedFacts(steps=2_000, tokens_per_s=1512.34, weights_sha256="ab"),
        step_seconds={"export": 3.0, "train": 61.5},
        mistakes=[Mistake("ab", EVIL, EVIL, "b", 0.987), Mistake("cd", None, "b", "c", 0.9)],
        settings={"name": EVIL, "train": {"workers": 0, "conf": ["a=b"]}, "model": {"tokenizer": None}},
    )


class Reader(HTMLParser):
    """Open tags must be closed, in order; notes tags, attributes and text."""

    VOID = {"meta", "br", "path", "use"}

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def read(page: str) -> Reader:
    reader = Reader()
    reader.feed(page)
    reader.close()
    assert reader.open == []
    return reader


@pytest.mark.parametrize("data", [bare(), full(), bare(25), bare(101), bare(multi_label=True)])
def test_every_section_is_always_there_and_nothing_is_loaded_from_outside(data: ReportData) -> None:
    page = render(data)
    reader = read(page)
    assert [attrs["id"] for tag, attrs in reader.tags if tag == "section"] == SECTIONS
    assert not [tag for tag, _attrs in reader.tags if tag in ("script", "link", "img", "iframe", "object", "image")]
    assert "http:" not in page
    assert "https:" not in page
    assert "@import" not in page
    references = [value for _tag, attrs in reader.tags for name, value in attrs.items() if name in ("href", "src", "xlink:href")]
    assert references
    assert all(value is not None and value.startswith("#") for value in references)
    assert all(inner.startswith("#") for inner in re.findall(r"url\(([^)]*)\)", page))
    assert not [name for _tag, attrs in reader.tags for name in attrs if name.startswith("on")]


def test_what_is_missing_is_said() -> None:
    page = " ".join(read(render(bare())).words)
    for sentence in (
        "No champion yet: this is compared with the majority class alone.",
        "no upstream artifact is recorded",
        "The dataset has no card.",
        "No training figures are recorded.",
        "No curves: the training recorded no steps.",
        "No times: this report was made outside a flow.",
        "No mistake on the test side.",
        "no settings are recorded",
    ):
        assert sentence in page


def test_figures_are_shown() -> None:
    page = " ".join(read(render(full())).words)
    for shown in (
        "Promoted by the gate",
        "+0.0500",
        "+0.0100 to +0.0900",
        "rows left out (trained on)",
        "292",
        "36.9\N{NO-BREAK SPACE}%",
        "mean 8.5, median 8, p95 15, max 16.",
        "70 of 700 training texts (10.0 %) were not in the champion's dataset.",
        "1,512",
        "peak memory mib",
        "899.9",
        "(98.7 %)",
        "row cd: texts are kept out of this report",
        "train.workers",
        "a=b",
        "64.5 s until this report was written.",
    ):
        assert shown in page


def test_foreign_text_is_escaped_everywhere() -> None:
    page = render(full())
    assert "<script" not in page
    assert "\x00" not in page
    assert "\u202e" not in page
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt;") >= 10
    assert "東京" in page
    page.encode("utf-8")


def test_a_language_report_shows_tokens_and_escapes_them() -> None:
    names = ("bits_per_byte", "perplexity", "loss", "next_token_accuracy", "blocks", "tokens", "bytes")
    metrics = {**dict.fromkeys(names, 1234.5), "baseline": {"bits_per_byte": 4.5}}
    data = dataclasses.replace(full(), metrics=metrics, labels=())
    contexts = [NextTokens(EVIL, f" {EVIL}", (Candidate(" the\n", 0.25), Candidate(EVIL, 0.125)))]
    page = render_language_report(data, contexts, [Neighbours(EVIL, ((EVIL, 0.5),)), Neighbours("alone", ())])
    words = " ".join(read(page).words)
    assert "<script" not in page
    assert "\u202e" not in page
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt;") >= 8
    for shown in (
        "came next in the text: “·<script>",
        "“·the↵”",
        "0.25",
        "(0.50)",
        "\N{EN DASH}",
        "bits per byte of token frequencies",
        "4.5",
    ):
        assert shown in words


def test_only_literal_html_and_charts_are_taken_as_they_are() -> None:
    """What is formatted into ``Markup`` is escaped; what ``Markup`` is made of is not."""
    taken: dict[str, list[str]] = {}
    for path in Path(report.__path__[0]).glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "Markup":
                literal = ast.parse(ast.unparse(node.args[0]), mode="eval").body
                choices = (literal.body, literal.orelse) if isinstance(literal, ast.IfExp) else (literal,)
                if not all(isinstance(choice, ast.Constant) for choice in choices):
                    taken.setdefault(path.name, []).append(ast.unparse(node))
    assert taken == {"charts.py": ["Markup(head)", "Markup(rest.strip())"]}


def test_a_report_of_the_same_figures_is_the_same_text() -> None:
    assert render(full()) == render(full())


def test_many_classes_show_the_most_confused_pairs() -> None:
    page = " ".join(read(render(bare(25))).words)
    assert "The 20 most confused pairs" in page
    assert "101 classes are too many for a matrix" in " ".join(read(render(bare(101))).words)


@pytest.mark.parametrize(
    ("value", "shown"),
    [(1234567, "1,234,567"), (0.123456, "0.1235"), (2e-05, "2e-05"), (12345.6, "12,346"), (True, "yes"), (None, "\N{EN DASH}")],
)
def test_values_are_readable(value: float | None, shown: str) -> None:
    assert text(value) == shown


def test_number_of_what_is_not_finite_and_an_empty_table() -> None:
    assert number(float("nan")) == "nan"
    assert "nothing to show" in table(["a"], [])
