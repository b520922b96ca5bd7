"""Training throughput of ts4s on Spark beside a plain Transformers loop, in turn on the same rows.

Rows have log-normal lengths (median 120, sigma 0.6, clipped to 8..512), the global batch is 16, figures are real tokens
per second over steady steps, medians over rounds, and only their ratio means anything: machines drift.

    python infra/benchmarks/training_speed.py [--rounds 3] [--size S] [--shards 4] [--steps 24]
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
import tempfile
from pathlib import Path
from typing import Any

from side_by_side import HERE, manifest, medians, run_json, ts4s, write_result
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

SIZES = {"S": (6, 384, 12), "B": (12, 768, 12)}
VOCABULARY = 30_000
TRAIN_ROWS = 512
NAME = "speed"


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
    write_result(options.output or HERE / f"training_speed_{options.size}_{options.shards}.json", result)
    share = result["ts4s"]["useful_share"]
    print(f"{options.size}, K = {options.shards}: {result['ratio']:.2f} x the plain loop, useful share {share:.2f}")


def measure(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Both programs in turn; medians of their figures."""
    config, tokenizer, rows = write_inputs(folder, options.size, options.dropout)
    store = folder / "store"
    common = ["--name", NAME, "--storage.uri", str(store), "--model.max_length", "512"]
    model = ["--model.source", f"config:{config}", "--model.tokenizer", str(tokenizer), "--model.dropout", str(options.dropout)]
    model += ["--model.attention_dropout", str(options.attention_dropout)]
    data = [
        "--data.source",
        str(rows),
        "--data.format",
        "tsv",
        "--data.validation_fraction",
        "0.05",
        "--data.test_fraction",
        "0.05",
    ]
    steps = {}
    for step in ("export", "prepare", "import"):
        steps[step] = ts4s(step, *common, *model, *data)["artifact"]
    train = ["--train.batch_size", "16", "--train.max_steps", str(options.steps), "--train.epochs", "100", "--reuse", "false"]
    train += ["--train.logical_shards", str(options.shards), "--train.workers", str(options.workers), *common, *model, *data]
    plain = [sys.executable, str(HERE / "plain_training.py"), "--dataset", str(store / steps["prepare"]), "--model", str(config)]
    plain += ["--batch-size", "16", "--epochs", "100", "--max-steps", str(options.steps), "--pad-id", "1"]
    plain += ["--dropout", str(options.dropout), "--attention-dropout", str(options.attention_dropout)]
    rounds: dict[str, list[dict[str, float]]] = {"plain": [], "ts4s": []}
    for turn in range(options.rounds):
        rounds["plain"].append(run_json(plain))
        facts = manifest(store, ts4s("train", *train)["artifact"])["facts"]
        rounds["ts4s"].append({name: facts[name] for name in ("steps", "tokens_per_s", "padding_fraction")})
        speeds = {name: round(of[-1]["tokens_per_s"]) for name, of in rounds.items()}
        print(f"round {turn + 1}, tokens/s: {speeds}", file=sys.stderr)
    plain_figures, our_figures = medians(rounds["plain"]), medians(rounds["ts4s"])
    for figures in (plain_figures, our_figures):
        shared = {name: plain_figures[name] for name in ("mean_tokens", "gemm_gflops")}
        figures["useful_share"] = useful_share({**shared, **figures}, options.size)
    ratios = [ours["tokens_per_s"] / theirs["tokens_per_s"] for ours, theirs in zip(rounds["ts4s"], rounds["plain"], strict=True)]
    ratio = medians([{"ratio": value} for value in ratios])["ratio"]
    return {
        "size": options.size,
        "shards": options.shards,
        "ratio": ratio,
        "plain": plain_figures,
        "ts4s": our_figures,
        "rounds": rounds,
    }


if __name__ == "__main__":
    main()
