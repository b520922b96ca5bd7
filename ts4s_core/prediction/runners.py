"""Running a model over tokenised texts: batches of like length, in ONNX Runtime or in PyTorch.

Shapes: ``B`` texts, ``T`` tokens, ``D`` values a text (classes, or the size of a vector).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ts4s_core.errors import DataError
from ts4s_core.models.length_batches import Ids, length_batches, padded
from ts4s_core.models.model_folder import ModelFolder
from ts4s_core.onnx.graph.inputs import RuntimeInputs

if TYPE_CHECKING:
    from ts4s_core.models.plain_onnx.lower import Output

Floats = npt.NDArray[np.float32]
#: ``(B, T)`` ids and mask to ``(B, D)``.
Run = Callable[[Ids, Ids], Floats]
#: Padded tokens of a batch: activations stay in the caches (MiniLM runs a third faster than with 2,048 tokens).
TOKENS_PER_BATCH = 512


class OnnxRunner:
    """A session with inputs made as the graph wants them."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self._inputs = RuntimeInputs(session.get_inputs())
        shape = session.get_inputs()[0].shape
        self._fixed = (shape[0], shape[1]) if all(isinstance(size, int) for size in shape) else None

    def __call__(self, ids: Ids, mask: Ids) -> Floats:
        """Values ``(B, D)``, or ``(B, T, V)`` of a language model."""
        return self._run(ids, mask) if self._fixed is None else in_fixed_shape(self._run, self._fixed)(ids, mask)

    def _run(self, ids: Ids, mask: Ids) -> Floats:
        values: Floats = self._session.run(None, self._inputs(ids, mask))[0]
        return values


def in_fixed_shape(run: Run, fixed: tuple[int, int]) -> Run:
    """What takes any batch, by padded pieces, of what takes one batch and length alone.

    Args:
        run: ``fixed`` ids and mask to their values.
        fixed: batch and length.

    Raises:
        DataError: when called with a longer text.
    """
    rows, length = fixed

    def pieces(ids: Ids, mask: Ids) -> Floats:
        texts, tokens = ids.shape
        if tokens > length:
            raise DataError(f"Text of {tokens} tokens: expected at most {length}, for which the graph was made")
        room = ((0, -texts % rows), (0, length - tokens))
        padded_ids, padded_mask = np.pad(ids, room), np.pad(mask, room)
        padded_mask[texts:, 0] = 1  # a row without any token would not be a number
        found = [run(padded_ids[at : at + rows], padded_mask[at : at + rows]) for at in range(0, len(padded_ids), rows)]
        joined: Floats = np.concatenate(found)[:texts]
        return joined[:, :tokens] if joined.ndim == 3 else joined

    return pieces


def onnx_runner(opened: ModelFolder, *, threads: int, output: Output = "logits") -> OnnxRunner:
    """A model in ONNX Runtime, its weights mapped from their file.

    Raises:
        UnsupportedModelError: the graph has a node without a standard form.
        IntegrityError: a file is missing or damaged.
    """
    from ts4s_core.models.plain_onnx.files import open_session

    return OnnxRunner(open_session(opened, threads=threads, output=output))


def torch_runner(opened: ModelFolder, *, threads: int, output: Output = "logits") -> Run:
    """A classifier in PyTorch: for graphs that ONNX Runtime does not take."""
    import torch

    from ts4s_core.models.graph_model import GraphModel

    model = opened.build().eval()
    assert isinstance(model, GraphModel), "a small network is a language model"
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
    for batch in length_batches([len(row) for row in tokens], tokens=TOKENS_PER_BATCH):
        found = run(*padded([tokens[row] for row in batch], pad_id=pad_id))
        if values is None:
            values = np.empty((len(tokens), *found.shape[1:]), np.float32)
        values[batch] = found
    assert values is not None, "asked for values of no text"
    return values
