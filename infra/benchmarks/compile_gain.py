"""What ``train.compile`` gains: the same training with and without it, in turn, on the pretrained MiniLM and the docstring data.

Speeds are medians over steps after the first ones, in which kernels are made; what making them costs is said apart.

    python infra/benchmarks/compile_gain.py --store FOLDER [--steps 40] [--rounds 3]
"""

from __future__ import annotations

import argparse
import csv
import sys
from pathlib import Path
from statistics import median
from typing import Any

from side_by_side import HERE, medians, ts4s, write_result

NAME = "compile"
#: Steps in which kernels are still made.
FIRST_STEPS = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--store", type=Path, required=True, help="folder for the artifacts")
    parser.add_argument("--name", default=NAME, help="of the artifacts in the store; made where they are missing")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--output", type=Path, default=HERE / "compile_gain.json")
    options = parser.parse_args()
    common = ["--name", options.name, "--storage.uri", str(options.store), "--spark.master", "none"]
    if not (options.store / "model" / options.name).exists():
        for step in ("export", "prepare", "import"):
            ts4s(step, *common)
    train = [*common, "--train.max_steps", str(options.steps), "--train.workers", str(options.workers), "--reuse", "false"]
    train += ["--train.timeout_s", "600"]
    rounds: dict[str, list[dict[str, float]]] = {"plain": [], "compiled": []}
    for _ in range(options.rounds):
        rounds["plain"].append(_figures(options.store, ts4s("train", *train)))
        rounds["compiled"].append(_figures(options.store, ts4s("train", *train, "--train.compile", "true")))
        print({name: of[-1] for name, of in rounds.items()}, file=sys.stderr)
    ratios = [
        compiled["tokens_per_s"] / plain["tokens_per_s"]
        for plain, compiled in zip(rounds["plain"], rounds["compiled"], strict=True)
    ]
    figures = {name: medians(of) for name, of in rounds.items()}
    costs = figures["compiled"]["first_steps_s"] - figures["plain"]["first_steps_s"]
    write_result(options.output, {"ratio": median(ratios), "costs_s": costs, **figures, "rounds": rounds})
    print(f"compiled {median(ratios):.2f} x plain, after {costs:.0f} s for the kernels")


def _figures(store: Path, trained: dict[str, Any]) -> dict[str, float]:
    """Median tokens a second of later steps, and how long the first ones took."""
    with (store / trained["artifact"] / "metrics.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    steady = [1e3 * float(row["tokens"]) / float(row["milliseconds"]) for row in rows[FIRST_STEPS:]]
    return {"tokens_per_s": median(steady), "first_steps_s": sum(float(row["milliseconds"]) for row in rows[:FIRST_STEPS]) / 1e3}


if __name__ == "__main__":
    main()
