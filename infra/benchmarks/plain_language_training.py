"""The program that language models are measured against: a plain single-process Transformers training loop.

It is what a careful user writes without Spark: the library's own causal model class, its own causal attention kernel, AdamW
with no decay on biases and norms, linear warm-up and decay, gradient clipping, shuffled windows. It reads the windows that
ts4s prepared, so that both see the same tokens, and prints one JSON line.

    python infra/benchmarks/plain_language_training.py --dataset FOLDER --model CONFIG.json [--epochs 16 ...]
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from plain_training import add_training_options, gemm_gflops, run_steps
from transformers import AutoConfig, AutoModelForCausalLM

NO_TARGET = -100


def read_side(dataset: Path, side: str) -> list[tuple[NDArray[np.int64], list[int]]]:
    """Tokens and window starts of each block of a side."""
    tables = [pq.read_table(path, columns=["input_ids", "starts"]) for path in sorted((dataset / side).glob("*.parquet"))]
    return [
        (np.array(ids, np.int64), starts)
        for table in tables
        for ids, starts in zip(table.column("input_ids").to_pylist(), table.column("starts").to_pylist(), strict=True)
    ]


def batch_of(windows: list[NDArray[np.int64]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs and next tokens, both (windows, longest)."""
    longest = max(map(len, windows)) - 1
    inputs = torch.zeros((len(windows), longest), dtype=torch.int64)
    targets = torch.full((len(windows), longest), NO_TARGET, dtype=torch.int64)
    for row, window in enumerate(windows):
        inputs[row, : len(window) - 1] = torch.from_numpy(window[:-1])
        targets[row, : len(window) - 1] = torch.from_numpy(window[1:])
    return inputs, targets


def build(options: argparse.Namespace) -> torch.nn.Module:
    """The library's causal model with random weights; dropout on hidden states as asked, none on attention weights."""
    config = AutoConfig.from_pretrained(options.model)
    for name in ("resid_pdrop", "embd_pdrop"):
        if hasattr(config, name):
            setattr(config, name, options.dropout)
    for name in ("attn_pdrop", "attention_dropout"):
        if hasattr(config, name):
            setattr(config, name, 0.0)
    torch.manual_seed(options.seed)
    return AutoModelForCausalLM.from_config(config)


@torch.inference_mode()
def held_out_loss(model: torch.nn.Module, blocks: list[tuple[NDArray[np.int64], list[int]]], window: int) -> float:
    """Nats a token: every token predicted once, with half a window before it wherever there is one."""
    model.eval()
    nats, count, half = 0.0, 0, max(1, window // 2)
    for ids, _starts in blocks:
        for start in range(0, max(1, len(ids) - 1 - (window - half)), half):
            inputs, targets = batch_of([ids[start : start + window + 1]])
            if start:
                targets[:, : window - half] = NO_TARGET
            logits = model(input_ids=inputs).logits
            nats += float(F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=NO_TARGET, reduction="sum"))
            count += int((targets != NO_TARGET).sum())
    return nats / count


def train(model: torch.nn.Module, windows: list[NDArray[np.int64]], options: argparse.Namespace) -> dict[str, float]:
    """Train, and return steps and tokens per second over all but the first two steps."""
    random = np.random.default_rng(options.seed)
    per_epoch = math.ceil(len(windows) / options.batch_size)
    steps = min(options.epochs * per_epoch, options.max_steps or options.epochs * per_epoch)
    order: NDArray[np.int64] = np.empty(0, np.int64)

    def loss_of(_step: int) -> tuple[torch.Tensor, int]:
        nonlocal order
        if not len(order):
            order = random.permutation(len(windows))
        chosen, order = order[: options.batch_size], order[options.batch_size :]
        inputs, targets = batch_of([windows[place] for place in chosen])
        logits = model(input_ids=inputs).logits
        loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=NO_TARGET)
        return loss, int((targets != NO_TARGET).sum())

    _tokens, speed = run_steps(model, options, steps, loss_of)
    return {"steps": steps, "tokens_per_s": speed}


def options_of(words: list[str]) -> argparse.Namespace:
    """The options of a training run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", type=Path, required=True, help="folder of a text dataset artifact")
    parser.add_argument("--model", required=True, help="a config.json")
    parser.add_argument("--window", type=int, required=True)
    add_training_options(parser)
    parser.set_defaults(epochs=16, batch_size=16, learning_rate=2e-3, weight_decay=0.1, dropout=0.1)
    return parser.parse_args(words)


def main() -> None:
    options = options_of(sys.argv[1:])
    torch.set_num_threads(options.threads)
    windows = [ids[start : start + options.window + 1] for ids, starts in read_side(options.dataset, "train") for start in starts]
    model = build(options)
    gemm = gemm_gflops()
    result: dict[str, Any] = train(model, windows, options)
    result |= {"gemm_gflops": gemm, "loss": held_out_loss(model, read_side(options.dataset, "test"), options.window)}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
