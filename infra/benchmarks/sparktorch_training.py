"""The same model and rows in SparkTorch's synchronous mode, where its packages (sparktorch, dill) are installed.

SparkTorch takes vectors of one length, so every row is padded to 512, and it draws its mini-batches at random. Its seconds
an iteration are those of a long run less those of a short one, so that the start costs nothing. Prints one JSON line; real
tokens are counted by the mean length of the rows.

    python infra/benchmarks/sparktorch_training.py --dataset FOLDER --model CONFIG [options of plain_training.py]
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import Any

import plain_training
import torch
from side_by_side import prepare_spark

PROCESSES = 2
WIDTH = 512
SHORT, LONG = 2, 8


class FromVectors(torch.nn.Module):
    """A Transformers classifier that takes its token ids as floats, as SparkTorch brings them.

    It is pickled as what it is made from: SparkTorch's dill takes classes of Transformers apart, and fails.
    """

    def __init__(self, options: argparse.Namespace, classes: int) -> None:
        super().__init__()
        self.made_from = (options, classes)
        self.model, self.pad_id = plain_training.build(options, classes), options.pad_id

    def __reduce__(self) -> tuple[Any, ...]:
        return restored, (*self.made_from, self.state_dict())

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """(B, 512) float to logits (B, C)."""
        ids = ids.long()
        logits: torch.Tensor = self.model(input_ids=ids, attention_mask=(ids != self.pad_id).long()).logits
        return logits


class AdamW(torch.optim.AdamW):
    """By a name of this module: torch's own class SparkTorch's dill takes apart, and fails."""


def restored(options: argparse.Namespace, classes: int, state: dict[str, torch.Tensor]) -> FromVectors:
    """The model that was pickled."""
    model = FromVectors(options, classes)
    model.load_state_dict(state)
    return model


def seconds_of(rdd: Any, options: argparse.Namespace, classes: int, iterations: int) -> float:
    """Seconds of a run of so many iterations."""
    import sparktorch_training as importable  # of __main__ workers know nothing
    from sparktorch import serialize_torch_obj
    from sparktorch.distributed import train_distributed

    model = importable.FromVectors(options, classes)
    described = serialize_torch_obj(
        model=model, criterion=torch.nn.CrossEntropyLoss(), optimizer=importable.AdamW, lr=options.learning_rate
    )
    begun = time.perf_counter()
    train_distributed(rdd, described, iters=iterations, mini_batch=options.batch_size // PROCESSES, verbose=0)
    return time.perf_counter() - begun


def main() -> None:
    options = plain_training.options_of(sys.argv[1:])
    torch.set_num_threads(1)
    from pyspark.sql import SparkSession
    from sparktorch.util import DataObj

    prepare_spark()
    rows, labels = plain_training.read_side(options.dataset, "train")
    padded, _mask = plain_training.padded(rows, options.pad_id, WIDTH)
    spark = SparkSession.builder.master(f"local[{PROCESSES}]").config("spark.ui.enabled", "false").getOrCreate()
    try:
        data = [DataObj(ids.tolist(), [float(label)], None, None) for ids, label in zip(padded, labels, strict=True)]
        rdd = spark.sparkContext.parallelize(data, PROCESSES).barrier().mapPartitions(lambda found: found)
        short, long = (seconds_of(rdd, options, len(set(labels)), count) for count in (SHORT, LONG))
    finally:
        spark.stop()
    mean_length = sum(map(len, rows)) / len(rows)
    per_iteration = (long - short) / (LONG - SHORT)
    print(json.dumps({"tokens_per_s": options.batch_size * mean_length / per_iteration, "steps": LONG}))


if __name__ == "__main__":
    main()
