"""Quantised ONNX files for cheap serving on CPUs, measured beside the FP32 one on the held-out rows."""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ts4s_core.artifacts.store import ArtifactStore
from ts4s_core.errors import NotFoundError, ParityError, UnsupportedModelError
from ts4s_core.evaluation.figures.lineage import training_datasets
from ts4s_core.evaluation.scoring.dataset_rows import Rows, row_groups, rows_of
from ts4s_core.evaluation.scoring.scorer import Scorer
from ts4s_core.handover.plain_file import MODEL_FILE, session_of, write_plain_file
from ts4s_core.handover.trained import Trained
from ts4s_core.onnx.graph.graph import Array
from ts4s_core.prediction.runners import OnnxRunner, run_sorted
from ts4s_core.progress import Progress

#: Share of the held-out rows that may be answered wrong more than in FP32.
MOST_LOST = 0.01
#: Rows that are measured at most; rows are in the order of their hash, so the first ones are a random sample.
MOST_ROWS = 10_000
BLOCK = 32
_STAGE = "export"


def write_quantised(
    trained: Trained, folder: Path, *, form: str, store: ArtifactStore, threads: int, progress: Progress
) -> dict[str, Any]:
    """Write ``model.onnx`` with int8 or int4 weights, and measure it.

    Args:
        trained: the model.
        folder: where to write.
        form: ``onnx-int8`` (weights and activations, dynamic) or ``onnx-int4`` (weights alone, in blocks of 32).
        store: holds the dataset that the model was trained on.
        threads: threads of the measurement.
        progress: called as it goes on.

    Raises:
        UnsupportedModelError: a language model: it has no held-out rows to answer.
        NotFoundError: the dataset is no longer in the store.
        ParityError: more than a point of accuracy is lost.
    """
    kind = trained.spec.kind
    if kind.predictions is None:
        raise UnsupportedModelError(
            f"Export as {form} of {trained.manifest.ref}: expected a classifier, whose loss of accuracy can be measured on "
            f"held-out rows, got {kind.noun}. Use --format onnx"
        )
    rows, tokens, columns = _held_out(store, trained)
    with tempfile.TemporaryDirectory(prefix="ts4s-fp32-") as temporary:
        plain = Path(temporary)
        progress(_STAGE, {"step": 1, "steps": 4, "doing": "fp32"})
        made = write_plain_file(trained, plain)
        progress(_STAGE, {"step": 2, "steps": 4, "doing": "quantise"})
        _quantise(plain / MODEL_FILE, folder / MODEL_FILE, form=form)
        figures = {}
        for step, (name, path) in enumerate((("fp32", plain), (form, folder)), start=3):
            progress(_STAGE, {"step": step, "steps": 4, "doing": f"measure {name}"})
            figures[name] = _measured(path / MODEL_FILE, trained, rows, tokens=tokens, columns=columns, threads=threads)
    lost = figures["fp32"]["accuracy"] - figures[form]["accuracy"]
    if not lost <= MOST_LOST:
        raise ParityError(
            f"Export as {form} of {trained.manifest.ref}: expected at most {MOST_LOST:g} of accuracy lost on {len(rows.ids)} "
            f"held-out rows, got {lost:.4f} ({figures['fp32']['accuracy']:.4f} to {figures[form]['accuracy']:.4f}). "
            "Nothing was written; use --format onnx"
        )
    return {"file": MODEL_FILE, "opset": made["opset"], "held_out_rows": len(rows.ids), "figures": figures}


def _held_out(store: ArtifactStore, trained: Trained) -> tuple[Rows, list[list[int]], list[int]]:
    ref = trained.manifest.ref
    here, gone = training_datasets(store, ref)
    if not here:
        raise NotFoundError(
            f"Held-out rows of {ref}: expected its dataset in the store, got {gone[0] if gone else 'none'}, which is not there. "
            "Use --format onnx, which needs none"
        )
    dataset = here[0]
    scorer = Scorer.load(store, trained=ref, dataset=dataset)
    counts = np.cumsum(row_groups(store, dataset, "test"))
    groups = int(np.searchsorted(counts, MOST_ROWS)) + 1
    rows = rows_of(store, dataset, side="test", indices=list(range(min(groups, len(counts)))), texts=scorer.needs_texts)
    tokens = scorer.tokenized(rows.texts) if scorer.needs_texts else [list(row) for row in rows.tokens]
    return rows, tokens, list(scorer.columns)


def _quantise(source: Path, target: Path, *, form: str) -> None:
    with _silence():
        if form == "onnx-int8":
            from onnxruntime.quantization import QuantType, quantize_dynamic

            # 7 bits: on CPUs without VNNI, sums of 8-bit products overflow their 16 bits.
            quantize_dynamic(source, target, weight_type=QuantType.QInt8, per_channel=True, reduce_range=True)
            return
        import onnx
        from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

        quantiser = MatMulNBitsQuantizer(onnx.load(str(source)), block_size=BLOCK, is_symmetric=True, accuracy_level=4)
        quantiser.process()
        quantiser.model.save_model_to_file(str(target), False)


def _measured(
    path: Path, trained: Trained, rows: Rows, *, tokens: list[list[int]], columns: list[int], threads: int
) -> dict[str, float]:
    runner = OnnxRunner(session_of(path, threads=threads))
    run_sorted(runner, tokens[:8], pad_id=trained.spec.pad_id)
    began = time.perf_counter()
    logits = run_sorted(runner, tokens, pad_id=trained.spec.pad_id)[:, columns]
    seconds = time.perf_counter() - began
    return {
        "bytes": path.stat().st_size,
        "rows_per_s": round(len(tokens) / seconds, 1),
        "accuracy": _accuracy(logits, rows, multi_label=trained.spec.kind.labels == "many"),
    }


def _accuracy(logits: Array, rows: Rows, *, multi_label: bool) -> float:
    if multi_label:
        return float(((logits >= 0) == rows.truth).all(axis=1).mean())
    return float(rows.truth[np.arange(len(logits)), logits.argmax(axis=1)].mean())


@contextmanager
def _silence() -> Iterator[None]:
    """The quantisers write to the root logger."""
    root = logging.getLogger()
    before = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(before)
