"""What many write first on Spark: the plain loop with one Spark job a step.

The driver holds the model. At each step it broadcasts the weights; each partition computes the gradient of its share of
the like-length batch of ``plain_training.py``; the gradients come back to the driver, which adds them and steps AdamW.
Python workers are used again and keep their model. Prints one JSON line.

    python infra/benchmarks/job_per_step_training.py [--processes 2] --dataset FOLDER --model FOLDER [options of the loop]
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import plain_training
import torch
from numpy.typing import NDArray
from side_by_side import prepare_spark

Share = tuple[list[list[int]], list[int]]
_MODELS: dict[int, torch.nn.Module] = {}


def gradient_of(share: Share, weights: NDArray[np.float32], options: argparse.Namespace, classes: int) -> NDArray[np.float32]:
    """Sum over a share's rows of the loss gradient, as one flat vector; runs in a Spark task."""
    torch.set_num_threads(1)
    if classes not in _MODELS:
        _MODELS[classes] = plain_training.build(options, classes)
    model = _MODELS[classes]
    torch.nn.utils.vector_to_parameters(torch.from_numpy(weights.copy()), model.parameters())
    model.train()
    rows, labels = share
    ids, mask = plain_training.padded(rows, options.pad_id)
    (model(input_ids=ids, attention_mask=mask, labels=torch.tensor(labels)).loss * len(rows)).backward()
    flat = torch.cat([p.grad.reshape(-1) if p.grad is not None else torch.zeros(p.numel()) for p in model.parameters()])
    model.zero_grad(set_to_none=True)
    return flat.numpy()


def train(spark: Any, options: argparse.Namespace, processes: int) -> dict[str, float]:
    """Train with a job a step; the figures of ``plain_training.train``."""
    rows, labels = plain_training.read_side(options.dataset, "train")
    classes = len(set(labels))
    model = plain_training.build(options, classes)
    optimizer = plain_training.optimizer_of(model, options)
    plan = plain_training.plan_of([len(row) for row in rows], options, random.Random(options.seed))
    seconds, tokens = [], []
    context = spark.sparkContext
    for batch in plan:
        begun = time.perf_counter()
        flat = torch.nn.utils.parameters_to_vector(model.parameters()).detach().numpy()
        weights = context.broadcast(flat)
        shares = [([rows[row] for row in part], [labels[row] for row in part]) for part in split(batch, processes)]
        tasks = context.parallelize(shares, len(shares))
        found = tasks.map(lambda share, sent=weights: gradient_of(share, sent.value, options, classes))
        total = torch.from_numpy(sum(found.toLocalIterator(), start=np.zeros_like(flat)) / len(batch))
        weights.unpersist()
        for parameter, gradient in zip(model.parameters(), pieces(total, model), strict=True):
            parameter.grad = gradient
        torch.nn.utils.clip_grad_norm_(model.parameters(), options.max_grad_norm)
        optimizer.step()
        seconds.append(time.perf_counter() - begun)
        tokens.append(sum(len(rows[row]) for row in batch))
    steady = slice(min(2, len(plan) - 1), None)
    return {"tokens_per_s": sum(tokens[steady]) / sum(seconds[steady]), "steps": len(plan)}


def split(batch: list[int], processes: int) -> list[list[int]]:
    """A batch's rows dealt out to the processes."""
    return [share for share in (batch[rank::processes] for rank in range(processes)) if share]


def pieces(flat: torch.Tensor, model: torch.nn.Module) -> Iterator[torch.Tensor]:
    """A flat vector cut into the shapes of a model's parameters."""
    start = 0
    for parameter in model.parameters():
        yield flat[start : start + parameter.numel()].view_as(parameter)
        start += parameter.numel()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], add_help=False)
    parser.add_argument("--processes", type=int, default=2)
    known, words = parser.parse_known_args()
    options = plain_training.options_of(words)
    torch.set_num_threads(known.processes)

    from pyspark.sql import SparkSession

    prepare_spark()
    builder = SparkSession.builder.master(f"local[{known.processes}]").config("spark.ui.enabled", "false")
    spark = builder.config("spark.driver.memory", "4g").config("spark.driver.maxResultSize", "0").getOrCreate()
    try:
        print(json.dumps(train(spark, options, known.processes)))
    finally:
        spark.stop()


if __name__ == "__main__":
    sys.exit(main())
