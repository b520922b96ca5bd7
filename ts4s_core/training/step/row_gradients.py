"""Gradients of large embeddings as the few rows that a part touched, in the bits of the dense way.

PyTorch's own backward of an embedding writes a gradient as large as the table, mostly zeros: half of a small model's
weights, several passes over memory for each part. Here backward only notes (ids, gradient of the output); when the part is
over, the rows of each id are summed as PyTorch does, in a table of the ids that occurred.

A weight that another module uses too (a tied language-model head) keeps PyTorch's way, because a part's two contributions
must be summed before the tree sees them.
"""

from __future__ import annotations

import functools
from collections import Counter
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

#: Smaller tables are not worth the bookkeeping.
LEAST_ELEMENTS = 65_536

Notes = list[tuple[torch.Tensor, torch.Tensor]]


class RowGradients:
    """Takes over the backward of a model's large, untied embeddings.

    Attributes:
        names: the parameters whose gradients come from :meth:`take`, not from autograd.
    """

    def __init__(self, model: nn.Module, parameters: dict[str, nn.Parameter]) -> None:
        self._notes: dict[str, Notes] = {}
        self._padding: dict[str, int | None] = {}
        self._modules: list[nn.Module] = []
        names = {id(parameter): name for name, parameter in parameters.items()}
        uses = Counter(id(parameter) for _, parameter in model.named_parameters(remove_duplicate=False))
        for module in model.modules():
            if isinstance(module, nn.Embedding) and _fits(module) and uses[id(module.weight)] == 1 and id(module.weight) in names:
                name = names[id(module.weight)]
                self._notes[name], self._padding[name] = [], module.padding_idx
                # On the instance, not the class: other models of this process keep PyTorch's way.
                module.forward = functools.partial(_look_up, module.weight, self._notes[name])  # type: ignore[method-assign]
                self._modules.append(module)
        self.names = frozenset(self._notes)

    def take(self, name: str) -> tuple[torch.Tensor, torch.Tensor] | None:
        """The part's gradient of a table as (unique ids, their rows), or None if no backward reached it."""
        notes = self._notes[name]
        if not notes:
            return None
        tables = [_compact(ids, gradient) for ids, gradient in notes]
        notes.clear()
        unique, rows = tables[0]
        if len(tables) > 1:  # looked up more than once: whole gradients are added, as autograd does
            unique = torch.unique(torch.cat([ids for ids, _ in tables]))
            rows = torch.zeros(len(unique), rows.shape[1])
            for ids, share in tables:
                rows.index_add_(0, torch.searchsorted(unique, ids), share)
        if self._padding[name] is not None:
            kept = unique != self._padding[name]
            unique, rows = unique[kept], rows[kept]
        return unique, rows

    def close(self) -> None:
        """Give the embeddings their own backward back."""
        for module in self._modules:
            del module.forward
        self._modules.clear()


class _LookUp(torch.autograd.Function):
    """An embedding whose backward notes what it gets."""

    @staticmethod
    def forward(ctx: Any, weight: torch.Tensor, ids: torch.Tensor, notes: Notes) -> torch.Tensor:
        ctx.save_for_backward(ids)
        ctx.notes = notes
        return F.embedding(ids, weight)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[None, None, None]:
        ctx.notes.append((ctx.saved_tensors[0], gradients[0]))
        return None, None, None


def _look_up(weight: torch.Tensor, notes: Notes, input: torch.Tensor) -> torch.Tensor:
    found: torch.Tensor = _LookUp.apply(weight, input, notes)  # type: ignore[no-untyped-call]
    return found


def _compact(ids: torch.Tensor, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    unique, places = torch.unique(ids, return_inverse=True)
    return unique, torch.ops.aten.embedding_dense_backward(gradient, places, len(unique), -1, False)


def _fits(module: nn.Embedding) -> bool:
    plain = module.max_norm is None and not module.scale_grad_by_freq and not module.sparse
    return plain and module.weight.numel() >= LEAST_ELEMENTS
