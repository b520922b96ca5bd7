"""Models from elsewhere: ONNX files, safetensors files, tokenizers, word vectors."""

from __future__ import annotations

import contextlib
import functools
import importlib
import io
import json
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import safetensors.numpy
import torch
from mutations import by_json, by_safetensors
from onnx import TensorProto, helper, numpy_helper
from protobuf_mutation import by_onnx
from target import Target

from ts4s_core.data.tokenizers import load_tokenizer, pad_id_of, tokenize
from ts4s_core.errors import Ts4sError
from ts4s_core.language.word_vector_file import read_word_vectors, word_vector_text
from ts4s_core.models.import_base import base_of_onnx
from ts4s_core.models.model_folder import ModelFolder
from ts4s_core.models.network_spec import NetworkSpec
from ts4s_core.models.plain_onnx.builder import Lowered, WeightUse
from ts4s_core.models.plain_onnx.files import lowered, with_mapped_weights
from ts4s_core.models.spec import GRAPH_FILE, SPEC_FILE, ModelSpec
from ts4s_core.models.weights import read_weights, weights_sha256
from ts4s_core.modules.saved import MODEL, WEIGHTS, SavedModule
from ts4s_core.onnx.importing.importer import import_graph
from ts4s_core.onnx.rewriting.rewrite import rewrite
from ts4s_core.onnx.sources.folder import stored_tensors
from ts4s_core.onnx.sources.onnx_file import read_onnx_file

# Imported at its first use elsewhere: here at once, so that coverage guides through it, and no input is charged with its import.
importlib.import_module("ts4s_core.models.small_networks")
_SHAPES = {"a": (2, 3), "b": (4,), "c": ()}


class _Encoder(torch.nn.Module):
    """Embedding, one layer of attention written out and a dense one, as small as they come."""

    def __init__(self) -> None:
        super().__init__()
        self.words = torch.nn.Embedding(16, 8)
        self.query, self.key, self.value, self.dense = (torch.nn.Linear(8, 8) for _ in range(4))
        self.norm = torch.nn.LayerNorm(8)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        words = self.words(input_ids)
        rows, tokens, _ = words.shape
        query, key, value = (
            layer(words).view(rows, tokens, 2, 4).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )
        scores = query @ key.transpose(-1, -2) / 2 + (1.0 - attention_mask[:, None, None].float()) * -1e9
        mixed = (scores.softmax(-1) @ value).transpose(1, 2).reshape(rows, tokens, 8)
        hidden: torch.Tensor = self.norm(words + torch.nn.functional.gelu(self.dense(mixed)))
        return hidden


def _exported(opset: int) -> bytes:
    """What PyTorch's older exporter makes of the encoder: the patterns that the import looks for are in it."""
    torch.manual_seed(0)
    file, ids = io.BytesIO(), torch.ones(2, 3, dtype=torch.int64)
    axes = {name: {0: "b", 1: "t"} for name in ("input_ids", "attention_mask", "output")}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            _Encoder().eval(),
            (ids, ids),
            file,
            dynamo=False,
            opset_version=opset,
            input_names=["input_ids", "attention_mask"],
            output_names=["output"],
            dynamic_axes=axes,
        )
    return file.getvalue()


def _bert() -> bytes:
    """BERT through the exporter of ts4s itself, its weights inside the file."""
    from transformers import BertConfig, BertModel

    from ts4s_core.onnx.exporting.export_graph import export_graph, write_graph

    config = BertConfig(
        vocab_size=16,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=16,
    )
    module = BertModel(config, add_pooling_layer=False).eval()
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        write_graph(export_graph(module, task="encoder", max_positions=16), Path(folder))
        model = onnx.load(str(Path(folder) / "model.onnx"))
    del model.metadata_props[:]
    for node in model.graph.node:
        del node.metadata_props[:]
    return bytes(model.SerializeToString())


def _lookup() -> bytes:
    table = np.arange(32, dtype=np.float32).reshape(8, 4)
    graph = helper.make_graph(
        [helper.make_node("Gather", ["table", "input_ids"], ["output"])],
        "g",
        [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["b", "t"])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["b", "t", 4])],
        [numpy_helper.from_array(table, "table")],
    )
    return bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString())


def _graphs() -> list[bytes]:
    return [_lookup(), _exported(13), _exported(17), _bert()]


def _read_graph(data: bytes, folder: Path) -> None:
    """As ``export`` checks it, and as ``import`` makes a module of it and compares the two; import stands alone too."""
    path = folder / "model.onnx"
    path.write_bytes(data)
    with contextlib.suppress(Ts4sError):
        read_onnx_file(path, source="model.onnx")
    with contextlib.suppress(Ts4sError):
        import_graph(path, None)
    (folder / "names.json").write_text('{"task": "encoder"}')
    base_of_onnx(ModelFolder(folder), None, max_length=16)


def _own_graphs() -> list[bytes]:
    """The graphs of models of ours, as they are kept in the store."""
    graphs = []
    for data in (_bert(), _exported(17)):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            path.write_bytes(data)
            graphs.append(bytes(rewrite(path, None).graph.to_model().SerializeToString()))
    return graphs


