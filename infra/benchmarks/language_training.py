"""Training of a language model by ts4s against a plain PyTorch loop: speed, and the held-out loss that both come to.

    python infra/benchmarks/language_training.py [--rounds 3] [--steps 60] [--whole] [--workers 2]

ts4s makes the windows and the decoder of the embedded corpus; both programs then train a model of that shape on those
windows, in turn, for a few steps, and ``ratio`` is the median of tokens/s. With ``--whole`` both train once to the end of
the default schedule, and ``loss_difference`` says how far apart their held-out losses are (nats a token, as a share).
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from side_by_side import HERE, manifest, medians, run_json, ts4s, write_result

from ts4s_core.task_kinds.language_model import LANGUAGE_MODEL

NAME = "speed"
TASK = ["--model.task", "language-model"]


def flags(values: dict[str, Any]) -> list[str]:
    """Settings of the group ``train`` as flags."""
    return [word for name, value in values.items() for word in (f"--train.{name}", str(value))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--whole", action="store_true", help="train to the end, and compare the held-out losses")
    parser.add_argument("--output", type=Path, default=None)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = measure(Path(folder), options)
    write_result(options.output or HERE / f"language_training{'_whole' if options.whole else ''}.json", result)
    print(json.dumps({name: round(result[name], 4) for name in ("ratio", "loss_difference") if name in result}))


def measure(store: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Both programs in turn."""
    common = ["--name", NAME, "--storage.uri", str(store)]
    short = ["--train.max_steps", "2", "--generate.max_new_tokens", "1"]
    dropout = str(LANGUAGE_MODEL.defaults_of_new["model"]["dropout"])
    first = ts4s("language-model", *common, *short)["artifacts"]
    model = first["model"]
    settings = dict(LANGUAGE_MODEL.defaults_of_new["train"])
    settings.pop("early_stopping_patience")  # the plain loop has none
    steps = {} if options.whole else {"max_steps": options.steps}
    ours = ["train", *common, *TASK, "--reuse", "false", "--from", first["dataset"], "--from", model]
    ours += flags({**settings, **steps, "workers": options.workers})
    facts = manifest(store, first["dataset"])["facts"]
    plain = [sys.executable, str(HERE / "plain_language_training.py"), "--dataset", str(store / first["dataset"])]
    plain += ["--model", str(store / model / "config.json"), "--window", str(facts["window"]), "--dropout", dropout]
    plain += [word for name, value in {**settings, **steps}.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    rounds: dict[str, list[dict[str, float]]] = {"plain": [], "ts4s": []}
    losses: dict[str, float] = {}
    for _turn in range(1 if options.whole else options.rounds):
        theirs = run_json(plain)
        rounds["plain"].append({name: theirs[name] for name in ("steps", "tokens_per_s", "gemm_gflops")})
        trained = ts4s(*ours)["artifact"]
        figures = manifest(store, trained)["facts"]
        rounds["ts4s"].append({name: figures[name] for name in ("steps", "tokens_per_s", "padding_fraction")})
        losses = {"plain": theirs["loss"]}
        if options.whole:
            losses["ts4s"] = held_out_loss(store, trained, first["dataset"])
        print({name: round(of[-1]["tokens_per_s"]) for name, of in rounds.items()}, losses, file=sys.stderr)
    ratios = [us["tokens_per_s"] / them["tokens_per_s"] for us, them in zip(rounds["ts4s"], rounds["plain"], strict=True)]
    result: dict[str, Any] = {"ratio": medians([{"ratio": ratio} for ratio in ratios])["ratio"], "rounds": rounds}
    if options.whole:
        result |= {"losses": losses, "loss_difference": losses["ts4s"] / losses["plain"] - 1}
    return result


def held_out_loss(store: Path, trained: str, dataset: str) -> float:
    """Nats a token of the test side, as ts4s measures it."""
    from ts4s_core.artifacts.store import ArtifactStore
    from ts4s_core.artifacts.versions.refs import ArtifactRef
    from ts4s_core.data.data_engine import LocalEngine
    from ts4s_core.evaluation.scoring.language_scores import score_text
    from ts4s_core.settings import StorageSettings

    opened = ArtifactStore.open(StorageSettings(uri=str(store)))
    refs = {"trained": ArtifactRef.parse(trained), "dataset": ArtifactRef.parse(dataset)}
    return score_text(opened, LocalEngine(), **refs).metrics()["loss"]


if __name__ == "__main__":
    main()
