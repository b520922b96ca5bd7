"""The page around the sections of a report."""

from __future__ import annotations

import re
from collections.abc import Sequence

from markupsafe import Markup

from ts4s_core.evaluation.report.elements import joined

#: Control and direction characters, and halves of surrogate pairs: none of them may change how the page reads.
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def page(name: str, trained: str, created: str, sections: Sequence[tuple[str, str, Markup]]) -> str:
    """An HTML document of (anchor, title, body) sections."""
    links = joined(*(Markup('<a href="#{}">{}</a>').format(anchor, title) for anchor, title, _body in sections))
    bodies = joined(
        *(Markup('<section id="{}"><h2>{}</h2>{}</section>').format(anchor, title, body) for anchor, title, body in sections)
    )
    filled = _PAGE.format(name=name, trained=trained, created=created, style=_STYLE, links=links, bodies=bodies)
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", filled)


_PAGE = Markup(
    '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{name}: report</title>'
    '<meta name="viewport" content="width=device-width, initial-scale=1">'
    "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; img-src data:\">"
    "<style>{style}</style></head><body><header><h1>{name}</h1>"
    "<p>{trained}<br>{created}</p></header><nav>{links}</nav><main>{bodies}</main></body></html>\n"
)
_STYLE = Markup("""
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
""")
