"""Training throughput of ts4s on Spark beside other programs, in turn on the same rows.

Rows have log-normal lengths (median 120, sigma 0.6, clipped to 8..512), the global batch is 16, figures are real tokens
per second over steady steps, medians over rounds, and only their ratio means anything: machines drift. ``first_step_s`` is
the time from the command to its first line of a step.

The others (``--against``, one or several): ``plain``, a Transformers loop of one process on like-length batches with the
same dropout; ``plain-library``, that loop with the dropout of the model's own configuration; ``padded``, that loop with
every row padded to 512; ``ddp``, that loop under TorchDistributor and DDP; ``job-per-step``, one Spark job a step;
``sparktorch``.

    python infra/benchmarks/training_speed.py [--against plain ddp] [--rounds 3] [--size S] [--shards 4] [--steps 24]
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import random
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from side_by_side import HERE, manifest, medians, run_json, seconds_until, ts4s, write_result
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

SIZES = {"S": (6, 384, 12), "B": (12, 768, 12)}
VOCABULARY = 30_000
TRAIN_ROWS = 512
NAME = "speed"
#: Program and what it is told besides; every one takes the options of plain_training.py.
OTHERS = {
    "plain": ("plain_training.py", ()),
    "plain-library": ("plain_training.py", ("--own-dropout",)),
    "padded": ("plain_training.py", ("--pad-to", "512")),
    "ddp": ("ddp_training.py", ("--processes", "2")),
    "job-per-step": ("job_per_step_training.py", ("--processes", "2")),
    "sparktorch": ("sparktorch_training.py", ()),
}


def write_inputs(folder: Path, size: str, dropout: float) -> tuple[Path, Path, Path]:
    """A configuration, a word-level tokenizer and a file of labelled rows with the wanted lengths."""
    layers, hidden, heads = SIZES[size]
    config = {
        "architectures": ["RobertaModel"], "model_type": "roberta", "vocab_size": VOCABULARY, "hidden_size": hidden,
        "num_hidden_layers": layers, "num_attention_heads": heads, "intermediate_size": 4 * hidden,
        "max_position_embeddings": 514, "type_vocab_size": 1, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2,
        "hidden_dropout_prob": dropout, "attention_probs_dropout_prob": 0.1, "layer_norm_eps": 1e-5, "hidden_act": "gelu",
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    words = ["<s>", "<pad>", "</s>", "<unk>", *(f"w{number}" for number in range(VOCABULARY - 4))]
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)])
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=512
    )
    wrapped.save_pretrained(folder / "tokenizer")
    rng = random.Random(0)
    lines = []
    for _ in range(int(TRAIN_ROWS / 0.9)):
        length = min(512, max(8, round(math.exp(rng.gauss(math.log(120), 0.6)))))
        text = " ".join(f"w{rng.randrange(VOCABULARY - 4)}" for _ in range(length - 2))
        lines.append(f"{rng.choice('abcd')}\t{text}\n")
    (folder / "rows.tsv").write_text("".join(lines), encoding="utf-8")
    return folder / "config.json", folder / "tokenizer", folder / "rows.tsv"


def useful_share(result: dict[str, float], size: str) -> float:
    """FLOPs that the model needs for its real tokens over those of the machine's GEMM rate.

    6 FLOPs per non-embedding parameter and token (2 forward, 4 backward) and 12 per layer, hidden unit and attended
    token for the attention products (Kaplan et al. 2020, section 2.1).
    """
    layers, hidden, _ = SIZES[size]
    per_token = 6 * 12 * layers * hidden**2 + 12 * layers * hidden * result["mean_tokens"]
    return result["tokens_per_s"] * per_token / (result["gemm_gflops"] * 1e9)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--against", choices=sorted(OTHERS), nargs="+", default=["plain"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--size", choices=sorted(SIZES), default="S")
    parser.add_argument("--shards", type=int, default=4, help="train.logical_shards")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--dropout", type=float, default=0.1, help="on hidden states, in both programs")
    parser.add_argument("--attention-dropout", type=float, default=0.0, help="on attention weights, in both programs")
    parser.add_argument("--output", type=Path, default=None)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        result = measure(Path(name), options)
    against = "-".join(options.against)
    name = f"training_speed_{options.size}_{options.shards}_{against}_{options.attention_dropout:g}.json"
    write_result(options.output or HERE / name, result)
    ratios = ", ".join(f"{ratio:.2f} x {other}" for other, ratio in result["ratio"].items())
    print(f"{options.size}, K = {options.shards}: {ratios}; useful share {result['ts4s']['useful_share']:.2f}")


def prepared(folder: Path, options: argparse.Namespace) -> tuple[Path, list[str]]:
    """A store with the model and the dataset, and the settings that every step is given."""
    config, tokenizer, rows = write_inputs(folder, options.size, options.dropout)
    words = ["--name", NAME, "--storage.uri", str(folder / "store"), "--model.max_length", "512"]
    words += ["--model.source", f"config:{config}", "--model.tokenizer", str(tokenizer), "--model.dropout", str(options.dropout)]
    words += ["--model.attention_dropout", str(options.attention_dropout), "--data.source", str(rows), "--data.format", "tsv"]
    words += ["--data.validation_fraction", "0.05", "--data.test_fraction", "0.05"]
    for step in ("export", "prepare", "import"):
        ts4s(step, *words)
    return folder / "store", words


def measure(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """All programs in turn; medians of their figures, and of each other's ratio in the same round."""
    store, words = prepared(folder, options)
    train = ["--train.batch_size", "16", "--train.max_steps", str(options.steps), "--train.epochs", "100", "--reuse", "false"]
    train += ["--train.logical_shards", str(options.shards), "--train.workers", str(options.workers), *words]
    other = ["--dataset", str(next((store / "dataset" / NAME).iterdir()))]
    other += ["--model", str(folder / "config.json"), "--batch-size", "16", "--epochs", "100", "--pad-id", "1"]
    other += ["--max-steps", str(options.steps), "--dropout", str(options.dropout)]
    other += ["--attention-dropout", str(options.attention_dropout)]
    gemm = [sys.executable, str(HERE / "plain_training.py"), "--gemm-only"]
    rounds: dict[str, list[dict[str, float]]] = {name: [] for name in ("gemm", "ts4s", *options.against)}
    for turn in range(options.rounds):
        rounds["gemm"].append(run_json(gemm))
        rounds["ts4s"].append(our_figures(store, ts4s("train", *train)["artifact"], options.workers))
        for name in options.against:
            program, more = OTHERS[name]
            rounds[name].append(run_json([sys.executable, str(HERE / program), *other, *more]))
        speeds = {name: round(of[-1]["tokens_per_s"]) for name, of in rounds.items() if name != "gemm"}
        print(f"round {turn + 1}, tokens/s: {speeds}", file=sys.stderr)
    figures = {name: medians(of) for name, of in rounds.items()}
    for name in ("ts4s", *options.against):
        shared = {"mean_tokens": mean_tokens(folder), "gemm_gflops": figures["gemm"]["gemm_gflops"]}
        figures[name]["useful_share"] = useful_share({**figures[name], **shared}, options.size)
    ratio = {name: ratio_of(rounds["ts4s"], rounds[name]) for name in options.against}
    first_step_s = seconds_until("train step=", "train", *train)
    settings = {name: getattr(options, name) for name in ("size", "shards", "steps", "dropout", "attention_dropout")}
    return {**settings, "ratio": ratio, "first_step_s": first_step_s, **figures, "rounds": rounds}


def ratio_of(ours: list[dict[str, float]], theirs: list[dict[str, float]]) -> float:
    """Median over rounds of our tokens a second over theirs."""
    return median(mine["tokens_per_s"] / other["tokens_per_s"] for mine, other in zip(ours, theirs, strict=True))


def our_figures(store: Path, trained: str, workers: int) -> dict[str, float]:
    """Speed, padding and memory of a training run; the memory of all workers is that of the largest times their number."""
    facts = manifest(store, trained)["facts"]
    with (store / trained / "metrics.csv").open(encoding="utf-8") as file:
        peak_mib = max(float(row["memory"]) for row in csv.DictReader(file))
    return {name: facts[name] for name in ("steps", "tokens_per_s", "padding_fraction")} | {
        "peak_memory_gib": workers * peak_mib / 1024
    }


def mean_tokens(folder: Path) -> float:
    """Tokens of a row, special ones included, on average."""
    lines = (folder / "rows.tsv").read_text(encoding="utf-8").splitlines()
    return sum(len(line.split("\t", 1)[1].split()) + 2 for line in lines) / len(lines)


if __name__ == "__main__":
    main()
