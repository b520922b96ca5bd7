"""Running a model over tokenised texts: batches of like length, in ONNX Runtime or in PyTorch.

Shapes: ``B`` texts, ``T`` tokens, ``D`` values a text (classes, or the size of a vector).
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ts4s_core.errors import DataError

if TYPE_CHECKING:
    from ts4s_core.models.plain_onnx.lower import Output

Ids = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
#: ``(B, T)`` ids and mask to ``(B, D)``.
Run = Callable[[Ids, Ids], Floats]
#: Padded tokens and rows of a batch: activations stay in the caches (MiniLM runs a third faster than with 2,048 tokens).
TOKENS_PER_BATCH = 512
ROWS_PER_BATCH = 64


class OnnxRunner:
    """A session with inputs made as the graph wants them."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self._wanted = {entry.name: np.float32 if "float" in entry.type else np.int64 for entry in session.get_inputs()}
        shape = session.get_inputs()[0].shape
        self._fixed = (shape[0], shape[1]) if all(isinstance(size, int) for size in shape) else None

    def __call__(self, ids: Ids, mask: Ids) -> Floats:
        """Values ``(B, D)``, or ``(B, T, V)`` of a language model."""
        if self._fixed is None:
            return self._run(ids, mask)
        rows, length = self._fixed
        texts, tokens = ids.shape
        if tokens > length:
            raise DataError(f"Text of {tokens} tokens: expected at most {length}, for which the graph was made")
        room = ((0, -texts % rows), (0, length - tokens))
        padded_ids, padded_mask = np.pad(ids, room), np.pad(mask, room)
        padded_mask[texts:, 0] = 1  # a row without any token would not be a number
        pieces = [self._run(padded_ids[at : at + rows], padded_mask[at : at + rows]) for at in range(0, len(padded_ids), rows)]
        joined = np.concatenate(pieces)[:texts]
        return joined[:, :tokens] if joined.ndim == 3 else joined

    def _run(self, ids: Ids, mask: Ids) -> Floats:
        made: dict[str, Callable[[], Ids]] = {
            "input_ids": lambda: ids,
            "attention_mask": lambda: mask,
            "token_type_ids": lambda: np.zeros_like(ids),
            "position_ids": lambda: np.broadcast_to(np.arange(ids.shape[1]), ids.shape),
        }
        feed = {name: np.ascontiguousarray(made[name](), dtype) for name, dtype in self._wanted.items()}
        values: Floats = self._session.run(None, feed)[0]
        return values


def onnx_runner(folder: Path, *, threads: int, output: Output = "logits") -> OnnxRunner:
    """The model of a verified folder in ONNX Runtime, its weights mapped from their file.

    Raises:
        UnsupportedModelError: the graph has a node without a standard form.
        IntegrityError: a file is missing or damaged.
    """
    from ts4s_core.models.plain_onnx.files import open_session
    from ts4s_core.models.spec import ModelSpec

    if not ModelSpec.read(folder).lora_rank:
        return OnnxRunner(open_session(folder, threads=threads, output=output))
    from ts4s_core.models.build import build_model
    from ts4s_core.models.graph_model import tensors_of
    from ts4s_core.models.lora import merge_lora
    from ts4s_core.models.weights import save_weights

    model = build_model(folder)
    merge_lora(model)
    with tempfile.TemporaryDirectory(prefix="ts4s-merged-") as temporary:
        merged = Path(temporary) / "model.safetensors"
        save_weights(merged, tensors_of(model))
        # A mapped file stays readable after its name is gone.
        return OnnxRunner(open_session(folder, threads=threads, output=output, weights=merged))


def torch_runner(folder: Path, *, threads: int, output: Output = "logits") -> Run:
    """The model of a verified folder in PyTorch: for graphs that ONNX Runtime does not take."""
    import torch

    from ts4s_core.models.build import build_model

    model = build_model(folder)
    model.eval()
    torch.set_num_threads(threads)

    def run(ids: Ids, mask: Ids) -> Floats:
        given = torch.from_numpy(ids), torch.from_numpy(mask)
        with torch.inference_mode():
            if output == "logits":
                return np.asarray(model(*given).numpy(), np.float32)
            hidden = model.encode(*given)
            if output == "first":
                return np.asarray(hidden[:, 0].numpy(), np.float32)
            weights = given[1].unsqueeze(-1).to(hidden.dtype)
            return np.asarray(((hidden * weights).sum(1) / weights.sum(1)).numpy(), np.float32)

    return run


def run_sorted(run: Run, tokens: Sequence[Sequence[int]], *, pad_id: int) -> Floats:
    """Values ``(N, D)`` of N texts in their order; run in batches of like length.

    Args:
        run: the model.
        tokens: token ids of each text, at least one text.
        pad_id: token of the padding.
    """
    values: Floats | None = None
    for batch in length_batches([len(row) for row in tokens]):
        found = run(*padded([tokens[row] for row in batch], pad_id=pad_id))
        if values is None:
            values = np.empty((len(tokens), *found.shape[1:]), np.float32)
        values[batch] = found
    assert values is not None, "asked for values of no text"
    return values


def length_batches(lengths: Sequence[int]) -> Iterator[npt.NDArray[np.int64]]:
    """Positions of the rows of each batch, longest first, every row once; bounded in rows and in padded tokens."""
    sizes = np.asarray(lengths)
    order = np.argsort(-sizes, kind="stable")
    start = 0
    while start < len(order):
        most = max(1, min(ROWS_PER_BATCH, TOKENS_PER_BATCH // max(int(sizes[order[start]]), 1)))
        yield order[start : start + most]
        start += most


def padded(tokens: Sequence[Sequence[int]], *, pad_id: int) -> tuple[Ids, Ids]:
    """Ids and mask ``(B, T)``, padded on the right to the longest."""
    lengths = np.fromiter(map(len, tokens), np.int64, len(tokens))
    mask = np.arange(int(lengths.max())) < lengths[:, None]
    ids = np.full(mask.shape, pad_id, dtype=np.int64)
    ids[mask] = np.fromiter(itertools.chain.from_iterable(tokens), np.int64, int(lengths.sum()))
    return ids, mask.astype(np.int64)
