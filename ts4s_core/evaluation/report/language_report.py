"""The report of a language model: the same page as a classifier's, with the sections that text has."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from ts4s_core.evaluation.report import data_sections as of_data
from ts4s_core.evaluation.report import model_sections as of_model
from ts4s_core.evaluation.report.data import ReportData
from ts4s_core.evaluation.report.elements import Cell, entry, facts, joined, note, quotation, table
from ts4s_core.evaluation.report.page import page
from ts4s_core.evaluation.scoring.next_tokens import NextTokens
from ts4s_core.language.word_vectors import Neighbours

CONTEXT_CHARS = 300


def render_language_report(data: ReportData, contexts: Sequence[NextTokens], near: Sequence[Neighbours]) -> str:
    """The whole report as one HTML document."""
    return page(
        data.name,
        data.trained,
        data.created,
        [
            ("summary", "Summary", _summary(data)),
            ("champion", "Comparison with the champion", of_model.champion(data)),
            ("next", "Likeliest next tokens", _next_tokens(contexts)),
            ("words", "Nearest words", _neighbours(near)),
            ("lineage", "What was trained on what", of_data.lineage(data)),
            ("data", "Data card", of_data.figures(data.card)),
            ("training", "Training", of_data.training(data)),
            ("steps", "Time per step of the flow", of_data.steps(data)),
            ("settings", "Settings", of_data.settings(data)),
        ],
    )


def _summary(data: ReportData) -> Markup:
    metrics = data.metrics
    tiles = facts(
        [
            ("bits per byte", metrics["bits_per_byte"]),
            ("perplexity", metrics["perplexity"]),
            ("loss (nats a token)", metrics["loss"]),
            ("next-token accuracy", metrics["next_token_accuracy"]),
            ("bits per byte of token frequencies", metrics["baseline"]["bits_per_byte"]),
            ("held-out blocks", metrics["blocks"]),
            ("held-out tokens", metrics["tokens"]),
            ("held-out bytes", metrics["bytes"]),
        ]
    )
    return joined(
        of_model.verdict_of(data),
        tiles,
        note("Bits per byte count every byte of the held-out text, so that models with different tokenizers can be compared."),
    )


def _next_tokens(contexts: Sequence[NextTokens]) -> Markup:
    if not contexts:
        return note("No contexts: texts are kept out of this report. Give generate.prompt to see what may follow it.")
    parts = []
    for each in contexts:
        shown = each.context if len(each.context) <= CONTEXT_CHARS else f"... {each.context[-CONTEXT_CHARS:]}"
        actual = "" if each.actual is None else note(f"came next in the text: {_quoted(each.actual)}")
        rows: list[Sequence[Cell]] = [(_quoted(found.text), found.probability) for found in each.candidates]
        parts.append(entry(quotation(shown), actual, table(["next token", "probability"], rows)))
    return joined(*parts)


def _neighbours(near: Sequence[Neighbours]) -> Markup:
    rows = [(entry.word, ", ".join(f"{word} ({cosine:.2f})" for word, cosine in entry.nearest) or None) for entry in near]
    return joined(
        table(["word", "nearest by the model's vectors (cosine)"], rows, empty="no word has a vector of its own"),
        note("word_vectors.txt and word_vectors.parquet have every token's vector."),
    )


def _quoted(token: str) -> str:
    """A token so that its white space can be seen."""
    return "“" + token.replace("\n", "↵").replace("\t", "⇥").replace(" ", "·") + "”"
