"""A PyTorch module that computes what an ONNX graph computes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import fx, nn

from ts4s_core.errors import UnsupportedModelError
from ts4s_core.onnx.graph.inputs import graph_input


class ImportedGraph(nn.Module):
    """The imported graph. ``named_parameters()`` gives the weights under their original names, tied ones once.

    Everything that holds no weight is in the submodule ``_ops``.
    """

    def __init__(self) -> None:
        super().__init__()
        self.graph_inputs: tuple[str, ...] = ()
        self.float_inputs: frozenset[str] = frozenset()
        self.fixed: tuple[int, int] | None = None
        self.operations: fx.Graph | None = None
        self._run: Callable[..., torch.Tensor] | None = None

    def encode(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """``(B, T)`` int64 twice to ``(B, T, H)`` hidden states or ``(B, T, V)`` logits.

        Token types (zeros) and positions are made here for the graphs that ask for them. A graph that takes one shape
        alone is fed padded pieces.
        """
        if self.fixed is None:
            return self._call(input_ids, attention_mask)
        batch, length = self.fixed
        rows, tokens = input_ids.shape
        if tokens > length:
            raise UnsupportedModelError(
                f"Forward of the imported graph: expected at most {length} tokens, for which it was exported, got {tokens}. "
                f"Set model.max_length to {length} or less"
            )
        # Padding rows attend to their first token: a row without any would not be a number.
        room = (0, length - tokens, 0, -rows % batch)
        padded_mask = nn.functional.pad(attention_mask, room)
        padded_mask[rows:, 0] = 1
        pieces = [
            self._call(ids, mask)
            for ids, mask in zip(
                torch.split(nn.functional.pad(input_ids, room), batch), torch.split(padded_mask, batch), strict=True
            )
        ]
        return torch.cat(pieces)[:rows, :tokens]

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """As :meth:`encode`."""
        return self.encode(input_ids, attention_mask)

    def _call(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        assert self._run is not None
        given = [graph_input(name, input_ids, attention_mask, library=torch) for name in self.graph_inputs]
        given = [
            value.to(torch.get_default_dtype()) if name in self.float_inputs else value
            for name, value in zip(self.graph_inputs, given, strict=True)
        ]
        return self._run(self, *given)
