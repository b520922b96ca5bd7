"""A language model against interpolated Kneser-Ney models over the same tokens, and a look at its sample.

    python infra/benchmarks/language_model_quality.py [--setting default|long] [SETTINGS OF ts4s language-model ...]
    python infra/benchmarks/language_model_quality.py --store FOLDER --trained trained/NAME/VERSION

The first form trains on the embedded corpus in a folder of its own, the second looks at a model that is there. All models
are given the training side's blocks and measured on the test side's: bits per byte of the same bytes, every token after a
block's begin token predicted. An n-gram model sees the whole block before a token, across the windows that the language
model is cut to.

The sample (200 words) is compared with the text of all sides: the longest run of tokens that it has in common with it
(below 12 is asked for), and the share of its words that are words of it (0.9 is asked for). Two samples a seed: one that is kept
from copying longer runs, as the flow's is (``generate.max_copied_tokens``), and one that is free.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from kneser_ney import KneserNey
from numpy.typing import NDArray
from side_by_side import HERE, manifest, ts4s, write_result

from ts4s_core.artifacts.store import ArtifactStore
from ts4s_core.artifacts.versions.refs import ArtifactRef
from ts4s_core.data.corpus.dataset import TextDataset
from ts4s_core.data.corpus.tokens import TextTokenizer
from ts4s_core.language.copy_guard import SPAN, CopyGuard, guard_of, longest_copy, share_of_known_words, words_of
from ts4s_core.language.generate import Generator
from ts4s_core.settings import GenerateSettings, StorageSettings
from ts4s_core.task_kinds.language_model import LANGUAGE_MODEL

#: The longer setting is an LSTM whose output is tied to the token vectors, with much dropout: it goes on learning where the
#: transformer fits the training side's 67,000 tokens too well after a dozen passes.
_LONG = {
    "model.architecture": "recurrent",
    "model.cell": "lstm",
    "model.layers": "2",
    "model.hidden_size": "512",
    "model.embedding_size": "256",
    "model.tie_word_embeddings": "true",
    "model.dropout": "0.5",
    "data.stride": "64",
    "train.learning_rate": "3e-3",
    "train.weight_decay": "0.05",
    "train.epochs": "40",
    "train.early_stopping_patience": "10",
}
SETTINGS: dict[str, list[str]] = {
    "default": [],
    "long": [word for name, value in _LONG.items() for word in (f"--{name}", value)],
}
SAMPLE_WORDS = 200
SAMPLE_TOKENS = 900
SIDES = ("train", "validation", "test")


def blocks_of(dataset: TextDataset, side: str) -> list[NDArray[np.int64]]:
    """The tokens of a side's blocks."""
    return [
        np.array(ids, np.int64) for table in dataset.read(side, ["input_ids"]) for ids in table.column("input_ids").to_pylist()
    ]


def text_of(dataset: TextDataset) -> str:
    """The text of all sides."""
    return "\n".join(
        text for side in SIDES for table in dataset.read(side, ["text"]) for text in table.column("text").to_pylist()
    )


def n_grams(dataset: TextDataset, orders: tuple[int, ...] = (2, 3)) -> dict[str, float]:
    """Bits per byte of the test side by n-gram models of the training side."""
    train, test = blocks_of(dataset, "train"), blocks_of(dataset, "test")
    skip = 0 if dataset.begin_id is None else 1
    size = dataset.text_bytes["test"]
    return {
        str(order): KneserNey(train, order=order, vocabulary=dataset.vocabulary).bits(test, skip=skip) / size for order in orders
    }


def sample_of(generator: Generator, dataset: TextDataset, *, prompt: str, seed: int, guard: CopyGuard | None) -> dict[str, Any]:
    """A sample of 200 words with the settings of the flow's sample, and what is asked of it."""
    options = GenerateSettings(**{**LANGUAGE_MODEL.defaults["generate"], "max_new_tokens": SAMPLE_TOKENS, "seed": seed})
    made = generator.generate([prompt], options, stop_at_end=False, guard=guard)[0]
    return {**checked(first_words(made.text, SAMPLE_WORDS), dataset), "tokens_per_s": len(made.ids) / made.seconds}


