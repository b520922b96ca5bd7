"""The folders that are handed over answer as ``predict`` does, whatever a tokenizer's configuration says, and where."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from trained_models import LABELS, imported, make_settings, prepare, seal_trained

from ts4s_core.artifacts.store import ArtifactStore
from ts4s_core.artifacts.versions.refs import ArtifactRef
from ts4s_core.errors import ParityError
from ts4s_core.handover import answers
from ts4s_core.handover.export import export_trained
from ts4s_core.models.model_folder import ModelFolder
from ts4s_core.onnx.sources.tokenizer_files import given_tokenizer
from ts4s_core.prediction.predict_split import InferenceSpec, model_of
from ts4s_core.prediction.source_rows import TextRow
from ts4s_core.settings import Settings

MAX_LENGTH = 24
VOCABULARY = 400
WORDS = ("The", "ball", "Team", "goal", "Bank", "stock", "PRICE", "market", "café", "I'm", "1,000", "[SEP]", "</s>", "on-line")


def texts(count: int, *, seed: int = 0) -> list[str]:
    """Texts of 1 to 60 words, in both cases: more than half are longer than the model takes."""
    draw = np.random.default_rng(seed)
    sizes = draw.integers(1, 61, size=count)
    return [" ".join(f"{WORDS[word]}{draw.integers(10)}" for word in draw.integers(0, len(WORDS), size=size)) for size in sizes]


@dataclass(frozen=True)
class Case:
    """A tokenizer, and what its configuration says beside it."""

    make: Callable[[], Tokenizer]
    family: str
    described: dict[str, Any] = field(default_factory=dict)
    #: What the tokens of "ball Team" spell; a vocabulary of lower case knows no "Team".
    spelt: str = ""


def wordpiece(*, lowercase: bool) -> Callable[[], Tokenizer]:
    """BERT's, trained on the texts."""

    def make() -> Tokenizer:
        tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
        # Both cases are in the vocabulary, so that it matters which is looked up.
        tokenizer.train_from_iterator(
            [text for plain in texts(60, seed=9) for text in (plain, plain.lower())],
            trainers.WordPieceTrainer(vocab_size=VOCABULARY, special_tokens=special),
        )
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
        )
        return tokenizer

    return make


def byte_bpe() -> Tokenizer:
    """RoBERTa's, trained on the texts, without a space in front."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=special, initial_alphabet=alphabet)
    tokenizer.train_from_iterator([f" {text}" for text in texts(60, seed=9)], trainer)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False, trim_offsets=True)
    return tokenizer


def unigram() -> Tokenizer:
    """XLM-R's kind, trained on the texts."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(vocab_size=VOCABULARY, special_tokens=special, unk_token="<unk>")
    tokenizer.train_from_iterator(texts(60, seed=9), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)])
    return tokenizer


_BERT = {
    "tokenizer_class": "BertTokenizer",
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
}
_ROBERTA = {"tokenizer_class": "RobertaTokenizer", "pad_token": "<pad>", "eos_token": "</s>", "bos_token": "<s>"}
_PLAIN = {**_ROBERTA, "tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "<unk>"}
CASES = {
    "wordpiece": Case(wordpiece(lowercase=True), "bert", {**_BERT, "do_lower_case": True}, "ballteam"),
    "cased in the configuration alone": Case(wordpiece(lowercase=True), "bert", {**_BERT, "do_lower_case": False}, "ball[UNK]"),
    "byte-level": Case(byte_bpe, "roberta", {**_ROBERTA, "add_prefix_space": False}, "ballĠTeam"),
    "prefix space in the configuration alone": Case(byte_bpe, "roberta", {**_ROBERTA, "add_prefix_space": True}, "ĠballĠTeam"),
    "unigram": Case(unigram, "roberta", _PLAIN),
    "cut on the left": Case(wordpiece(lowercase=True), "bert", {**_BERT, "truncation_side": "left"}),
    "padded on the left": Case(byte_bpe, "roberta", {**_ROBERTA, "padding_side": "left"}),
    "small model_max_length": Case(
        wordpiece(lowercase=False), "bert", {**_BERT, "do_lower_case": False, "model_max_length": 9, "truncation_side": "left"}
    ),
    "special tokens are text": Case(byte_bpe, "roberta", {**_PLAIN, "split_special_tokens": True}),
}
SHORT = ("cased in the configuration alone", "cut on the left")
#: Of this many texts each answer is compared; of a short case of so many.
TEXTS, FEW_TEXTS = 200, 40


def described(folder: Path, case: Case) -> Path:
    """The tokenizer's folder."""
    folder.mkdir(parents=True)
    case.make().save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(case.described))
    return folder


def settings_of(folder: Path, case: Case, *, name: str) -> Settings:
    """Settings of a model of the case's family in a folder, with its tokenizer."""
    config = folder / f"{case.family}-model.json"
    tokenizer = described(folder / name / "given", case)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    pad = {"pad_token_id": Tokenizer.from_file(str(tokenizer / "tokenizer.json")).token_to_id(case.described["pad_token"])}
    sizes |= {"vocab_size": VOCABULARY, "max_position_embeddings": 70, **pad}
    config.write_text(json.dumps({"model_type": case.family, **sizes}))
    (folder / "rows.tsv").write_text("".join(f"{LABELS[at % 3]}\t{text}\n" for at, text in enumerate(texts(240, seed=5))))
    source = {"source": f"config:{config}", "tokenizer": str(tokenizer)}
    return make_settings(folder, case.family, name=name, max_length=MAX_LENGTH, **source)


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Case, str], tuple[Settings, ArtifactRef]]:
    """Settings of a case, and what its family's training starts from, which is exported and imported once."""
    folder = tmp_path_factory.mktemp("answers")
    made: dict[str, ArtifactRef] = {}

    def start(case: Case, name: str) -> tuple[Settings, ArtifactRef]:
        settings = settings_of(folder, case, name=name)
        if case.family not in made:
            made[case.family] = imported(settings)
        return settings, made[case.family]

    return start


