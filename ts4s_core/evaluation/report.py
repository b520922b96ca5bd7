"""The report of a run: one HTML file that needs nothing from outside, no script included.

Every section is always there; one that has nothing to show says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ts4s_core.evaluation.gate import Decision
from ts4s_core.evaluation.html import Markup, text


@dataclass(frozen=True)
class Mistake:
    """A wrong answer. ``text`` is None where texts are kept out of reports."""

    id: str
    text: str | None
    label: str
    predicted: str
    confidence: float


@dataclass(frozen=True)
class ReportData:
    """Everything a report shows, as plain values.

    Attributes:
        name: the model's name in the registry.
        trained: reference of the version that was evaluated.
        metrics: what :func:`ts4s_core.evaluation.metrics.measure` gave for it.
        labels: label names in the order of the classes.
        decision: what the gate said.
        lineage: (role, reference, created) of every artifact the version comes from, itself first.
        card: the dataset's card.
        novelty: how many training texts the champion's dataset did not have; None without a champion.
        curves: the rows of the training's metrics stream, numbers by column name.
        training: facts of the training step.
        step_seconds: seconds by step of the flow, in order.
        mistakes: the most confident wrong answers, most confident first.
        settings: the run's settings, without secrets.
        created: UTC time of the report.
    """

    name: str
    trained: str
    metrics: Mapping[str, Any]
    labels: Sequence[str]
    decision: Decision
    lineage: Sequence[tuple[str, str, str]] = ()
    card: Mapping[str, Any] = field(default_factory=dict)
    novelty: Mapping[str, Any] | None = None
    curves: Sequence[Mapping[str, float]] = ()
    training: Mapping[str, Any] = field(default_factory=dict)
    step_seconds: Mapping[str, float] = field(default_factory=dict)
    mistakes: Sequence[Mistake] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    created: str = ""


def render(data: ReportData) -> str:
    """The whole report as one HTML document."""
    from ts4s_core.evaluation import report_data_sections as of_data
    from ts4s_core.evaluation import report_model_sections as of_model

    sections: list[tuple[str, str, Markup]] = [
        ("summary", "Summary", of_model.summary(data)),
        ("champion", "Comparison with the champion", of_model.champion(data)),
        ("lineage", "What was trained on what", of_data.lineage(data)),
        ("data", "Data card", of_data.card(data)),
        ("training", "Training", of_data.training(data)),
        ("steps", "Time per step of the flow", of_data.steps(data)),
        ("classes", "Per class", of_model.classes(data)),
        ("confusion", "Confusion matrix", of_model.confusion(data)),
        ("calibration", "Calibration", of_model.calibration(data)),
        ("mistakes", "Most confident mistakes", of_model.mistakes(data)),
        ("settings", "Settings", of_data.settings(data)),
    ]
    return page(data.name, data.trained, data.created, sections)


def page(name: str, trained: str, created: str, sections: Sequence[tuple[str, str, Markup]]) -> str:
    """An HTML document of (anchor, title, body) sections."""
    links = "".join(f'<a href="#{anchor}">{title}</a>' for anchor, title, _body in sections)
    bodies = "".join(f'<section id="{anchor}"><h2>{title}</h2>{body}</section>' for anchor, title, body in sections)
    title = text(f"{name}: report")
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; img-src data:\">"
        f"<style>{_STYLE}</style></head><body><header><h1>{text(name)}</h1>"
        f"<p>{text(trained)}<br>{text(created)}</p></header><nav>{links}</nav><main>{bodies}</main></body></html>\n"
    )


_STYLE = """
:root{color-scheme:light;--ink:#1d2329;--soft:#5b6570;--line:#dfe4e9;--blue:#2f6db3;--good:#1d7a46;--bad:#a8320f}
*{box-sizing:border-box}
body{margin:0;font:16px/1.5 system-ui,sans-serif;color:var(--ink);background:#f4f6f8;-webkit-text-size-adjust:100%}
header,nav,main{max-width:68rem;margin:0 auto;padding:0 1rem}
header{padding-top:1.5rem}
h1{margin:0;font-size:1.8rem;overflow-wrap:anywhere}
h2{margin:0 0 .8rem;font-size:1.2rem}
p{overflow-wrap:anywhere}
h3{margin:1.2rem 0 .4rem;font-size:1rem}
header p{margin:.2rem 0 1rem;color:var(--soft);font-size:.9rem;overflow-wrap:anywhere}
nav{display:flex;flex-wrap:wrap;gap:.3rem .9rem;font-size:.9rem;padding-bottom:1rem}
nav a{color:var(--blue)}
section{background:#fff;border:1px solid var(--line);border-radius:.5rem;padding:1.1rem 1.2rem;margin-bottom:1rem}
.verdict{border-left:.3rem solid var(--bad);padding:.5rem .9rem;margin:0 0 1rem;background:#fbf3f0;overflow-wrap:anywhere}
.verdict.yes{border-color:var(--good);background:#f0f8f3}
.verdict strong{display:block}
.tiles{display:grid;grid-template-columns:repeat(auto-fill,minmax(9.5rem,1fr));gap:.6rem;margin:0 0 .8rem}
.tiles div{border:1px solid var(--line);border-radius:.4rem;padding:.45rem .7rem;min-width:0}
dt{color:var(--soft);font-size:.82rem}
dd{margin:0;font-size:1.1rem;font-weight:600;overflow-wrap:anywhere;font-variant-numeric:tabular-nums}
.wide{overflow-x:auto;margin-bottom:.6rem}
table{border-collapse:collapse;font-size:.9rem;font-variant-numeric:tabular-nums}
th,td{padding:.3rem .7rem;border-bottom:1px solid var(--line);text-align:left;vertical-align:top}
th{color:var(--soft);font-weight:600;white-space:nowrap}
td{overflow-wrap:break-word;max-width:38rem}
td.n,th.n{text-align:right;white-space:nowrap}
.matrix td{text-align:center;min-width:3.2rem;border:1px solid #fff}
.matrix tbody th{text-align:right;font-weight:400;color:var(--ink)}
.bar{display:inline-block;height:.7rem;background:var(--blue);border-radius:.15rem;min-width:1px;vertical-align:baseline}
.note,figcaption{color:var(--soft);font-size:.88rem}
.note{overflow-wrap:anywhere;margin:.2rem 0 .6rem}
figure{margin:0 0 .6rem;min-width:0}
figure svg{display:block;width:100%;max-width:38rem;height:auto}
.pair{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,24rem),1fr));gap:1rem}
blockquote{margin:.2rem 0 0;white-space:pre-wrap;overflow-wrap:anywhere;font-size:.9rem}
.mistake{border-top:1px solid var(--line);padding:.6rem 0;overflow-wrap:anywhere}
@media(max-width:32rem){section{padding:.9rem .8rem}header,nav,main{padding-left:.6rem;padding-right:.6rem}
th,td{padding:.3rem .45rem}}
@media print{body{background:#fff}nav{display:none}section{break-inside:avoid}}
"""
