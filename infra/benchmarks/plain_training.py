"""The program that ts4s is measured against: a plain single-process Transformers training loop.

It is what a careful user writes without Spark: the library's own model class, AdamW with no decay on biases and norms,
linear warm-up and decay, gradient clipping, and batches of like length that are padded to their longest row. It reads
the rows that ts4s prepared, so that both see the same tokens, and prints one JSON line.

    python infra/benchmarks/plain_training.py --dataset FOLDER --model FOLDER_OR_CONFIG [--epochs 2 ...]
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification

HERE = Path(__file__).parent


def read_side(dataset: Path, side: str) -> tuple[list[list[int]], list[int]]:
    """Token ids and labels of one side of a prepared dataset."""
    tables = [pq.read_table(path, columns=["input_ids", "label"]) for path in sorted((dataset / side).glob("*.parquet"))]
    rows: list[list[int]] = []
    labels: list[int] = []
    for table in tables:
        rows += table.column("input_ids").to_pylist()
        labels += table.column("label").to_pylist()
    return rows, labels


def like_length_batches(lengths: list[int], batch_size: int, rng: random.Random) -> list[list[int]]:
    """Row numbers cut into batches of like length, in random order, composed anew at each call."""
    order = sorted(range(len(lengths)), key=lambda row: lengths[row] * (1 + 0.03 * (2 * rng.random() - 1)))
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    rng.shuffle(batches)
    return batches


def plan_of(lengths: list[int], options: argparse.Namespace, rng: random.Random) -> list[list[int]]:
    """The batches of a whole run, as row numbers."""
    plan: list[list[int]] = []
    for _ in range(options.epochs):
        plan += like_length_batches(lengths, options.batch_size, rng)
        if options.max_steps and len(plan) >= options.max_steps:
            return plan[: options.max_steps]
    return plan


def padded(rows: list[list[int]], pad_id: int, width: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and attention mask, both (rows, longest) or (rows, ``width``), int64."""
    longest = width or max(map(len, rows))
    ids = torch.full((len(rows), longest), pad_id, dtype=torch.int64)
    mask = torch.zeros((len(rows), longest), dtype=torch.int64)
    for index, row in enumerate(rows):
        ids[index, : len(row)] = torch.tensor(row)
        mask[index, : len(row)] = 1
    return ids, mask


def build(options: argparse.Namespace, classes: int) -> torch.nn.Module:
    """The library's classifier, pretrained from a folder or with random weights from a configuration file."""
    dropouts: dict[str, Any] = {} if options.own_dropout else {"attention_probs_dropout_prob": options.attention_dropout}
    if options.dropout is not None:
        dropouts["hidden_dropout_prob"] = options.dropout
    torch.manual_seed(options.seed)
    if Path(options.model).is_file():
        config = AutoConfig.from_pretrained(options.model, num_labels=classes, **dropouts)
        return AutoModelForSequenceClassification.from_config(config)
    return AutoModelForSequenceClassification.from_pretrained(
        options.model, num_labels=classes, local_files_only=True, **dropouts
    )


def optimizer_of(model: torch.nn.Module, options: argparse.Namespace) -> torch.optim.Optimizer:
    """Fused AdamW without decay on biases and norms."""
    decay = [p for p in model.parameters() if p.ndim >= 2]
    rest = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": decay, "weight_decay": options.weight_decay}, {"params": rest, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=options.learning_rate, fused=True)


@torch.inference_mode()
def accuracy_of(model: torch.nn.Module, rows: list[list[int]], labels: list[int], pad_id: int) -> float:
    """Share of rows whose likeliest class is their label."""
    model.eval()
    right = 0
    order = sorted(range(len(rows)), key=lambda row: len(rows[row]))
    for start in range(0, len(order), 32):
        chosen = order[start : start + 32]
        ids, mask = padded([rows[row] for row in chosen], pad_id)
        guesses = model(input_ids=ids, attention_mask=mask).logits.argmax(-1)
        right += int((guesses == torch.tensor([labels[row] for row in chosen])).sum())
    return right / len(rows)