def checked(sample: str, dataset: TextDataset) -> dict[str, Any]:
    """The longest run of tokens that a sample has in common with the corpus, and the share of its words that are its words."""
    described = TextTokenizer.of({path.name: path.read_bytes() for path in dataset.tokenizer_folder().iterdir()})
    ids = described.load().encode(sample, add_special_tokens=False).ids
    apart = np.array([-1])
    corpus = np.concatenate([piece for side in SIDES for block in blocks_of(dataset, side) for piece in (block, apart)])
    known = share_of_known_words(sample, set(words_of(text_of(dataset))))
    return {"text": sample, "words": len(sample.split()), "longest_copy": longest_copy(ids, corpus), "known_words": known}


def first_words(text: str, count: int) -> str:
    """The text up to its first so many words."""
    place = 0
    for word in text.split()[:count]:
        place = text.index(word, place) + len(word)
    return text[:place]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--setting", choices=sorted(SETTINGS), default="default")
    parser.add_argument("--store", default=None)
    parser.add_argument("--trained", default=None)
    parser.add_argument("--prompt", default="The man starts with")
    parser.add_argument("--seeds", type=int, default=1, help="samples to look at, with seeds 0, 1, ...")
    parser.add_argument("--output", type=Path, default=None)
    options, rest = parser.parse_known_args()
    if options.store is not None:
        result = compare(Path(options.store), options.trained, options)
    else:
        with tempfile.TemporaryDirectory() as folder:
            began = time.monotonic()
            run = ts4s("language-model", "--name", "quality", "--storage.uri", folder, *SETTINGS[options.setting], *rest)
            seconds = time.monotonic() - began
            result = {**compare(Path(folder), run["artifacts"]["trained"], options), "run": run, "seconds": seconds}
    write_result(options.output or HERE / f"language_model_quality_{options.setting}.json", result)
    figures = {name: round(value, 4) for name, value in result["bits_per_byte"].items()}
    print(json.dumps({"bits_per_byte": figures, "samples": [_short(sample) for sample in result["samples"]]}))


def compare(folder: Path, trained: str, options: argparse.Namespace) -> dict[str, Any]:
    """Bits per byte of the models on the test side, and samples."""
    from ts4s_core.data.data_engine import LocalEngine
    from ts4s_core.evaluation.scoring.language_scores import score_text

    store = ArtifactStore.open(StorageSettings(uri=str(folder)))
    model = ArtifactRef.parse(trained)
    ref = ArtifactRef.parse(manifest(folder, trained)["upstream"]["dataset"])
    scores = score_text(store, LocalEngine(), trained=model, dataset=ref).metrics()
    with TextDataset.open(store, ref) as dataset:
        baselines = n_grams(dataset)
        generator = Generator.open(store.local(model))
        guards = {"guarded": guard_of(store, model, longest=SPAN - 1), "free": None}
        samples = [
            {"kind": kind, **sample_of(generator, dataset, prompt=options.prompt, seed=seed, guard=guard)}
            for kind, guard in guards.items()
            for seed in range(options.seeds)
        ]
        sizes = {"vocabulary": dataset.vocabulary, "bytes": dict(dataset.text_bytes)}
    return {
        "bits_per_byte": {"model": scores["bits_per_byte"], "bigram": baselines["2"], "trigram": baselines["3"]},
        "metrics": scores,
        "dataset": sizes,
        "samples": samples,
    }


def _short(sample: dict[str, Any]) -> dict[str, Any]:
    numbers = {name: round(float(sample[name]), 3) for name in ("words", "longest_copy", "known_words", "tokens_per_s")}
    return {"kind": sample["kind"], **numbers}


if __name__ == "__main__":
    sys.exit(main())
