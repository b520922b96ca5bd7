"""Any PyTorch loss as a sum over items and their count, so that parts of uneven size weigh right.

Legend: B rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from ts4s_core.errors import InputError, listed
from ts4s_core.modules.inputs import outputs_in
from ts4s_core.modules.saved import fill, weights_of
from ts4s_core.modules.spec import Spec, build, describe, spec_of_call
from ts4s_core.modules.trust import find
from ts4s_core.training.step.objectives import PartLoss

#: Losses that compare with a class number.
OF_CLASSES = ("torch.nn:CrossEntropyLoss", "torch.nn:NLLLoss", "torch.nn:MultiMarginLoss")
#: Functions that do; whether another loss of a user's own does, only the user knows.
FUNCTIONS_OF_CLASSES = tuple(f"torch.nn.functional:{name}" for name in ("cross_entropy", "nll_loss", "multi_margin_loss"))
#: What turns outputs into probabilities, by the loss that they were trained with.
ACTIVATIONS = {
    "torch.nn:CrossEntropyLoss": "softmax",
    "torch.nn:NLLLoss": "exp",
    "torch.nn.functional:cross_entropy": "softmax",
    "torch.nn.functional:nll_loss": "exp",
    "torch.nn:BCEWithLogitsLoss": "sigmoid",
    "torch.nn:MultiLabelSoftMarginLoss": "sigmoid",
    "torch.nn:BCELoss": "identity",
}
_WEIGHED = OF_CLASSES[:2]


def loss_spec(loss: object, arguments: Mapping[str, Any] | None) -> Spec:
    """The description of a loss.

    Args:
        loss: a name in ``torch.nn``, ``module:name``, a class or function, or a loss that is built already.
        arguments: keyword arguments of the class; for a function, of every call.

    Raises:
        InputError: if it is not in ``torch.nn`` and cannot be imported, or has a reduction of its own.
    """
    if isinstance(loss, nn.Module):
        spec = _described(loss, dict(arguments or {}))
    else:
        if isinstance(loss, str) and ":" not in loss:
            if not (isinstance(getattr(nn, loss, None), type) and issubclass(getattr(nn, loss), nn.Module)):
                raise InputError(f"loss {loss!r} is not in torch.nn: use a name such as CrossEntropyLoss, or module:name")
            loss = f"torch.nn:{loss}"
        spec = spec_of_call(loss, dict(arguments or {}))
    if spec["arguments"].get("reduction", "mean") != "mean":
        raise InputError(
            f"loss {spec['factory']} with reduction {spec['arguments']['reduction']!r}: the mean over all rows of a batch is "
            "minimised. Leave reduction out, and change learningRate instead"
        )
    AnyLoss(spec)
    return spec


def _described(loss: nn.Module, arguments: dict[str, Any]) -> Spec:
    """The description of a loss object, the values of its tensors among it: there are few."""
    if arguments:
        raise InputError(f"lossArgs {listed(arguments)} have no meaning with a loss that is built already: give its class")
    spec, constants = describe(loss)
    tensors = {**constants, **weights_of(loss)}
    values = {name: [array.dtype.str, array.tolist()] for name, array in tensors.items()}
    return {**spec, "values": values, "arguments": {"reduction": getattr(loss, "reduction", "mean")}}


def _restored(spec: Spec) -> Any:
    values = {name: np.array(value, dtype) for name, (dtype, value) in spec["values"].items()}
    loss = build(spec, constants=values)
    fill(loss, {name: values[name] for name in spec["tensors"]})
    return loss


class AnyLoss:
    """An objective (see :class:`ts4s_core.training.step.objectives.Objective`) over any loss.

    A loss of ``torch.nn`` gives its items one by one; one that gives only a mean counts as the mean over the part's rows.

    Raises:
        InputError: if the loss cannot be built.
    """

    def __init__(self, spec: Spec, *, weighted: bool = False) -> None:
        self._path = str(spec["factory"])
        self._weighted = weighted
        self._options: dict[str, Any] = {}
        self._precision = torch.float32
        # The mean is this class's to take: a sum or one number an item is what it takes it of.
        own = self._path.startswith("torch.nn:") and self._path != "torch.nn:KLDivLoss"
        reduction = "sum" if self._path in _WEIGHED and not weighted else "none"
        arguments = dict(spec.get("arguments", {}))
        if "objects" in spec:
            self._loss = _restored(spec)
            if own:
                self._loss.reduction = reduction
            return
        made = find(self._path)
        if not isinstance(made, type):
            self._loss, self._options = made, arguments
            return
        tensors = {name: torch.tensor(arguments[name]) for name in ("weight", "pos_weight") if arguments.get(name) is not None}
        if own:
            arguments["reduction"] = reduction
        try:
            self._loss = made(**{**arguments, **tensors})
        except TypeError as exc:
            raise InputError(f"loss {self._path} cannot be built: {exc}. See lossArgs") from exc

    @property
    def ignored(self) -> int | None:
        """The class number that does not count, if there is one."""
        return getattr(self._loss, "ignore_index", None)

    def __call__(self, logits: Any, batch: Any) -> PartLoss:
        """The part's loss.

        Args:
            logits: what the module gave: a tensor, or a tuple of them, all of which the loss gets, or a map, of which it gets
                one (:func:`ts4s_core.modules.inputs.outputs_in`).
            batch: the part; its labels are class numbers (B,), or numbers in as many places as the output has.
        """
        outputs = outputs_in(logits)
        target = self._target(outputs[0], batch.labels)
        self._follow(outputs[0])
        losses = self._loss(*outputs, target, **self._options)
        rows = float(len(batch.labels))
        if self._weighted:
            return self._by_weight(losses, target, batch.weights)
        if self._path in _WEIGHED:
            return PartLoss(losses, float(losses.detach().double()), self._weighed_items(target))
        if losses.ndim == 0:
            return PartLoss(losses * rows, float(losses.detach().double()) * rows, rows)
        return PartLoss(losses.sum(), float(losses.detach().double().sum()), float(losses.numel()))

    def _follow(self, output: torch.Tensor) -> None:
        """Have the loss's own tensors, such as weights of classes, in the precision of what it gets."""
        if isinstance(self._loss, nn.Module) and output.dtype != self._precision and output.is_floating_point():
            self._loss.to(output.dtype)
            self._precision = output.dtype

    def _by_weight(self, losses: torch.Tensor, target: torch.Tensor, weights: torch.Tensor) -> PartLoss:
        """The sum of weight times loss over the rows, and what the mean over all of them divides by.

        Raises:
            InputError: if the loss gives no loss for each row.
        """
        if losses.ndim == 0 or len(losses) != len(weights):
            raise InputError(
                f"loss {self._path} of {len(weights)} rows has the shape {tuple(losses.shape)}: weightCol needs a loss for each "
                "row. Return them without a mean, or leave weightCol out"
            )
        by_row = losses.reshape(len(weights), -1)
        total = (by_row * weights[:, None]).sum()
        items = weights.double()
        if self._path in _WEIGHED and target.dtype == torch.int64:
            kept = target != self._loss.ignore_index
            by_class = self._loss.weight
            items = items * kept if by_class is None else items * torch.where(kept, by_class[target * kept], 0.0).double()
        return PartLoss(total, float(total.detach().double()), float(items.sum()) * by_row.shape[1])

    def _target(self, output: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        if labels.dtype == torch.int64 or self._path in OF_CLASSES:
            return labels
        if output.dtype == torch.float64:
            labels = labels.double()
        if labels.numel() != output.numel() and not self._path.startswith("torch.nn:"):
            return labels  # what a loss of a user's own makes of them is its own matter
        if labels.numel() != output.numel():
            raise InputError(
                f"loss {self._path} compares outputs of shape {tuple(output.shape)} with labels of shape {tuple(labels.shape)}: "
                "expected as many numbers. Change the module's last layer, or labelCol (None: the input is its own label)"
            )
        return labels.view_as(output)

    def _weighed_items(self, target: torch.Tensor) -> float:
        """What PyTorch's mean divides by: the weights of the rows' classes, without those that are ignored."""
        if target.dtype != torch.int64:
            return float(len(target))
        kept = target[target != self._loss.ignore_index]
        weight = self._loss.weight
        return float(kept.numel()) if weight is None else float(weight[kept].double().sum())
