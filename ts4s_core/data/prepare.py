"""From scanned rows to the dataset artifact: tokenised, split into sides, in one canonical order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from ts4s_core.artifacts.steps import StepResult, run_step
from ts4s_core.artifacts.store import ArtifactStore
from ts4s_core.artifacts.versions.keys import step_key
from ts4s_core.artifacts.writer import ArtifactWriter
from ts4s_core.data.card import GroupCounts, card_of, count_group, merge_counts
from ts4s_core.data.data_engine import GROUP_COLUMN, DataEngine
from ts4s_core.data.facts import LabelledFacts
from ts4s_core.data.formats.rows import Tally
from ts4s_core.data.scan import Scan, Selection, fingerprint_of
from ts4s_core.data.schema import ROWS_PER_FILE, buckets_for, side_schema
from ts4s_core.data.side_files import SideGroups, add_bad_rows, register_files, stage_tables
from ts4s_core.data.sides import SIDES, SidePlan, row_digest, text_id
from ts4s_core.data.sources import DataSource, Split
from ts4s_core.data.tokenizers import (
    StoredTokenizer,
    load_tokenizer,
    pad_id_of,
    tokenize,
    tokenizer_sha256,
)
from ts4s_core.errors import DataError
from ts4s_core.progress import Progress, silent
from ts4s_core.settings import Settings, StorageSettings

#: Where the code of this step begins, for its key.
ENTRIES = (__name__,)
BATCH_ROWS = 1_024
BATCH_CHARS = 8 * 2**20
_LabelsAndText = tuple[tuple[str, ...], str]


@dataclass(frozen=True)
class _Tokenizing:
    """How rows become tokens."""

    stored: StoredTokenizer
    max_length: int
    fallback_id: int


@dataclass(frozen=True)
class _ReadRows:
    """Rows of a split, tokenised, each with its group; runs anywhere."""

    source: DataSource
    side_plan: SidePlan
    groups: SideGroups
    labels: tuple[str, ...]
    selection: Selection | None
    tokenizing: _Tokenizing

    def __call__(self, split: Split) -> Iterator[pa.RecordBatch]:
        tokenizer = self.tokenizing.stored.shared(max_length=self.tokenizing.max_length)
        index = {label: number for number, label in enumerate(self.labels)}
        multi_label = self.source.columns.multi_label
        schema = _shuffle_schema(multi_label)
        for rows in _batches(self._selected(split)):
            tokens = tokenize(tokenizer, [text for _, text in rows], fallback_id=self.tokenizing.fallback_id)
            try:
                labels = [[index[label] for label in names] for names, _ in rows]
            except KeyError as exc:
                raise _changed() from exc
            ids = [text_id(text) for _, text in rows]
            columns = {
                GROUP_COLUMN: [
                    self.groups.group_of(self.side_plan.side_of(text), row_id)
                    for (_, text), row_id in zip(rows, ids, strict=True)
                ],
                "id": ids,
                "label": labels if multi_label else [numbers[0] for numbers in labels],
                "input_ids": [row.ids for row in tokens],
                "length": [len(row.ids) for row in tokens],
                "text": [text for _, text in rows],
                "truncated": [row.truncated for row in tokens],
            }
            yield pa.RecordBatch.from_pydict(columns, schema=schema)

    def _selected(self, split: Split) -> Iterator[_LabelsAndText]:
        last = self.selection.last if self.selection else None
        for row in self.source.read(split, Tally()):
            if last is None or row_digest(row.labels, row.text) <= last:
                yield row.labels, row.text


def _batches(rows: Iterator[_LabelsAndText]) -> Iterator[list[_LabelsAndText]]:
    batch: list[_LabelsAndText] = []
    chars = 0
    for row in rows:
        batch.append(row)
        chars += len(row[1])
        if len(batch) == BATCH_ROWS or chars > BATCH_CHARS:
            yield batch
            batch, chars = [], 0
    if batch:
        yield batch


def _shuffle_schema(multi_label: bool) -> pa.Schema:
    schema = side_schema(multi_label=multi_label)
    return schema.insert(0, pa.field(GROUP_COLUMN, pa.int32())).append(pa.field("truncated", pa.bool_()))


@dataclass(frozen=True)
class _WriteGroup:
    """Put the rows of a group in order and write them as a file; runs anywhere."""

    storage: StorageSettings
    ref: str
    groups: SideGroups
    labels: tuple[str, ...]
    multi_label: bool
    selection: Selection | None

    def __call__(self, group: int, table: pa.Table) -> dict[str, Any]:
        ids, labels = table.column("id").to_pylist(), table.column("label").to_pylist()
        order = sorted(range(len(ids)), key=lambda row: (ids[row], labels[row]))
        table = table.take(pa.array(order, pa.int64()))
        names = [tuple(self.labels[number] for number in ([cell] if isinstance(cell, int) else cell)) for cell in labels]
        texts = table.column("text").to_pylist()
        digests = [row_digest(names[row], text) for row, text in zip(order, texts, strict=True)]
        table, digests = self._without_extra_copies(table, digests)
        side, number = self.groups.place(group)
        counts = count_group(table, digests, self.labels)
        return {"side": side, "files": self._write(table, f"{side}/{number:05}"), "counts": counts.to_json()}

    def _without_extra_copies(self, table: pa.Table, digests: list[bytes]) -> tuple[pa.Table, list[bytes]]:
        if self.selection is None:
            return table, digests
        last, left, kept = self.selection.last, self.selection.copies, []
        for row, digest in enumerate(digests):
            if digest == last:
                left -= 1
            if digest != last or left >= 0:
                kept.append(row)
        return table.take(pa.array(kept, pa.int64())), [digests[row] for row in kept]

    def _write(self, table: pa.Table, stem: str) -> list[dict[str, Any]]:
        schema = side_schema(multi_label=self.multi_label)
        rows = table.select(schema.names).cast(schema)
        tables = []
        for piece, start in enumerate(range(0, rows.num_rows, ROWS_PER_FILE)):
            # More than one piece only where very many copies of one text fall into one range.
            name = f"{stem}.parquet" if piece == 0 else f"{stem}_{piece:05}.parquet"
            tables.append((name, rows.slice(start, ROWS_PER_FILE)))
        return stage_tables(self.storage, self.ref, tables)


def prepare_dataset(
    settings: Settings,
    store: ArtifactStore,
    engine: DataEngine,
    *,
    scan: Scan,
    tokenizer_folder: Path,
    upstream: Mapping[str, object] | None = None,
    progress: Progress = silent,
) -> StepResult:
    """Write the dataset artifact of scanned data, or find the one that was written before.

    Args:
        settings: name, reuse, model.max_length and the data settings.
        store: where it goes.
        engine: where the rows are read and written.
        scan: what :func:`ts4s_core.data.scan.scan` found; read again now, and refused if the rows changed meanwhile.
        tokenizer_folder: folder with ``tokenizer.json``; its files become part of the artifact.
        upstream: artifacts that the manifest names, e.g. the one that the tokenizer is from.
        progress: called with the number of rows at the start and at the end.

    Raises:
        SettingsError: if ``model.max_length`` leaves no room for text.
        SourceError: if the tokenizer or the data cannot be read.
        DataError: if the data changed since the scan.
    """
    load_tokenizer(tokenizer_folder, max_length=settings.model.max_length)
    tokenizer_hash = tokenizer_sha256(tokenizer_folder)
    plan = scan.side_plan
    key = step_key(
        "dataset",
        entries=ENTRIES,
        inputs={"rows": scan.fingerprint, "tokenizer": tokenizer_hash},
        settings={
            "max_length": settings.model.max_length,
            "task": settings.model.task,
            "seed": plan.seed,
            "validation_fraction": plan.validation_fraction,
            "test_fraction": plan.test_fraction,
        },
    )

    progress("prepare", {"rows": scan.rows, "labels": len(scan.labels), "bad_rows": scan.bad_rows})
    plain = settings.plain()
    result = run_step(
        store,
        kind="dataset",
        name=settings.name,
        key=key,
        settings={"data": plain["data"], "model": {name: plain["model"][name] for name in ("max_length", "task")}},
        upstream=upstream or {},
        reuse=settings.reuse,
        build=lambda writer: _build(writer, settings, store, engine, scan=scan, tokenizer_folder=tokenizer_folder),
    )
    progress("prepare", {"written": 0 if result.reused else scan.rows, "seconds": round(result.seconds, 2)})
    return result


def _build(
    writer: ArtifactWriter, settings: Settings, store: ArtifactStore, engine: DataEngine, *, scan: Scan, tokenizer_folder: Path
) -> None:
    groups = SideGroups(tuple(buckets_for(scan.sides[name], scan.text_bytes[name]) for name in SIDES))
    multi_label = scan.source.columns.multi_label
    pad_id, max_length = pad_id_of(tokenizer_folder), settings.model.max_length
    source = scan.source.without_splits()
    tokenizing = _Tokenizing(StoredTokenizer.read(tokenizer_folder), max_length, pad_id)
    results = engine.regroup(
        scan.source.splits,
        _ReadRows(source, scan.side_plan, groups, scan.labels, scan.selection, tokenizing),
        groups=groups.groups,
        write=_WriteGroup(store.storage.settings, str(writer.ref), groups, scan.labels, multi_label, scan.selection),
        stage="prepare",
    )
    by_side = _register(writer, results)
    total = merge_counts(by_side.values())
    if fingerprint_of(total.rows, total.content) != scan.fingerprint:
        raise _changed()
    writer.add_folder(tokenizer_folder, "tokenizer")
    writer.add_json("labels.json", list(scan.labels))
    card = card_of(scan, by_side, max_length=max_length)
    # How many blank lines there were does not make another dataset.
    writer.add_json("card.json", card, identity=False)
    add_bad_rows(writer, bad_rows=scan.bad_rows, listed=scan.bad)
    facts = LabelledFacts(
        rows=dict(scan.sides),
        labels=scan.labels,
        fingerprint=scan.fingerprint,
        task=settings.model.task,
        max_length=max_length,
        pad_id=pad_id,
        duplicates=total.duplicates,
        conflicting_texts=total.conflicting_texts,
        truncated=total.truncated,
        blank_lines=scan.blank_lines,
        bad_rows=scan.bad_rows,
        tokens=card["tokens"],
        tokenizer_sha256=tokenizer_sha256(tokenizer_folder),
    )
    writer.facts = facts.to_json()


def _register(writer: ArtifactWriter, results: Sequence[Mapping[str, Any]]) -> dict[str, GroupCounts]:
    by_side = {name: GroupCounts() for name in SIDES}
    for result in results:
        register_files(writer, result["files"])
        by_side[result["side"]].merge(GroupCounts.from_json(result["counts"]))
    return by_side


def _changed() -> DataError:
    return DataError("The data changed while they were read: expected the rows of the first reading. Start again when they rest")
