"""Facts of a dataset version."""

from __future__ import annotations

from typing import ClassVar

from ts4s_core.artifacts.facts import Facts, Record


class DatasetFacts(Facts):
    """Facts that every dataset version has.

    Attributes:
        rows: by side; a language model's are blocks of text.
        labels: their names in the order of the label numbers.
        fingerprint: hash of the rows' content.
        task: what the labels are for.
        max_length: tokens that texts were cut to.
        pad_id: token id that batches are filled up with.
        windows: by side, where text is cut into them.
        duplicates: rows that repeat an earlier one.
        bad_rows: rows that were left out.
    """

    NOUN: ClassVar[str] = "dataset"
    REMEDY: ClassVar[str] = "Prepare it again"

    rows: dict[str, int] = {}
    labels: tuple[str, ...]
    fingerprint: str
    task: str
    max_length: int
    pad_id: int
    windows: dict[str, int] = {}
    duplicates: int | None = None
    bad_rows: int | None = None


class LabelledFacts(DatasetFacts):
    """Further facts of a dataset of labelled texts.

    Attributes:
        conflicting_texts: texts that have different labels.
        truncated: texts that were cut.
        blank_lines: lines that were skipped.
        tokens: of all texts.
        tokenizer_sha256: over the tokenizer's files.
    """

    conflicting_texts: int
    truncated: int
    blank_lines: int
    tokens: int
    tokenizer_sha256: str


class ScanFacts(Record):
    """Facts of a scan of the data, before anything is written.

    Attributes:
        rows: in all; of running text, its blocks.
        labels: their names, alphabetically.
        sides: rows of each side.
        bad_rows: rows that are left out.
        fingerprint: hash of the rows' content.
        label_rows: rows of each label by side.
        blank_lines: lines that are skipped.
        bytes: of running text by side.
        lines: of running text.
    """

    rows: int
    labels: tuple[str, ...]
    sides: dict[str, int]
    bad_rows: int
    fingerprint: str
    label_rows: dict[str, dict[str, int]] | None = None
    blank_lines: int | None = None
    bytes: dict[str, int] | None = None
    lines: int | None = None
