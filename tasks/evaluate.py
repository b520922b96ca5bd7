"""Task: the report on a trained model, with the gate's decision."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tasks.retries import step
from tasks.run import current_run
from tasks.show import show_table, show_version
from ts4s_core.artifacts.refs import ArtifactRef


@step("evaluate")
def evaluate(trained: str, dataset: str, seconds: Mapping[str, float]) -> dict[str, Any]:
    """Measure a trained version on the test side of its dataset and compare it with the champion.

    Args:
        trained: reference of the trained artifact.
        dataset: reference of the dataset.
        seconds: how long the steps before took; for the report alone.
    """
    run = current_run()
    result = run.evaluate(ArtifactRef.parse(trained), ArtifactRef.parse(dataset), seconds=seconds)
    show_version(run, result)
    baseline = result.facts["baseline"]
    rows = [
        {"metric": name, "value": value, "majority class": baseline.get(name)} for name, value in result.facts["metrics"].items()
    ]
    show_table("metrics", run.settings.name, rows, description=f"metrics of {trained}")
    return result.to_json()