def _spec(network: NetworkSpec | None = None) -> bytes:
    spec = ModelSpec(
        task="classification",
        labels=("a", "b"),
        hidden_size=8,
        dropout=0.1,
        attention_dropout=0.1,
        freeze_encoder=False,
        lora_rank=0,
        lora_alpha=1.0,
        max_length=8,
        pad_id=0,
        vocab_size=16,
        fixed_shape=None,
        network=None if network is None else network.to_json(),
    )
    return json.dumps(spec.to_json()).encode()


def _read_own_graph(data: bytes, folder: Path) -> None:
    """As training and prediction open a version that somebody planted."""
    (folder / GRAPH_FILE).write_bytes(data)
    (folder / SPEC_FILE).write_bytes(_spec())
    with contextlib.suppress(Ts4sError):
        ModelFolder(folder).build()
    lowered(ModelFolder(folder))


def _specs() -> list[bytes]:
    networks = [
        NetworkSpec(architecture="window", vocab_size=9, embedding_size=4, hidden_size=4, positions=3, attention_heads=2),
        NetworkSpec(architecture="recurrent", vocab_size=9, embedding_size=4, hidden_size=4, positions=3),
    ]
    return [b"\0" + _spec(network) for network in (None, *networks)]


def _read_spec(data: bytes, folder: Path) -> None:
    (folder / GRAPH_FILE).write_bytes(_small_graph())
    (folder / SPEC_FILE).write_bytes(data[1:])
    with contextlib.suppress(Ts4sError):
        ModelFolder(folder).build()
    lowered(ModelFolder(folder))


@functools.cache
def _small_graph() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(_lookup())
        return bytes(rewrite(path, None).graph.to_model().SerializeToString())


def _tensors() -> dict[str, Any]:
    return {"a": np.ones((2, 3), np.float32), "b": np.arange(4, dtype=np.int64), "c": np.ones((), np.float32)}


def _weights() -> list[bytes]:
    named = {
        "tensors": _tensors(),
        "halves": {"a": np.ones((2, 3), np.float16)},
        "none": {},
        "zero": {"a": np.zeros((0, 3), np.int8)},
    }
    return [safetensors.numpy.save(tensors, metadata={"format": "pt"}) for tensors in named.values()]


def _read_weights(data: bytes, folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(data)
    for reader in (_plainly, _as_expected, _by_header, _mapped, _saved_module):
        try:
            reader(path)
        except Ts4sError:
            continue


def _plainly(path: Path) -> None:
    weights_sha256(read_weights(path))


def _as_expected(path: Path) -> None:
    tensors = read_weights(path, expected=_SHAPES)
    assert {name: tensor.shape for name, tensor in tensors.items()} == _SHAPES


def _by_header(path: Path) -> None:
    for tensor in stored_tensors([path], source="folder").values():
        f"{tensor.name} {tensor.shape} {tensor.dtype}"


def _mapped(path: Path) -> None:
    graph = Lowered([], {}, {}, opset=17, ir_version=8, output="value", weights={"value": WeightUse("a", transposed=True)})
    with_mapped_weights(graph, path).SerializeToString()


def _saved_module(path: Path) -> None:
    record = {
        "module": {},
        "form": None,
        "output": "class",
        "activation": "none",
        "labels": [],
        "facts": {},
        "weights_sha256": "",
    }
    SavedModule.from_files({MODEL: json.dumps(record).encode(), WEIGHTS: path.read_bytes()}, where="there")


def _tokenizers() -> list[bytes]:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers

    words = Tokenizer(models.WordLevel({"<unk>": 0, "<pad>": 1, "a": 2, "b": 3}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.add_special_tokens(["<unk>", "<pad>"])
    words.enable_padding(pad_id=1, pad_token="<pad>")
    pairs = Tokenizer(models.BPE(unk_token=None))
    pairs.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    pairs.train_from_iterator(["some text, some more text"] * 3, trainers.BpeTrainer(vocab_size=40, show_progress=False))
    pairs.post_processor = processors.TemplateProcessing(single="a $A a", special_tokens=[("a", 0)])
    return [b"\0" + tokenizer.to_str().encode() for tokenizer in (words, pairs)]


def _read_tokenizer(data: bytes, folder: Path) -> None:
    (folder / "tokenizer.json").write_bytes(data[1:])
    tokenize(load_tokenizer(folder), ["some text", "", "\u2028 ü"], fallback_id=0)
    pad_id_of(folder)


def _vectors() -> list[bytes]:
    return [b"2 3\na 1 2 3\nb 0.5 -1 1e-3\n", b"a 1 2\n\xc3\xbc nan 1\n", b"a 1 2\r\na 3 4\r\nb 1\r\n"]


def _read_vectors(data: bytes, folder: Path) -> None:
    path = folder / "vectors.txt"
    path.write_bytes(data)
    vectors = read_word_vectors(path)
    assert vectors.matrix.shape == (len(vectors.words), vectors.size)
    assert np.isfinite(vectors.matrix).all(), "a number that is not finite"
    word_vector_text(vectors)


TARGETS = {
    "onnx": Target(_graphs, _read_graph, change=by_onnx),
    "own-graph": Target(_own_graphs, _read_own_graph, change=by_onnx),
    "model-json": Target(_specs, _read_spec, change=by_json),
    "safetensors": Target(_weights, _read_weights, change=by_safetensors),
    "tokenizer": Target(_tokenizers, _read_tokenizer, change=by_json),
    "word-vectors": Target(_vectors, _read_vectors, words=(b"1e999", b"\xc2\xa0", b" ", b"nan", b"1_0")),
}
