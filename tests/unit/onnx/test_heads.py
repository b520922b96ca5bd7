from __future__ import annotations

import numpy as np
import torch

from ts4s_core.models.heads import ClassificationHead, head_shapes, initial_head
from ts4s_core.models.initial_values import generator, kaiming_uniform
from ts4s_core.onnx.importing.importer import put_tensors


def test_initial_weights_hang_on_seed_and_name_alone() -> None:
    first, again, other = initial_head(16, 3, seed=1), initial_head(16, 3, seed=1), initial_head(16, 3, seed=2)
    assert {name: array.shape for name, array in first.items()} == head_shapes(16, 3)
    assert all(array.dtype == np.float32 and np.array_equal(array, again[name]) for name, array in first.items())
    assert not np.array_equal(first["classifier.dense.weight"], other["classifier.dense.weight"])
    assert np.array_equal(first["classifier.dense.weight"], initial_head(16, 7, seed=1)["classifier.dense.weight"])
    assert not first["classifier.dense.bias"].any()
    assert not first["classifier.out_proj.bias"].any()


def test_initial_weights_are_normal_of_two_hundredths() -> None:
    weight = initial_head(300, 3, seed=0)["classifier.dense.weight"]
    assert abs(float(weight.mean())) < 3e-4
    assert abs(float(weight.std()) - 0.02) < 3e-4


def test_bits_do_not_change_with_versions() -> None:
    """The trained weights' hash is compared between machines: the first draws are part of it."""
    assert generator("classifier.dense.weight", seed=0).integers(0, 2**32, size=2).tolist() == [2925644877, 786405056]


def test_kaiming_uniform_lies_within_its_bound() -> None:
    weight = kaiming_uniform("a.lora.A", (8, 64), seed=0)
    assert weight.dtype == np.float32
    assert np.abs(weight).max() <= 1 / 8
    assert np.abs(weight).max() > 0.95 / 8


def test_head_is_tanh_pooling_of_the_first_token() -> None:
    head = ClassificationHead(4, 2, dropout=0.5).eval()
    assert all(value.is_meta for value in head.parameters())
    put_tensors(head, {name: torch.randn(value.shape) for name, value in head.named_parameters()})
    hidden = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0))
    pooled = torch.tanh(hidden[:, 0] @ head.dense.weight.T + head.dense.bias)
    torch.testing.assert_close(head(hidden), pooled @ head.out_proj.weight.T + head.out_proj.bias)
    assert head(hidden).shape == (3, 2)