def predicted(settings: Settings, ref: ArtifactRef, rows: list[str]) -> np.ndarray:
    """Logits as a task of ``predict`` gives them."""
    model = model_of(InferenceSpec(settings.storage, str(ref), "logits", "onnxruntime", 1))
    marked, values = model.answers([TextRow(text) for text in rows])
    assert values is not None
    assert not any(row.reason for row in marked)
    return values


def pipelined(folder: Path, rows: list[str]) -> np.ndarray:
    """Logits as a user of Transformers gets them."""
    import transformers

    made = transformers.pipeline("text-classification", model=str(folder), tokenizer=str(folder), device="cpu")
    found = made(rows, truncation=True, batch_size=5, top_k=None, function_to_apply="none")
    return np.array([[{entry["label"]: entry["score"] for entry in row}[label] for label in LABELS] for row in found])


def run_in_onnxruntime(folder: Path, rows: list[str]) -> np.ndarray:
    """Logits of model.onnx, fed by the tokenizers library, that reads tokenizer.json alone."""
    import onnxruntime

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer" / "tokenizer.json"))
    tokenizer.encode_special_tokens = json.loads((folder / "tokenizer/tokenizer_config.json").read_text())["split_special_tokens"]
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
    found = []
    for start in range(0, len(rows), 7):
        batch = tokenizer.encode_batch(rows[start : start + 7])
        feed = {"input_ids": [row.ids for row in batch], "attention_mask": [row.attention_mask for row in batch]}
        found.append(session.run(["logits"], {name: np.array(value, np.int64) for name, value in feed.items()})[0])
    return np.concatenate(found)


@pytest.mark.parametrize("name", [name if name in SHORT else pytest.param(name, marks=pytest.mark.long) for name in CASES])
def test_every_form_answers_as_predict(tmp_path: Path, name: str, started: Any) -> None:
    case = CASES[name]
    settings, model = started(case, name.replace(" ", "-"))
    store = ArtifactStore.open(settings.storage)
    files = given_tokenizer(str(settings.model.tokenizer), vocabulary=VOCABULARY)
    ref = seal_trained(settings, dataset=prepare(settings), std=0.6, model=model, tokenizer=files)
    rows = texts(FEW_TEXTS if name in SHORT else TEXTS)
    expected = predicted(settings, ref, rows)
    assert expected.std(axis=0).max() > 0.05  # what hardly looks at the text answers alike whatever its tokens
    for form, answer in (("hf", pipelined), ("onnx", run_in_onnxruntime)):
        made = export_trained(store, ref, form=form, to=tmp_path / form)
        assert (made["answers"]["texts"], made["answers"]["held_out"]) == (answers.MOST_TEXTS + answers.LONG_TEXTS, True)
        assert np.abs(answer(tmp_path / form, rows) - expected).max() < 1e-5 * max(1, np.abs(expected).max()), form
    cut = [len(row.ids) for row in Tokenizer.from_file(str(tmp_path / "hf/tokenizer.json")).encode_batch(rows)]
    assert max(cut) == min(MAX_LENGTH, case.described.get("model_max_length", MAX_LENGTH))
    if case.spelt:
        tokens = Tokenizer.from_file(str(tmp_path / "hf" / "tokenizer.json")).encode("ball Team").tokens[1:-1]
        assert "".join(tokens).replace("##", "") == case.spelt
    if case.described.get("truncation_side") == "left":
        ends = [Tokenizer.from_file(str(tmp_path / "hf/tokenizer.json")).encode(f"{text} market").ids for text in rows[:20]]
        assert len({tuple(ids[-2:]) for ids in ends}) == 1


def test_a_folder_that_answers_otherwise_is_not_handed_over(
    tiny_models: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ts4s_core.handover import tokenizer

    ref = tiny_models.trained("roberta")
    resolved = tokenizer._resolved
    other = lambda *given: {**resolved(*given), "truncation_side": "left"}  # noqa: E731
    monkeypatch.setattr(tokenizer, "_resolved", other)
    with pytest.raises(ParityError, match=r"onnx of trained/roberta/.*the tokens of predict from transformers"):
        export_trained(tiny_models.store, ref, form="onnx", to=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_version_from_before_is_read_as_it_was_trained(tiny_models: Any, tmp_path: Path) -> None:
    """Without encoding.json texts are cut on the right, whatever tokenizer_config.json says; so in what is handed over."""
    ref = tiny_models.trained("roberta")
    store, folder = tiny_models.store, tiny_models.store.local(ref)
    with store.begin("trained", "before", "cd" * 32, settings={}, upstream={}) as writer:
        for path in sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "manifest.json"):
            name = path.relative_to(folder).as_posix()
            if name == "tokenizer/tokenizer_config.json":
                writer.add_json(name, {**json.loads(path.read_bytes()), "truncation_side": "left", "model_max_length": 9})
            else:
                writer.add_file(path, name)
        writer.facts = dict(store.manifest(ref).facts)
        writer.seal()
    export_trained(store, writer.ref, form="hf", to=tmp_path / "out")
    long = " ".join(f"w{word}" for word in range(5, 105))
    reader = Tokenizer.from_file(str(tmp_path / "out" / "tokenizer.json"))
    assert reader.encode(long).ids == [0, *range(5, 27), 2]
    said = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())
    assert (said["truncation_side"], said["model_max_length"]) == ("right", ModelFolder(folder).spec.max_length)
