"""How near does ``ts4s plan`` come? Its forecast of the step time against what training then measures, in one sitting.

The pretrained MiniLM on the docstring data with the shipped defaults: one worker, two workers, and, where this process may
make network namespaces, two workers in two of them with the traffic between them shaped to 1 Gbit/s.

    python infra/benchmarks/plan_accuracy.py --store FOLDER [--steps 24] [--rounds 1]
"""

from __future__ import annotations

import argparse
import csv
import io
import signal
import sys
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from statistics import mean, median
from typing import Any

from namespaces import available, two_hosts
from side_by_side import HERE, ts4s, write_result

from ts4s_core.artifacts.store import ArtifactStore
from ts4s_core.planning.cost import Cluster, forecast
from ts4s_core.planning.make_plan import make_plan, planning_job
from ts4s_core.planning.options import PlanOptions
from ts4s_core.settings import Settings
from ts4s_core.training.driver.local_launcher import LocalLauncher
from ts4s_core.training.driver.metrics import UNSTEADY_STEPS
from ts4s_core.training.driver.train_step import Factories, train

NAME = "plan"
GIGABIT = 125e6
BOUND = 0.15


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--store", type=Path, required=True, help="folder for the artifacts")
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--name", default=NAME, help="of the artifacts in the store; made where they are missing")
    parser.add_argument("--cases", nargs="+", default=["1", "2", "2 over 1 Gbit/s"])
    parser.add_argument("--output", type=Path, default=HERE / "plan_accuracy.json")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that namespaces go
    common = ["--name", options.name, "--storage.uri", str(options.store), "--spark.master", "none"]
    settings = Settings(
        name=options.name, storage={"uri": str(options.store)}, spark={"master": "none"}, train={"max_steps": options.steps}
    )
    store = ArtifactStore.open(settings.storage)
    for step, kind in (("export", None), ("prepare", "dataset"), ("import", "model")):
        if kind is None or store.newest(kind, options.name) is None:
            ts4s(step, *common)
    rounds = [_round(settings, store, options.cases) for _ in range(options.rounds)]
    cases = {}
    for case in rounds[0]:
        errors = [each[case]["forecast_s"] / each[case]["measured_s"] - 1 for each in rounds]
        cases[case] = {"error": median(errors), "errors": errors, "rounds": [each[case] for each in rounds]}
        print(f"{case}: {rounds[-1][case]}, error {median(errors):+.1%}")
    within = all(abs(case["error"]) <= BOUND for case in cases.values())
    result = {"model": settings.model.source, "steps": options.steps, "bound": BOUND, "within_bound": within, "cases": cases}
    write_result(options.output, result)


def _round(settings: Settings, store: ArtifactStore, cases: list[str]) -> dict[str, dict[str, Any]]:
    """Plan, then train each case for some steps."""
    dataset, model = (store.newest(kind, settings.name) for kind in ("dataset", "model"))
    options = PlanOptions(workers=2)
    plan = make_plan(
        settings, planning_job(settings, dataset=dataset, model=model, config=None, options=options), options=options
    )
    # The steps that training will time: a plan otherwise speaks of an epoch.
    measured = replace(plan.measured, steps=plan.measured.steps[UNSTEADY_STEPS : settings.train.max_steps])
    found: dict[str, dict[str, Any]] = {}
    with ExitStack() as stack:
        for case in cases:
            workers = int(case.split()[0])
            apart = "Gbit" in case
            if apart and not available():
                print("no network namespaces without root, ip and tc: that case is left out", file=sys.stderr)
                continue
            cluster = Cluster(1, GIGABIT) if apart else plan.cluster
            said = forecast(measured, cluster, workers=workers)
            places = {"placements": stack.enter_context(two_hosts("1gbit", name="pln"))} if apart else {}
            launcher = LocalLauncher(threads_per_worker=1, **places)
            seconds, memory_gb = _measured(settings, store, launcher, workers=workers, exchange="network" if apart else "auto")
            parts = {name: getattr(said, f"{name}_s") for name in ("compute", "optimiser", "exchange", "rest")}
            found[case] = {"forecast_s": said.seconds, "measured_s": seconds, "forecast_of": parts}
            found[case] |= {"forecast_memory_gb": said.memory_bytes / 2**30, "measured_memory_gb": memory_gb}
            print(f"{case}: forecast {said.seconds:.3f} s, measured {seconds:.3f} s, {parts}", file=sys.stderr)
    return found


def _measured(
    settings: Settings, store: ArtifactStore, launcher: LocalLauncher, *, workers: int, exchange: str
) -> tuple[float, float]:
    """Mean seconds of steady steps of a real training run, and the most memory that a worker had at a step's begin."""
    told = settings.model_copy(
        update={"reuse": False, "train": settings.train.model_copy(update={"workers": workers, "checkpoint_every_steps": 10_000})}
    )
    dataset, model = (store.newest(kind, settings.name) for kind in ("dataset", "model"))
    assert dataset is not None
    assert model is not None
    result = train(told, store, launcher, dataset=dataset, model=model, factories=Factories(exchange=exchange))
    rows = list(csv.DictReader(io.StringIO((store.local(result.ref) / "metrics.csv").read_text(encoding="utf-8"))))
    seconds = mean(float(row["milliseconds"]) for row in rows[UNSTEADY_STEPS:]) / 1e3
    return seconds, max(float(row["memory"]) for row in rows) / 1024


if __name__ == "__main__":
    main()
