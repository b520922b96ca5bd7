"""``ts4s export``, ``import``, ``prepare``, ``train``, ``evaluate``: one step each, without Prefect."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

from flows.cli.command import Invocation, Outcome
from flows.cli.output import table
from tasks.current_run import open_run
from ts4s_core.artifacts.facts import shown
from ts4s_core.artifacts.steps import StepResult
from ts4s_core.artifacts.versions.refs import ArtifactRef
from ts4s_core.errors import SettingsError
from ts4s_core.host_user import expanded
from ts4s_core.onnx.facts import OnnxFacts
from ts4s_core.pipeline.checks import check_store
from ts4s_core.pipeline.training_run import TrainingRun
from ts4s_core.settings.flows import completed
from ts4s_core.training.settings_checks import check_training


def export_command(invocation: Invocation) -> Outcome:
    """Export the base model."""
    from ts4s_core.onnx.exporting.export_graph import check_target
    from ts4s_core.onnx.exporting.summary import summary_table

    target = None if invocation.options.to is None else expanded(invocation.options.to)
    if target is not None:
        check_target(target)
    with _run(invocation) as run:
        result = run.export_alone(target)
    outcome = _outcome(result, **({} if target is None else {"file": str(target)}))
    summary = OnnxFacts.of(result).summary if result.ref.kind == "onnx" else None
    if summary is None or summary.layers is None:  # a trained model, or a file that says little of itself
        return outcome
    head = {name: value for name, value in outcome.values.items() if name != "summary"}
    return replace(outcome, text="\n".join([*table(head), "", summary_table(summary)]))


def import_command(invocation: Invocation) -> Outcome:
    """Import an exported model with a new head, or make a language model."""
    given = inputs(invocation.options, ("onnx", "dataset"))
    with _run(invocation) as run:
        return _outcome(run.import_alone(given))


def prepare_command(invocation: Invocation) -> Outcome:
    """Prepare a dataset with the tokenizer of an exported model, or a text with its own."""
    given = inputs(invocation.options, ("onnx",))
    with _run(invocation) as run:
        return _outcome(run.prepare_alone(given))


def train_command(invocation: Invocation) -> Outcome:
    """Train an imported model on a dataset."""
    given = inputs(invocation.options, ("dataset", "model"))
    check_training(invocation.settings)
    with _run(invocation) as run:
        return _outcome(run.train_alone(given))


def evaluate_command(invocation: Invocation) -> Outcome:
    """Evaluate a trained model."""
    given = inputs(invocation.options, ("trained", "dataset"))
    with _run(invocation) as run:
        return _outcome(run.evaluate_alone(given))


def inputs(options: Any, kinds: tuple[str, ...]) -> dict[str, ArtifactRef]:
    """The artifacts that ``--from`` names, by kind.

    Raises:
        SettingsError: if this step does not read artifacts of that kind, or a kind is named twice.
    """
    found: dict[str, ArtifactRef] = {}
    for text in getattr(options, "from") or []:
        ref = ArtifactRef.parse(text)
        if ref.kind not in kinds:
            raise SettingsError(f"--from {ref} is of kind {ref.kind}: expected {' or '.join(kinds)}")
        if ref.kind in found:
            raise SettingsError(f"--from names two artifacts of kind {ref.kind}: {found[ref.kind]} and {ref}. Give one")
        found[ref.kind] = ref
    return found


def _run(invocation: Invocation) -> AbstractContextManager[TrainingRun]:
    settings, display = completed(invocation.settings), invocation.display
    check_store(settings)
    return open_run(settings, progress=display.progress, stage=display.stage)


def _outcome(result: StepResult, **extra: Any) -> Outcome:
    values = {"artifact": str(result.ref), "seconds": round(result.seconds, 3), "reused": result.reused, **extra}
    return Outcome({**values, **{name: value for name, value in shown(result).items() if name not in values}})
