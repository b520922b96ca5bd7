"""What one task of a prediction does: a split of the source in, one or more files out. Runs anywhere, with bounded memory."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from ts4s_core.artifacts.parquet_writer import RowGroupWriter
from ts4s_core.artifacts.store import ArtifactStore
from ts4s_core.artifacts.versions.refs import ArtifactRef
from ts4s_core.data.tokenizers import limit_tokenizer_threads, load_tokenizer, tokenize
from ts4s_core.errors import DataError
from ts4s_core.models.model_folder import ModelFolder
from ts4s_core.models.spec import ModelSpec
from ts4s_core.prediction.options import Errors
from ts4s_core.prediction.output import Sink
from ts4s_core.prediction.result_table import Layout, error_lines, vector_lines
from ts4s_core.prediction.runners import Floats, Run, onnx_runner, run_sorted, torch_runner
from ts4s_core.prediction.source_rows import TextRow, TextSource, TextSplit
from ts4s_core.process_state import PROCESS
from ts4s_core.settings import StorageSettings

Runtime = Literal["onnxruntime", "torch"]
#: Rows that are sorted by length together, and the most characters of them.
ROWS_PER_CHUNK = 4_096
CHARS_PER_CHUNK = 4 * 2**20


@dataclass(frozen=True)
class InferenceSpec:
    """A model and how it is run. Small: every task carries it.

    Attributes:
        storage: where it is kept.
        trained: its reference.
        output: logits, or a vector a text (``mean`` of the tokens, or the ``first`` token's).
        runtime: what runs it.
        threads: threads of a task.
    """

    storage: StorageSettings
    trained: str
    output: Literal["logits", "mean", "first"]
    runtime: Runtime
    threads: int


@dataclass(frozen=True)
class LoadedModel:
    """A model in this process."""

    run: Run
    tokenizer: Any
    spec: ModelSpec

    def answers(self, rows: Sequence[TextRow]) -> tuple[list[TextRow], Floats | None]:
        """Each row, marked if the model has no row for one of its tokens or places; and values of the others, in their order."""
        marked = list(rows)
        asked = [place for place, row in enumerate(rows) if row.reason is None]
        texts = [str(rows[place].text) for place in asked]
        tokens: list[list[int]] = []
        for place, found in zip(asked, tokenize(self.tokenizer, texts, fallback_id=self.spec.pad_id), strict=True):
            largest = max(found.ids)
            if largest < self.spec.vocab_size:
                tokens.append(found.ids)
                continue
            reason = f"token {largest} of the text is unknown to the model: expected at most {self.spec.vocab_size - 1}"
            marked[place] = replace(rows[place], reason=reason)
        return self._run([*marked], tokens) if tokens else (marked, None)

    def _run(self, marked: list[TextRow], tokens: list[list[int]]) -> tuple[list[TextRow], Floats | None]:
        """The same of rows with these tokens; of a model that takes fewer than it says, texts that are too long are marked."""
        try:
            return marked, run_sorted(self.run, tokens, pad_id=self.spec.pad_id)
        except Exception:  # a library's own, of a place that its table has no row for
            longest = self._longest(tokens)
            if longest in (0, max(map(len, tokens))):
                raise
        unmarked = [place for place, row in enumerate(marked) if row.reason is None]
        for place, ids in zip(unmarked, tokens, strict=True):
            if len(ids) > longest:
                reason = f"the text has {len(ids)} tokens: the model takes at most {longest}"
                marked[place] = replace(marked[place], reason=reason)
        return marked, run_sorted(self.run, [ids for ids in tokens if len(ids) <= longest], pad_id=self.spec.pad_id)

    def _longest(self, tokens: list[list[int]]) -> int:
        """The largest number of tokens of these texts that the model runs on; 0: none."""
        by_length = {len(ids): ids for ids in tokens}
        lengths = sorted(by_length)
        runs, fails = -1, len(lengths)
        while fails - runs > 1:
            half = (runs + fails) // 2
            try:
                run_sorted(self.run, [by_length[lengths[half]]], pad_id=self.spec.pad_id)
                runs = half
            except Exception:
                fails = half
        return lengths[runs] if runs >= 0 else 0


def model_of(use: InferenceSpec) -> LoadedModel:
    """The model of a task, loaded once in a process; its weights are mapped from the verified file of this host.

    Raises:
        IntegrityError: a file is damaged.
    """
    limit_tokenizer_threads(use.threads)
    return PROCESS.get_or_make("predicting model", use, lambda: _load_model(use))


def _load_model(use: InferenceSpec) -> LoadedModel:
    opened = ModelFolder(ArtifactStore.open(use.storage).local(ArtifactRef.parse(use.trained)))
    make: Any = onnx_runner if use.runtime == "onnxruntime" else torch_runner
    run: Run = make(opened, threads=use.threads, output=use.output)
    tokenizer = load_tokenizer(opened.tokenizer_folder, max_length=opened.spec.max_length)
    return LoadedModel(run, tokenizer, opened.spec)


@dataclass(frozen=True)
class PredictSplit:
    """Predicts the rows of one split of the source.

    Attributes:
        model: the model.
        source: the source, without its splits.
        layout: the columns of the result.
        sink: takes the files.
        errors: what a row that cannot be predicted does.
        vectors: write the text form of word vectors.
    """

    model: InferenceSpec
    source: TextSource
    layout: Layout
    sink: Sink
    errors: Errors
    vectors: bool

    def __call__(self, split: TextSplit) -> dict[str, Any]:
        """Number of rows and of marked rows, and the sink's entry of each file.

        Raises:
            DataError: if a row cannot be predicted and ``errors`` is ``refuse``.
        """
        model = model_of(self.model)
        done: dict[str, Any] = {"rows": 0, "errors": 0, "files": []}
        with tempfile.TemporaryDirectory(prefix="ts4s-predict-") as folder:
            whole = _File(Path(folder), f"part-{split.number:05}", self)
            for number, rows in enumerate(chunks(self.source.read(split))):
                if number % split.of != split.share:
                    continue
                table, marked = self.layout.table(*model.answers(rows))
                if marked and self.errors == "refuse":
                    raise refused(table)
                # The chunks of a shared split come from several tasks: a file each keeps the order of the names.
                file = whole if split.of == 1 else _File(Path(folder), f"part-{split.number:05}-{number:06}", self)
                file.add(table)
                if file is not whole:
                    done["files"] += file.close()
                done["rows"] += len(rows)
                done["errors"] += marked
            done["files"] += whole.close()
        return done


def refused(table: pa.Table) -> DataError:
    """The error for the first marked row of a table."""
    reason = next(value for value in table.column("error").to_pylist() if value is not None)
    return DataError(f"Prediction refused a row: {reason}. Correct it, or use --errors mark")


def chunks(rows: Iterator[TextRow]) -> Iterator[list[TextRow]]:
    """Rows in lists, bounded in rows and in characters."""
    chunk: list[TextRow] = []
    chars = 0
    for row in rows:
        chunk.append(row)
        chars += len(row.text or "")
        if len(chunk) == ROWS_PER_CHUNK or chars > CHARS_PER_CHUNK:
            yield chunk
            chunk, chars = [], 0
    if chunk:
        yield chunk


class _File:
    """A file of predictions that is being written, chunk by chunk; none if there is no row."""

    def __init__(self, folder: Path, stem: str, job: PredictSplit) -> None:
        self._folder, self._stem, self._job = folder, stem, job
        self._path = folder / f"{stem}.{'txt' if job.vectors else 'parquet'}"
        self._marked = folder / f"{stem}.errors.jsonl"
        self._writer: RowGroupWriter | None = None

    def add(self, table: pa.Table) -> None:
        if self._job.vectors:
            _append(self._path, vector_lines(table))
            if table.column("error").null_count < len(table):
                _append(self._marked, error_lines(table))
            return
        if self._writer is None:
            self._writer = RowGroupWriter(self._path, self._job.layout.schema)
        self._writer.write(table)

    def close(self) -> list[dict[str, Any]]:
        if self._writer is not None:
            self._writer.close()
        found = [path for path in (self._path, self._marked) if path.exists()]
        entries = [self._job.sink.put(path, path.name) for path in found]
        for path in found:
            path.unlink()
        return entries


def _append(path: Path, lines: Iterable[str]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.writelines(f"{line}\n" for line in lines)
