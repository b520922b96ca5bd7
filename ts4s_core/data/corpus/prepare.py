"""From a scanned text to the dataset artifact of a language model: blocks of tokens with their windows, by side."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ts4s_core.artifacts.steps import StepResult, run_step
from ts4s_core.artifacts.store import ArtifactStore
from ts4s_core.artifacts.versions.keys import step_key
from ts4s_core.artifacts.writer import ArtifactWriter
from ts4s_core.data.corpus.corpus import Block, TextSource, TextSplit
from ts4s_core.data.corpus.facts import CorpusFacts
from ts4s_core.data.corpus.scan import DIGEST_MODULUS, TextScan, text_fingerprint
from ts4s_core.data.corpus.tokens import Encoded, TextTokenizer
from ts4s_core.data.corpus.window_starts import starts_of
from ts4s_core.data.data_engine import GROUP_COLUMN, DataEngine
from ts4s_core.data.formats.rows import Tally
from ts4s_core.data.schema import ID_BYTES, TASK, WINDOWS_FILE, blocks_per_group, text_buckets_for, text_schema
from ts4s_core.data.side_files import SideGroups, add_bad_rows, register_files, stage_tables
from ts4s_core.data.sides import SIDES, SidePlan
from ts4s_core.data.tokenizers import pad_id_of
from ts4s_core.errors import DataError
from ts4s_core.progress import Progress, silent
from ts4s_core.settings import Settings, StorageSettings

#: Where the code of this step begins, for its key.
ENTRIES = (__name__,)
#: Read at once: a batch is cut into as many pieces as there are groups, and each piece costs the same, however small.
BATCH_BYTES = 8 * 2**20
TEXTS_AT_ONCE = 256


@dataclass(frozen=True)
class TextLayout(SideGroups):
    """Which group a block belongs to, and how it is cut into windows.

    Attributes:
        window: tokens that are predicted from each start.
        stride: tokens between starts.
        rows_per_group: blocks of a row group.
    """

    window: int
    stride: int
    rows_per_group: int

    @classmethod
    def of(cls, scan: TextScan, settings: Settings) -> TextLayout:
        """The layout for the sides of a scan."""
        data = settings.data
        buckets = tuple(text_buckets_for(scan.sides[name].size) for name in SIDES)
        return cls(buckets, data.window, data.stride or data.window, blocks_per_group(scan.source.block_bytes))


@dataclass(frozen=True)
class _ReadBlocks:
    """Blocks of a split, each with its group; runs anywhere. Only text goes to the group: tokens are half as much again."""

    source: TextSource
    side_plan: SidePlan
    layout: TextLayout

    def __call__(self, split: TextSplit) -> Iterator[pa.RecordBatch]:
        for blocks in _batches(self.source.read(split, self.side_plan, Tally())):
            digests = [block.digest for block in blocks]
            groups = [self.layout.group_of(block.side, digest) for block, digest in zip(blocks, digests, strict=True)]
            yield pa.RecordBatch.from_pydict(
                {
                    GROUP_COLUMN: pa.array(groups, pa.int32()),
                    "digest": pa.array(digests, pa.binary(32)),
                    "bytes": pa.array([block.size for block in blocks], pa.int32()),
                    "text": pa.array([block.data for block in blocks], pa.binary()).view(pa.string()),
                }
            )


def _batches(blocks: Iterator[Block]) -> Iterator[list[Block]]:
    batch: list[Block] = []
    held = 0
    for block in blocks:
        batch.append(block)
        held += block.size
        if held >= BATCH_BYTES:
            yield batch
            batch, held = [], 0
    if batch:
        yield batch


def _lists(values: np.ndarray[Any, Any], lengths: np.ndarray[Any, Any]) -> pa.ListArray:
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values))


@dataclass(frozen=True)
class _WriteBlocks:
    """Put the blocks of a group in order, tokenise them and write them as a file; runs anywhere."""

    storage: StorageSettings
    ref: str
    layout: TextLayout
    tokenizer: TextTokenizer

    def __call__(self, group: int, table: pa.Table) -> dict[str, Any]:
        side, number = self.layout.place(group)
        digests = table.column("digest").to_pylist()
        order = sorted(range(len(digests)), key=digests.__getitem__)
        table = table.take(pa.array(order, pa.int64())).combine_chunks()
        ordered = [digests[row] for row in order]
        tokens = self._tokens(table.column("text"))
        starts, counts = starts_of(tokens.lengths, window=self.layout.window, stride=self.layout.stride)
        columns = {
            "id": pa.array([digest[:ID_BYTES] for digest in ordered], pa.binary(ID_BYTES)),
            "input_ids": _lists(tokens.ids, tokens.lengths),
            "length": pa.array(tokens.lengths),
            "bytes": table.column("bytes"),
            "unknown_bytes": pa.array(tokens.unknown_bytes),
            "starts": _lists(starts, counts),
            "text": table.column("text"),
        }
        rows, size = pa.table(columns).cast(text_schema()), self.layout.rows_per_group
        return {
            "side": side,
            "files": stage_tables(self.storage, self.ref, [(f"{side}/{number:05}.parquet", rows)], rows_per_group=size),
            "windows": [int(counts[at : at + size].sum()) for at in range(0, len(counts), size)],
            "rows": len(ordered),
            "content": f"{sum(int.from_bytes(digest, 'big') for digest in ordered) % DIGEST_MODULUS:x}",
            "tokens": int(tokens.lengths.sum()),
            "duplicates": len(ordered) - len(set(ordered)),
            "unknown_bytes": int(tokens.unknown_bytes.sum()),
        }

    def _tokens(self, texts: pa.ChunkedArray) -> Encoded:
        """Tokens of all texts, some at a time: what a tokenizer gives back is much larger than the tokens."""
        loaded = self.tokenizer.load()
        found = [
            self.tokenizer.encode(loaded, texts.slice(start, TEXTS_AT_ONCE).to_pylist())
            for start in range(0, len(texts), TEXTS_AT_ONCE)
        ]
        return Encoded(*(np.concatenate([getattr(each, name) for each in found]) for name in ("ids", "lengths", "unknown_bytes")))


def prepare_text(
    settings: Settings, store: ArtifactStore, engine: DataEngine, *, scan: TextScan, progress: Progress = silent
) -> StepResult:
    """Write the dataset artifact of a scanned text, or find the one that was written before.

    Args:
        settings: name, reuse and the data settings.
        store: where it goes.
        engine: where the text is read and the files are written.
        scan: what :func:`ts4s_core.data.corpus.scan.scan_text` found; read again now, and refused if the text changed meanwhile.
        progress: called with the bytes at the start and with the seconds at the end.

    Raises:
        SourceError: if the text cannot be read.
        DataError: if it changed since the scan.
    """
    layout, plan = TextLayout.of(scan, settings), scan.side_plan
    size = sum(counts.size for counts in scan.sides.values())
    key_settings = {
        "task": TASK,
        "window": layout.window,
        "stride": layout.stride,
        "block_bytes": scan.source.block_bytes,
        "by_document": scan.source.by_document,
        "seed": plan.seed,
        "validation_fraction": plan.validation_fraction,
        "test_fraction": plan.test_fraction,
        "tokenizer": {name: scan.tokenizer[name].decode("utf-8", "replace") for name in sorted(scan.tokenizer)},
    }
    progress("prepare", {"bytes": size, "blocks": sum(counts.blocks for counts in scan.sides.values())})
    result = run_step(
        store,
        kind="dataset",
        name=settings.name,
        key=step_key("dataset", entries=ENTRIES, inputs={"rows": scan.fingerprint}, settings=key_settings),
        settings={"data": settings.plain()["data"], "task": TASK},
        upstream={},
        reuse=settings.reuse,
        build=lambda writer: _build(writer, store, engine, scan=scan, layout=layout),
    )
    progress("prepare", {"written": 0 if result.reused else size, "seconds": round(result.seconds, 2)})
    return result


def _build(writer: ArtifactWriter, store: ArtifactStore, engine: DataEngine, *, scan: TextScan, layout: TextLayout) -> None:
    tokenizer = TextTokenizer.of(scan.tokenizer)
    results = engine.regroup(
        scan.source.splits,
        _ReadBlocks(scan.source.without_splits(), scan.side_plan, layout),
        groups=layout.groups,
        write=_WriteBlocks(store.storage.settings, str(writer.ref), layout, tokenizer),
        stage="prepare",
    )
    sides = {name: [result for result in results if result["side"] == name] for name in SIDES}
    content = {name: _content(groups) for name, groups in sides.items()}
    if text_fingerprint(content) != scan.fingerprint:
        raise DataError("The text changed while it was read: expected that of the first reading. Start again when it rests")
    for result in results:
        register_files(writer, result["files"])
    for name, data in scan.tokenizer.items():
        writer.add_bytes(f"tokenizer/{name}", data)
    writer.add_json(
        WINDOWS_FILE, {name: [count for group in groups for count in group["windows"]] for name, groups in sides.items()}
    )
    add_bad_rows(writer, bad_rows=scan.bad_rows, listed=scan.bad)
    card = _card(scan, sides, layout, tokenizer)
    writer.add_json("card.json", card, identity=False)
    facts = CorpusFacts(
        rows=card["sides"],
        labels=(),
        fingerprint=scan.fingerprint,
        task=TASK,
        max_length=layout.window,
        pad_id=_pad_id(scan.tokenizer),
        begin_id=tokenizer.begin_id,
        vocabulary=tokenizer.vocabulary,
        window=layout.window,
        stride=layout.stride,
        windows=card["windows"],
        tokens=card["tokens"],
        bytes=card["bytes"],
        duplicates=card["duplicates"],
        bad_rows=scan.bad_rows,
        tokenizer_trained=scan.tokenizer_trained,
    )
    writer.facts = facts.to_json()


def _content(groups: Sequence[Mapping[str, Any]]) -> tuple[int, int]:
    return sum(group["rows"] for group in groups), sum(int(group["content"], 16) for group in groups) % DIGEST_MODULUS


def _pad_id(files: Mapping[str, bytes]) -> int:
    with tempfile.TemporaryDirectory(prefix="ts4s-tokenizer-") as folder:
        for name, data in files.items():
            (Path(folder) / name).write_bytes(data)
        return pad_id_of(Path(folder))


def _card(
    scan: TextScan, sides: Mapping[str, Sequence[Mapping[str, Any]]], layout: TextLayout, tokenizer: TextTokenizer
) -> dict[str, Any]:
    """The card: what is in the dataset, in numbers."""
    return {
        "fingerprint": scan.fingerprint,
        "documents": scan.source.documents,
        "split_by": "document" if scan.source.by_document else "block",
        "block_bytes": scan.source.block_bytes,
        "sides": {name: counts.blocks for name, counts in scan.sides.items()},
        "bytes": {name: counts.size for name, counts in scan.sides.items()},
        "tokens": {name: sum(group["tokens"] for group in groups) for name, groups in sides.items()},
        "windows": {name: sum(sum(group["windows"]) for group in groups) for name, groups in sides.items()},
        "unknown_bytes": {name: sum(group["unknown_bytes"] for group in groups) for name, groups in sides.items()},
        "duplicates": sum(group["duplicates"] for groups in sides.values() for group in groups),
        "window": layout.window,
        "stride": layout.stride,
        "vocabulary": tokenizer.vocabulary,
        "lines": scan.lines,
        "blank_blocks": scan.blank_blocks,
        "bad_rows": scan.bad_rows,
    }