def train(model: torch.nn.Module, rows: list[list[int]], labels: list[int], options: argparse.Namespace) -> dict[str, float]:
    """Train and return steps, real tokens per second over all but the first two steps, and padding."""
    lengths = [len(row) for row in rows]
    plan = plan_of(lengths, options, random.Random(options.seed))
    cells: list[int] = []

    def loss_of(step: int) -> tuple[torch.Tensor, int]:
        batch = plan[step]
        ids, mask = padded([rows[row] for row in batch], options.pad_id, options.pad_to)
        cells.append(mask.numel())
        answers = torch.tensor([labels[row] for row in batch])
        return model(input_ids=ids, attention_mask=mask, labels=answers).loss, int(mask.sum())

    tokens, speed = run_steps(model, options, len(plan), loss_of)
    return {"steps": len(plan), "tokens_per_s": speed, "padding_fraction": 1 - tokens / sum(cells)}


def run_steps(
    model: torch.nn.Module, options: argparse.Namespace, steps: int, loss_of: Callable[[int], tuple[torch.Tensor, int]]
) -> tuple[int, float]:
    """Train: linear warm-up and decay, gradient clipping.

    Args:
        model: what is trained.
        options: those of :func:`add_training_options`.
        steps: how many.
        loss_of: makes the batch of a step; its loss and its real tokens.

    Returns:
        tokens of all steps, and tokens per second over all but the first two.
    """
    optimizer = optimizer_of(model, options)
    warmup = max(1, int(options.warmup_fraction * steps))
    seconds: list[float] = []
    tokens: list[int] = []
    model.train()
    for step in range(steps):
        begun = time.perf_counter()
        factor = min((step + 1) / warmup, (steps - step) / max(1, steps - warmup), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = options.learning_rate * factor
        loss, count = loss_of(step)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), options.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        seconds.append(time.perf_counter() - begun)
        tokens.append(count)
    steady = slice(min(2, steps - 1), None)
    return sum(tokens), sum(tokens[steady]) / sum(seconds[steady])


def gemm_gflops(size: int = 1024, seconds: float = 2.0) -> float:
    """Rate of FP32 matrix products of this process, in GFLOP/s: what the machine gives at best right now."""
    left, right = torch.rand(size, size), torch.rand(size, size)
    done, begun = 0, time.perf_counter()
    while time.perf_counter() - begun < seconds:
        torch.mm(left, right)
        done += 1
    return 2 * size**3 * done / (time.perf_counter() - begun) / 1e9


def options_of(words: list[str]) -> argparse.Namespace:
    """The options of a training run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gemm-only", action="store_true", help="only measure the machine's rate of matrix products")
    parser.add_argument("--dataset", type=Path, help="folder of a dataset artifact")
    parser.add_argument("--model", help="Hugging Face folder, or a config.json for random weights")
    add_training_options(parser)
    parser.set_defaults(epochs=2, batch_size=32, learning_rate=1e-4, weight_decay=0.01, dropout=None)
    parser.add_argument("--attention-dropout", type=float, default=0.0)
    parser.add_argument("--own-dropout", action="store_true", help="leave every dropout as the model's configuration says")
    parser.add_argument("--pad-id", type=int, default=0)
    parser.add_argument("--pad-to", type=int, default=0, help="pad every row to this many tokens; 0: to the batch's longest")
    return parser.parse_args(words)


def add_training_options(parser: argparse.ArgumentParser) -> None:
    """The options that every training has."""
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--max-steps", type=int, default=0)
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--learning-rate", type=float)
    parser.add_argument("--weight-decay", type=float)
    parser.add_argument("--warmup-fraction", type=float, default=0.1)
    parser.add_argument("--max-grad-norm", type=float, default=1.0)
    parser.add_argument("--dropout", type=float)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)


def main() -> None:
    options = options_of(sys.argv[1:])
    torch.set_num_threads(options.threads)
    if options.gemm_only:
        print(json.dumps({"gemm_gflops": gemm_gflops()}))
        return
    rows, labels = read_side(options.dataset, "train")
    model = build(options, classes=len(set(labels)))
    result: dict[str, Any] = train(model, rows, labels, options)
    held_out, answers = read_side(options.dataset, "test")
    result["accuracy"] = accuracy_of(model, held_out, answers, options.pad_id)
    result["mean_tokens"] = float(np.mean([len(row) for row in rows]))
    result["peak_memory_gib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(json.dumps(result))


if __name__ == "__main__":
    main()
