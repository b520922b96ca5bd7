"""The second program that ts4s is measured against: the plain loop under PyTorch DDP, started by Spark's TorchDistributor.

Every process takes its share of each like-length batch of ``plain_training.py``, one thread each. Prints one JSON line.

    python infra/benchmarks/ddp_training.py [--processes 2] --dataset FOLDER --model FOLDER [options of plain_training.py]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import sys
import tempfile
import time
from pathlib import Path

import plain_training
import torch
import torch.distributed as dist
from side_by_side import prepare_spark
from torch.nn.parallel import DistributedDataParallel

RESULT_VARIABLE = "BENCHMARK_RESULT_FILE"


def train_rank(words: list[str]) -> None:
    """What each process of the distributor runs; rank 0 writes the figures to the file named in the environment."""
    options = plain_training.options_of(words)
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank, world_size = dist.get_rank(), dist.get_world_size()
    rows, labels = plain_training.read_side(options.dataset, "train")
    model = DistributedDataParallel(plain_training.build(options, classes=len(set(labels))))
    optimizer = plain_training.optimizer_of(model, options)
    rng = random.Random(options.seed)
    plan = plain_training.plan_of([len(row) for row in rows], options, rng)
    seconds, tokens = [], []
    model.train()
    for batch in plan:
        begun = time.perf_counter()
        share = batch[rank::world_size] or batch[:1]
        ids, mask = plain_training.padded([rows[row] for row in share], options.pad_id)
        loss = model(input_ids=ids, attention_mask=mask, labels=torch.tensor([labels[row] for row in share])).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), options.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        seconds.append(time.perf_counter() - begun)
        tokens.append(sum(len(rows[row]) for row in batch))
    steady = slice(min(2, len(plan) - 1), None)
    peaks: list[float] = [0.0] * world_size
    dist.all_gather_object(peaks, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)
    if rank == 0:
        figures = {"tokens_per_s": sum(tokens[steady]) / sum(seconds[steady]), "peak_memory_gib": sum(peaks), "steps": len(plan)}
        Path(os.environ[RESULT_VARIABLE]).write_text(json.dumps(figures), encoding="utf-8")
    dist.destroy_process_group()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], add_help=False)
    parser.add_argument("--processes", type=int, default=2)
    known, words = parser.parse_known_args()
    plain_training.options_of(words)

    from pyspark.ml.torch.distributor import TorchDistributor
    from pyspark.sql import SparkSession

    prepare_spark()
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        os.environ[RESULT_VARIABLE] = str(result)
        spark = SparkSession.builder.master(f"local[{known.processes}]").config("spark.ui.enabled", "false").getOrCreate()
        try:
            distributor = TorchDistributor(num_processes=known.processes, local_mode=False, use_gpu=False)
            distributor.run(__file__, "--rank-of-distributor", *words)
        finally:
            spark.stop()
        print(result.read_text(encoding="utf-8"))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--rank-of-distributor"]:
        train_rank(sys.argv[2:])
    else:
        main()
