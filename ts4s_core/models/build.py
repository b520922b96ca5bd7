"""The model of an artifact's folder."""

from __future__ import annotations

from pathlib import Path

from ts4s_core.models.graph_model import compose
from ts4s_core.models.small_networks import build_network
from ts4s_core.models.spec import GRAPH_FILE, WEIGHTS_FILE, ModelSpec
from ts4s_core.models.trainable import TrainableModel
from ts4s_core.models.weights import read_weights
from ts4s_core.onnx.graph.failures import graph_failures
from ts4s_core.onnx.graph.graph import load_own_graph
from ts4s_core.onnx.importing.importer import put_tensors


@graph_failures("Building of the model")
def build_model(folder: Path) -> TrainableModel:
    """The model of a ``model`` or ``trained`` artifact, in train mode.

    The same folder gives the same modules in the same order in every process.

    Args:
        folder: the artifact's files. What they say of the weights' sizes takes no memory before the weights' file has the same.

    Raises:
        IntegrityError: a file is missing, damaged, or does not fit the others.
    """
    spec = ModelSpec.read(folder)
    model = build_network(spec) if spec.network is not None else compose(load_own_graph(folder / GRAPH_FILE), spec)
    expected = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    put_tensors(model, read_weights(folder / WEIGHTS_FILE, expected=expected))
    return model
