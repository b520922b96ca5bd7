"""The price of a checkpoint: the same training on Spark with one every few steps and with none, in turn.

Checkpoints come much more often than they would, so that what one costs stands out of the machine's noise: the difference
of the two trainings' seconds from the third step to the last, over the checkpoints written in between. ``price_at_50`` is
that cost over the time of 50 steps without.

    python infra/benchmarks/checkpoint_price.py [--size S] [--every 4] [--steps 30] [--rounds 3]
"""

from __future__ import annotations

import argparse
import csv
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from side_by_side import HERE, ts4s, write_result
from training_speed import prepared

from ts4s_core.training.driver.metrics import UNSTEADY_STEPS

INTERVAL = 50
_NEVER = 100_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=("S", "B"), default="S")
    parser.add_argument("--every", type=int, default=4, help="steps between checkpoints, longer than one takes to write")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--attention-dropout", type=float, default=0.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        rounds = measure(Path(name), options)
    written = len([step for step in range(1, options.steps - 1) if step > UNSTEADY_STEPS and step % options.every == 0])
    costs = [(turn["with"] - turn["without"]) / written for turn in rounds]
    step_s = median(turn["without"] for turn in rounds) / (options.steps - UNSTEADY_STEPS)
    settings = {key: getattr(options, key) for key in ("size", "steps", "every")}
    result = {**settings, "checkpoints": written, "cost_s": median(costs), "step_s": step_s}
    result |= {"price_at_50": median(costs) / (INTERVAL * step_s), "costs_s": costs, "rounds": rounds}
    write_result(HERE / f"checkpoint_price_{options.size}.json", result)
    print(f"{options.size}: a checkpoint costs {median(costs):.2f} s, {result['price_at_50']:.2%} of {INTERVAL} steps")


def measure(folder: Path, options: argparse.Namespace) -> list[dict[str, float]]:
    """Seconds of the steady steps with checkpoints and without, by round."""
    store, words = prepared(folder, options)
    train = ["--train.batch_size", "16", "--train.max_steps", str(options.steps), "--train.epochs", "100", "--reuse", "false"]
    train += ["--train.workers", "2", *words]
    rounds = []
    for turn in range(options.rounds):
        arms = [("with", options.every), ("without", _NEVER)]
        seconds = {}
        for name, every in arms if turn % 2 == 0 else reversed(arms):
            trained = ts4s("train", *train, "--train.checkpoint_every_steps", str(every))["artifact"]
            seconds[name] = steady_seconds(store / trained / "metrics.csv")
        print(f"round {turn + 1}: {seconds}", file=sys.stderr)
        rounds.append(seconds)
    return rounds


def steady_seconds(metrics: Path) -> float:
    """Seconds of all steps but the first two, the time between steps included."""
    with metrics.open(encoding="utf-8") as file:
        rows: list[dict[str, Any]] = list(csv.DictReader(file))
    return sum(float(row["milliseconds"]) for row in rows[UNSTEADY_STEPS:]) / 1e3


if __name__ == "__main__":
    main()
