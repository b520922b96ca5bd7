"""Word vectors: read, written, looked up, put under a network, and shown as neighbours."""

from __future__ import annotations

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from small_language_models import WORDS

from ts4s_core.errors import InputError, SourceError
from ts4s_core.language.word_vector_file import WordVectors, read_word_vectors, vector_size, word_vector_text
from ts4s_core.language.word_vectors import frequent_words, neighbours, token_vectors, write_word_vectors
from ts4s_core.models.import_step import import_model
from ts4s_core.models.model_folder import ModelFolder
from ts4s_core.onnx.exporting.step import export_model
from ts4s_core.settings import Settings

VECTORS = WordVectors(["w1", "w2", "w3", "other"], np.array([[1, 0.5], [2, 1.1], [-1, 0], [0.25, -3]], np.float32))


def test_text_form_there_and_back(tmp_path):
    path = tmp_path / "vectors.txt"
    path.write_text(word_vector_text(VECTORS), encoding="utf-8")
    assert path.read_text().splitlines()[:2] == ["4 2", "w1 1 0.5"]
    for text in (path.read_text(), path.read_text().partition("\n")[2], path.read_text().replace("\n", " \r\n")):
        path.write_text(text, encoding="utf-8", newline="")
        found = read_word_vectors(path)
        assert found.words == VECTORS.words
        np.testing.assert_allclose(found.matrix, VECTORS.matrix, rtol=1e-6)
    assert read_word_vectors(path, wanted={"w3"}).words == ["w3"]
    assert vector_size(path, setting="x") == 2
    spaced = WordVectors(["a b", "", "c"], np.ones((3, 1), np.float32))
    assert word_vector_text(spaced) == "1 1\nc 1\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a 1 2\nb 1\n", "line 2: expected a word and 2 numbers, got 1"),
        ("a 1 x\n", "line 1: expected numbers behind the word"),
        ("a 1 nan\n", "line 1: expected finite numbers"),
        ("", "holds no word vectors"),
        ("only words\n", "line 1: expected numbers"),
        ("é\x00", "line 1"),
    ],
)
def test_damaged_files(tmp_path, text, message):
    path = tmp_path / "vectors.txt"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(SourceError, match=message):
        read_word_vectors(path, setting="model.word_vectors")
    path.write_bytes(b"\xff\xfe 1 2\n")
    with pytest.raises(SourceError, match="is not UTF-8"):
        read_word_vectors(path, setting="model.word_vectors")


@pytest.mark.parametrize(("kind", "frozen"), [("window", True), ("recurrent", False)])
def test_a_network_begins_with_them(store, make, tmp_path, kind, frozen):
    path = tmp_path / "vectors.txt"
    path.write_text(word_vector_text(VECTORS), encoding="utf-8")
    heads = {"attention_heads": 2} if kind == "window" else {}
    made = make(kind, word_vectors=str(path), freeze_word_vectors=frozen, embedding_size=0, **heads)
    assert made.facts["word_vectors"] == {"tokens": len(WORDS), "found": 3}
    model = ModelFolder(store.local(made.ref)).build()
    table = model.get_parameter("network.embedding.weight").detach().numpy()
    assert table.shape == (len(WORDS), 2)
    np.testing.assert_allclose(table[WORDS.index("w1")], [1, 0.5])
    np.testing.assert_allclose(table[WORDS.index("w3")], [-1, 0])
    assert 0.2 < table[5:].std() / VECTORS.matrix[:3].std() < 5
    assert ("network.embedding.weight" in model.trained_tensors()) is not frozen
    assert make(kind, word_vectors=str(path), freeze_word_vectors=frozen, embedding_size=0, **heads).reused


def test_vectors_of_no_token_or_another_size_are_refused(make, tmp_path):
    path = tmp_path / "vectors.txt"
    path.write_text("foreign 1 2\n", encoding="utf-8")
    with pytest.raises(InputError, match="has a vector for none of the 62 tokens"):
        make("recurrent", word_vectors=str(path), embedding_size=0)
    path.write_text("w1 1 2\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"model\.embedding_size 16 differs from the 2 numbers"):
        make("recurrent", word_vectors=str(path))


@pytest.mark.parametrize("kind", ["gpt2", "llama", "window"])
def test_vectors_of_a_model_as_table_text_and_neighbours(store, make, kind):
    folder = store.local(make(kind).ref)
    found = token_vectors(folder)
    assert found.tokens == WORDS
    assert found.words[:3] == ["", "", "w0"]
    with store.begin("report", kind, "ab" * 32, settings={}, upstream={}) as writer:
        near = write_word_vectors(writer, folder, words=["w5", "unheard"])
        ref = writer.seal().ref
    sealed = store.local(ref)
    table = pq.read_table(sealed / "word_vectors.parquet")
    assert table.column_names == ["id", "token", "word", "vector"]
    np.testing.assert_array_equal(np.stack(table.column("vector").to_numpy()), found.matrix)
    read = read_word_vectors(sealed / "word_vectors.txt")
    assert read.words == WORDS[2:]
    np.testing.assert_allclose(read.matrix, found.matrix[2:], rtol=1e-5)
    assert [(entry.word, len(entry.nearest)) for entry in near] == [("w5", 8), ("unheard", 0)]
    assert (sealed / "neighbours.json").is_file()


def test_nearest_by_angle():
    near = neighbours(VECTORS, ["w1"], count=2)[0].nearest
    assert [word for word, _cosine in near] == ["w2", "other"]
    assert near[0][1] == pytest.approx(2.55 / np.sqrt(1.25 * 5.21), abs=1e-4)
    assert frequent_words(VECTORS) == ["other"]


def test_vectors_of_a_classifier(store, words, tmp_path):
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = {"model_type": "electra", "vocab_size": len(WORDS), "embedding_size": 8, "max_position_embeddings": 20, **sizes}
    (tmp_path / "tiny.json").write_text(json.dumps(config))
    model = {"source": f"config:{tmp_path / 'tiny.json'}", "tokenizer": str(words), "max_length": 16}
    settings = Settings(name="classes", model=model, storage=store.storage.settings)
    exported = export_model(settings, store).ref
    made = import_model(settings, store, onnx_ref=exported, classes=2, label_names=["a", "b"])
    found = token_vectors(store.local(made.ref))
    assert found.matrix.shape == (len(WORDS), 8)
    assert found.words[2:] == WORDS[2:]
