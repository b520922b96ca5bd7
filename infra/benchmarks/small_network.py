"""A small network, where the cost of an engine shows: an MLP of 784-256-256-10 on 20,000 rows, beside SparkTorch.

Each round runs each system once, in a process and a session of its own, one after the other. A run fits three times on two
workers: the first fit of the session (workers start and import), a warm one of as many iterations, and a long one, whose
seconds less those of the warm one, over the difference in iterations, are those of a step. Then it transforms the rows for
the first time. Memory is the largest sum of the proportional set sizes (PSS) of the session's Python workers while it fits.
``cpu`` figures are processor seconds of the driver, its JVM and the workers together: on a busy machine they alone compare.

    python infra/benchmarks/small_network.py --result infra/benchmarks/small_network.json --sparktorch FOLDER

FOLDER is where ``pip install --no-deps --target FOLDER sparktorch==0.2.0 dill`` put its packages; without it ts4s runs alone.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from side_by_side import HERE, medians, prepare_spark, run_json, write_result
from torch import nn

ROWS, PIXELS, CLASSES, HIDDEN = 20_000, 784, 10, 256
BATCH_SIZE, WORKERS, SEED, LEARNING_RATE = 256, 2, 11, 1e-3
SHORT, LONG = 50, 200
_SAMPLE_EVERY_S = 0.1


class Mlp(nn.Module):
    """The network, in the same weights for each system."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(SEED)
        self.layers = nn.Sequential(
            nn.Linear(PIXELS, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, CLASSES)
        )

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """(B, 784) to logits (B, 10)."""
        logits: torch.Tensor = self.layers(pixels)
        return logits


class Adam(torch.optim.Adam):
    """By a name of this module: torch's own class SparkTorch's dill takes apart, and fails."""


def table(spark: Any) -> Any:
    """The rows: ``features`` (a vector) and ``label``, cached in two partitions."""
    from pyspark.ml.functions import array_to_vector
    from pyspark.sql import functions as F

    random = np.random.default_rng(SEED)
    labels = random.integers(0, CLASSES, ROWS)
    pixels = random.normal(size=(CLASSES, PIXELS))[labels] + 3 * random.normal(size=(ROWS, PIXELS))
    frame = spark.createDataFrame(np.column_stack([labels, pixels]))
    names = frame.columns
    vector = array_to_vector(F.array(*names[1:])).alias("features")
    rows = frame.select(vector, F.col(names[0]).alias("label")).repartition(WORKERS).cache()
    rows.count()
    return rows


def ts4s_fit(rows: Any, iterations: int, shards: int) -> Any:
    """A fitted ``TorchModel``."""
    import small_network as importable  # of __main__ workers know nothing

    from ts4s_core.spark import TorchEstimator

    return TorchEstimator(
        module=importable.Mlp(),
        learningRate=LEARNING_RATE,
        batchSize=BATCH_SIZE,
        maxIter=iterations,
        workers=WORKERS,
        logicalShards=shards,
    ).fit(rows)


def sparktorch_fit(rows: Any, iterations: int, shards: int) -> Any:
    """A fitted ``SparkTorchModel``."""
    import small_network as importable
    from sparktorch import SparkTorch, serialize_torch_obj

    described = serialize_torch_obj(
        model=importable.Mlp(), criterion=nn.CrossEntropyLoss(), optimizer=importable.Adam, lr=LEARNING_RATE
    )
    return SparkTorch(
        inputCol="features",
        labelCol="label",
        predictionCol="prediction",
        torchObj=described,
        iters=iterations,
        miniBatch=BATCH_SIZE // WORKERS,
        partitions=WORKERS,
    ).fit(rows)


FITS = {"ts4s": ts4s_fit, "sparktorch": sparktorch_fit}


class WorkerMemory:
    """Samples the sum of the Python workers' PSS in a thread."""

    def __init__(self) -> None:
        self.largest_mib = 0.0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sample)

    def __enter__(self) -> WorkerMemory:
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._ended.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._ended.wait(_SAMPLE_EVERY_S):
            total = 0
            for process in psutil.Process().children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    if process.name().startswith("python"):
                        total += process.memory_full_info().pss
            self.largest_mib = max(self.largest_mib, total / 2**20)


def processor_s() -> float:
    """Processor seconds so far of this process and all that it started."""
    total = 0.0
    for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
        with contextlib.suppress(psutil.Error):
            total += sum(process.cpu_times()[:4])  # user, system, and those of its children that ended
    return total


@contextlib.contextmanager
def timed(figures: dict[str, float], name: str) -> Iterator[None]:
    """Seconds and processor seconds of a block, as figures."""
    begun, used = time.perf_counter(), processor_s()
    yield
    figures[f"{name}_s"] = time.perf_counter() - begun
    figures[f"{name}_cpu_s"] = processor_s() - used


def run(system: str, shards: int) -> dict[str, float]:
    """The figures of one system, in this process."""
    from pyspark.sql import SparkSession

    torch.set_num_threads(1)
    prepare_spark()
    builder = SparkSession.builder.master(f"local[{WORKERS}]").config("spark.ui.enabled", "false")
    spark = builder.config("spark.driver.memory", "2g").getOrCreate()
    spark.sparkContext.setLogLevel("OFF")
    figures: dict[str, float] = {}
    fit = FITS[system]
    try:
        rows = table(spark)
        with WorkerMemory() as memory:
            with timed(figures, "first_fit"):
                fit(rows, SHORT, shards)
            with timed(figures, "warm_fit"):
                fit(rows, SHORT, shards)
            with timed(figures, "long_fit"):
                model = fit(rows, LONG, shards)
        for kind in ("", "_cpu"):
            seconds = figures[f"long_fit{kind}_s"] - figures[f"warm_fit{kind}_s"]
            figures[f"step{kind}_ms"] = seconds / (LONG - SHORT) * 1e3
        figures["workers_pss_mib"] = memory.largest_mib
        with timed(figures, "first_transform"):
            right = model.transform(rows).where("prediction = label").count()
        figures["accuracy"] = right / ROWS
    finally:
        spark.stop()
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--shards", type=int, default=4, help="logicalShards of ts4s")
    parser.add_argument("--sparktorch", type=Path, help="folder with the packages of SparkTorch")
    parser.add_argument("--result", type=Path, help="where to write the result as JSON")
    parser.add_argument("--system", choices=sorted(FITS), help="run one system once, here, and print its figures")
    options = parser.parse_args()
    if options.system:
        print(json.dumps(run(options.system, options.shards)))
        return
    systems = ["ts4s", "sparktorch"] if options.sparktorch else ["ts4s"]
    path = os.pathsep.join(filter(None, [str(HERE), str(options.sparktorch or ""), os.environ.get("PYTHONPATH", "")]))
    rounds: dict[str, list[dict[str, float]]] = {system: [] for system in systems}
    for _round in range(options.rounds):
        for system in systems:
            command = [sys.executable, __file__, "--system", system, "--shards", str(options.shards)]
            rounds[system].append(run_json(command, environ={"PYTHONPATH": path}))
    middle = {system: medians(found) for system, found in rounds.items()}
    result: dict[str, Any] = {"medians": middle, "rounds": rounds}
    if "sparktorch" in middle:
        result["ratios"] = {name: value / middle["sparktorch"][name] for name, value in middle["ts4s"].items()}
    print(json.dumps({name: result[name] for name in ("medians", "ratios") if name in result}, indent=2))
    if options.result:
        write_result(options.result, result)


if __name__ == "__main__":
    main()
