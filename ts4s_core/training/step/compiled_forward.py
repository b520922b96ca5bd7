"""``train.compile``: the model's forward and backward as kernels that PyTorch's inductor makes with the host's C++ compiler.

Shapes are dynamic, so that parts of any rows and lengths run through the same kernels, but for parts of one row, which have
theirs. What draws random bits of its own (:class:`SeededDropout`) stays outside of them, and PyTorch's own dropout draws what
it draws without compilation. Embeddings keep PyTorch's own backward, because the hooks of
:mod:`ts4s_core.training.step.row_gradients` sit in the module's Python. Kernels round otherwise than PyTorch's own, so that
``weights_sha256`` is another one than without; which kernel a part runs through depends on its own shape, so that it is still one
for any number of workers, on hosts of one CPU and one compiler.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ts4s_core.onnx.seeded_dropout import dropout_sites
from ts4s_core.training.settings_checks import check_compiler
from ts4s_core.training.step.engine import Forward


def compiled(model: nn.Module) -> Forward:
    """What is called instead of the model; kernels are made in the first steps.

    Raises:
        InputError: if this host has no C++ compiler.
    """
    check_compiler()
    for site in dropout_sites(model):
        # NumPy draws its bits: traced, they would be constants or another generator's.
        site.forward = torch.compiler.disable(site.forward)  # type: ignore[method-assign, no-untyped-call]
    forward: Any = torch.compile(model, dynamic=True, options={"fallback_random": True})
    return forward  # type: ignore[no-any-return]
