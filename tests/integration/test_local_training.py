"""Rows of a real dataset artifact through real worker processes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers

from ts4s_core.artifacts.store import ArtifactStore
from ts4s_core.artifacts.versions.refs import ArtifactRef
from ts4s_core.data.data_engine import LocalEngine
from ts4s_core.data.dataset import Dataset
from ts4s_core.data.prepare import prepare_dataset
from ts4s_core.data.scan import scan
from ts4s_core.models.import_step import import_model
from ts4s_core.models.model_folder import ModelFolder
from ts4s_core.models.weights import weights_sha256
from ts4s_core.onnx.exporting.step import export_model
from ts4s_core.settings import Settings
from ts4s_core.training.driver.class_weights import balanced_weights
from ts4s_core.training.driver.local_launcher import LocalLauncher
from ts4s_core.training.driver.train_step import Factories, train
from ts4s_core.training.worker.dataset_rows import DatasetRows

TOY = str(Path(__file__).resolve().parents[1] / "unit" / "training")
WORDS = ["[PAD]", "[UNK]", *(f"w{number}" for number in range(200))]


def word_tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel({word: place for place, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return tokenizer


def prepared(store: ArtifactStore, tmp_path: Path, *, task: str = "classification", order: int = 0) -> ArtifactRef:
    """300 rows of three skewed labels, in an order of its own."""
    random = np.random.default_rng(3)
    lines = []
    for row in range(300):
        label = int(random.choice(3, p=[0.6, 0.3, 0.1]))
        words = 20 * label + random.integers(0, 30, int(random.integers(2, 20)))
        name = "abc"[label] if task == "classification" or row % 3 else "abc"[label] + "|" + "abc"[(label + 1) % 3]
        lines.append(f"{name}\t{' '.join(f'w{word}' for word in words)} w{row % 200}")
    lines = [lines[place] for place in np.random.default_rng(order).permutation(len(lines))]
    source = tmp_path / f"rows-{order}.tsv"
    source.write_text("\n".join(lines) + "\n", encoding="utf-8")
    folder = tmp_path / "tokenizer"
    folder.mkdir(exist_ok=True)
    word_tokenizer().save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text('{"pad_token": "[PAD]"}')
    settings = Settings(
        name=f"rows{order}",
        data={"source": str(source), "format": "tsv"},
        model={"max_length": 16, "task": task},
        spark={"master": "none"},
    )
    engine = LocalEngine()
    return prepare_dataset(settings, store, engine, scan=scan(settings, engine), tokenizer_folder=folder).ref


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of tiny models with random weights."""
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

    home = tmp_path_factory.mktemp("bases")
    sizes = {
        "vocab_size": len(WORDS),
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
    }
    configs = {
        "roberta": AutoConfig.for_model("roberta", **sizes, max_position_embeddings=40, pad_token_id=0),
        "gpt2": AutoConfig.for_model("gpt2", vocab_size=len(WORDS), n_embd=32, n_layer=2, n_head=4, n_positions=48),
    }
    for name, config in configs.items():
        torch.manual_seed(0)
        kind = AutoModel if name == "roberta" else AutoModelForCausalLM
        kind.from_config(config).save_pretrained(home / name)
        word_tokenizer().save(str(home / name / "tokenizer.json"))
    return {name: home / name for name in configs}


@pytest.mark.parametrize(
    ("base", "model", "workers"),
    [
        ("roberta", {"attention_dropout": 0.1}, (1, 4)),
        pytest.param("roberta", {"lora_rank": 2}, (1, 2), marks=pytest.mark.long),
        pytest.param("roberta", {"freeze_encoder": True}, (1, 4), marks=pytest.mark.long),
        ("gpt2", {"task": "language-model"}, (1, 2)),
    ],
    ids=["classification", "lora", "frozen", "language-model"],
)
def test_real_models_have_one_hash_for_any_number_of_workers(store, tmp_path, bases, base, model, workers):
    one_hash(store, tmp_path, str(bases[base]), model, [{"workers": count} for count in workers])


@pytest.mark.long
@pytest.mark.timeout(1_500)
@pytest.mark.parametrize(
    ("base", "model", "train"),
    [
        ("roberta", {"attention_dropout": 0.1}, {}),
        ("roberta", {"attention_dropout": 0.1, "task": "multi-label"}, {"batch_size": 37}),
        ("roberta", {"lora_rank": 2}, {"max_grad_norm": 0.05}),
        ("roberta", {"freeze_encoder": True}, {"batch_size": 5}),
        ("roberta", {"class_weights": "balanced"}, {"early_stopping_patience": 1}),
        ("gpt2", {"task": "language-model"}, {}),
        ("gpt2", {"task": "language-model", "lora_rank": 2}, {"batch_size": 13}),
    ],
    ids=["classification", "multi-label", "lora", "frozen", "early-stopping", "language-model", "language-model-lora"],
)
def test_one_two_four_and_eight_workers_have_one_hash(store, tmp_path, bases, base, model, train):
    """Dropout is on; the last batch of an epoch is uneven, or there are fewer rows than parts; one case by the network too."""
    runs = [{"workers": count, "logical_shards": 8, "max_steps": 12, **train} for count in (1, 2, 4, 8)]
    networks = (4,) if model == {"attention_dropout": 0.1} else ()
    one_hash(store, tmp_path, str(bases[base]), model, runs, networks=networks)


def one_hash(store, tmp_path, source: str, model: dict, runs: list[dict], *, networks: tuple[int, ...] = ()) -> None:
    """Train with each of the runs' settings, and by the network with so many workers; compare all that must be the same."""
    language = model.get("task") == "language-model"
    model = {"source": source, "max_length": 16, "dropout": 0.1, **model}
    # A language model here reads the toy's rows; any dataset stands for its own.
    data = prepared(store, tmp_path, task="classification" if language else model.get("task", "classification"))
    facts, content, ledgers = [], [], []
    exchanges = [(run, "auto") for run in runs] + [(run, "network") for run in runs if run["workers"] in networks]
    for number, (run, exchange) in enumerate(exchanges):
        book = tmp_path / f"ledger-{number}"
        train_settings = {"batch_size": 22, "max_steps": 5, "timeout_s": 120, "learning_rate": 0.01, "ledger": str(book), **run}
        settings = Settings(
            name=f"run{number}", train=train_settings, model=model, storage=store.storage.settings, spark={"master": "none"}
        )
        onnx = export_model(settings, store).ref
        labels = None if language else ["a", "b", "c"]
        start = import_model(settings, store, onnx_ref=onnx, classes=0 if language else 3, label_names=labels)
        factories = Factories(rows="toy:rows" if language else Factories.rows, exchange=exchange)
        launcher = LocalLauncher(threads_per_worker=1, python_path=[TOY])
        result = train(settings, store, launcher, dataset=data, model=start.ref, factories=factories)
        facts.append(result.facts)
        content.append(store.manifest(result.ref).content_sha256)
        ledgers.append({line for path in book.iterdir() for line in path.read_text(encoding="ascii").splitlines()})
        assert len(list(book.iterdir())) == run["workers"]
        assert result.facts["weights_sha256"] != start.facts["weights_sha256"]
    assert len({found["weights_sha256"] for found in facts}) == 1
    assert len(set(content)) == 1
    assert all(book == ledgers[0] for book in ledgers)
    trained = ModelFolder(store.local(result.ref)).build()
    assert weights_sha256(trained.trained_tensors()) == facts[0]["weights_sha256"]


def test_rows_of_a_dataset(store, tmp_path):
    with Dataset.open(store, prepared(store, tmp_path)) as dataset:
        rows = DatasetRows(dataset)
        groups = range(len(rows.rows_per_group("train")))
        block = rows.read("train", groups)
        tables = list(dataset.read("train"))
        weights = balanced_weights(dataset)
    ids = [cell for found in tables for cell in found.column("input_ids").to_pylist()]
    assert [block.tokens[a:b].tolist() for a, b in zip(block.offsets, block.offsets[1:], strict=False)] == ids
    assert block.lengths.tolist() == [cell for found in tables for cell in found.column("length").to_pylist()]
    assert list(block.ids) == [cell for found in tables for cell in found.column("id").to_pylist()]
    counts = np.bincount(block.labels, minlength=3)
    assert weights == pytest.approx(len(ids) / (3 * counts))


def test_dataset_order_workers_and_names_do_not_change_the_weights(store, tmp_path):
    with store.begin("model", "toy", "ab" * 32, settings={}, upstream={}) as writer:
        writer.add_json("model.json", {"toy": True})
        model = writer.seal().ref
    hashes = []
    for order, workers in ((0, 1), (1, 2)):
        settings = Settings(
            name=f"run{order}",
            train={"workers": workers, "batch_size": 20, "epochs": 1, "timeout_s": 30, "learning_rate": 0.01},
            model={"class_weights": "balanced"},
            storage=store.storage.settings,
            spark={"master": "none"},
        )
        inputs = {"dataset": prepared(store, tmp_path, order=order), "model": model}
        launcher = LocalLauncher(threads_per_worker=1, python_path=[TOY])
        result = train(settings, store, launcher, **inputs, factories=Factories(model="toy:model"))
        hashes.append(result.facts["weights_sha256"])
        again = train(settings, store, launcher, **inputs, factories=Factories(model="toy:model"))
        assert again.reused
        assert again.ref == result.ref
        assert store.manifest(result.ref).upstream["model"] == str(model)
    assert len(set(hashes)) == 1
