"""``ts4s export``, ``import``, ``prepare``, ``train``, ``evaluate``: one step each, without Prefect."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from flows.cli.command import Invocation, Outcome
from flows.cli.commands.language_steps import export_step, import_step, is_language, prepare_step, with_language_defaults
from flows.cli.output import table
from tasks.current_run import open_run
from ts4s_core.artifacts.steps import StepResult
from ts4s_core.artifacts.versions.refs import ArtifactRef
from ts4s_core.errors import InputError, NotFoundError, SettingsError
from ts4s_core.host_user import expanded
from ts4s_core.pipeline.checks import check_classes, check_store
from ts4s_core.pipeline.run import Run
from ts4s_core.training.settings_checks import check_strategy

COMMAND_OF = {"onnx": "export", "model": "import", "dataset": "prepare", "trained": "train"}


def export_command(invocation: Invocation) -> Outcome:
    """Export the base model."""
    invocation = with_language_defaults(invocation)
    target = None if invocation.options.to is None else expanded(invocation.options.to)
    from ts4s_core.onnx.exporting.export_graph import check_target
    from ts4s_core.onnx.exporting.summary import summary_table

    with _run(invocation) as run:
        with run.stage("check"):
            if target is not None:
                check_target(target)
            dataset = run.store.newest("dataset", run.settings.name) if is_language(invocation) else None
            if dataset is None or target is not None:
                run.source()
        result = run.export(target) if dataset is None or target is not None else export_step(run, dataset)
    outcome = _outcome(result, **({} if target is None else {"file": str(target)}))
    summary = result.facts.get("summary", {})
    if "layers" not in summary:  # an ONNX file made elsewhere says little of itself
        return outcome
    head = {name: value for name, value in outcome.values.items() if name != "summary"}
    return replace(outcome, text="\n".join([*table(head), "", summary_table(summary)]))


def import_command(invocation: Invocation) -> Outcome:
    """Import an exported model with a new head, or make a language model."""
    given = inputs(invocation.options, ("onnx", "dataset"))
    invocation = with_language_defaults(invocation)
    with _run(invocation) as run:
        if is_language(invocation):
            return _outcome(import_step(run, newest(run, "dataset", given), given))
        with run.stage("check"):
            base = base_of(run, given)
            classes, labels = _classes(run, given)
        return _outcome(run.import_model(base, classes=classes, labels=labels))


def prepare_command(invocation: Invocation) -> Outcome:
    """Prepare a dataset with the tokenizer of an exported model, or a text with its own."""
    given = inputs(invocation.options, ("onnx",))
    invocation = with_language_defaults(invocation)
    with _run(invocation) as run:
        if is_language(invocation):
            return _outcome(prepare_step(run))
        with run.stage("check"):
            base = base_of(run, given)
            run.scan()
        return _outcome(run.prepare(base))


def train_command(invocation: Invocation) -> Outcome:
    """Train an imported model on a dataset."""
    given = inputs(invocation.options, ("dataset", "model"))
    invocation = with_language_defaults(invocation)
    check_strategy(invocation.settings.train)
    with _run(invocation) as run:
        dataset, model = newest(run, "dataset", given), newest(run, "model", given)
        return _outcome(run.train(dataset, model))


def evaluate_command(invocation: Invocation) -> Outcome:
    """Evaluate a trained model."""
    given = inputs(invocation.options, ("trained", "dataset"))
    with _run(invocation) as run:
        trained = newest(run, "trained", given)
        dataset = given.get("dataset") or ArtifactRef.parse(run.store.manifest(trained).upstream["dataset"])
        return _outcome(run.evaluate(trained, dataset, seconds={}))


def inputs(options: Any, kinds: tuple[str, ...]) -> dict[str, ArtifactRef]:
    """What ``--from`` named, by kind.

    Raises:
        SettingsError: if a kind is none that this step reads, or is named twice.
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


def newest(run: Run, kind: str, given: Mapping[str, ArtifactRef], *, name: str | None = None) -> ArtifactRef:
    """The artifact that was named, if it exists, else the newest under the name.

    Raises:
        NotFoundError: if there is none.
    """
    if kind in given:
        return run.store.manifest(given[kind]).ref
    name = run.settings.name if name is None else name
    found = run.store.newest(kind, name)
    if found is None:
        raise NotFoundError(
            f"No {kind} artifact named {name} in {run.store.storage.uri}: "
            f"run ts4s {COMMAND_OF[kind]} first, or name one with --from {kind}/NAME/VERSION"
        )
    return found


def base_of(run: Run, given: Mapping[str, ArtifactRef]) -> ArtifactRef:
    """The exported base model: the one named, else the newest of model.source."""
    if "onnx" in given:
        return newest(run, "onnx", given)
    source = run.source()
    return source.ref or newest(run, "onnx", given, name=source.slug)


def _classes(run: Run, given: Mapping[str, ArtifactRef]) -> tuple[int, tuple[str, ...] | None]:
    """How many classes, and what they are called: from the dataset if there is one, else from model.classes."""
    dataset = given.get("dataset") or run.store.newest("dataset", run.settings.name)
    if dataset is not None:
        labels = tuple(run.store.manifest(dataset).facts["labels"])
        check_classes(run.settings, labels)
        return len(labels), labels
    if not run.settings.model.classes:
        raise InputError(
            f"import needs the number of classes: no dataset named {run.settings.name} in {run.store.storage.uri} and "
            "model.classes is 0. Run ts4s prepare first, name one with --from dataset/NAME/VERSION, or set model.classes"
        )
    return run.settings.model.classes, None


def _run(invocation: Invocation) -> Any:
    check_store(invocation.settings)
    return open_run(invocation.settings, progress=invocation.display.progress, stage=invocation.display.stage)


def _outcome(result: StepResult, **extra: Any) -> Outcome:
    values = {"artifact": str(result.ref), "seconds": round(result.seconds, 3), "reused": result.reused, **extra}
    return Outcome({**values, **{name: value for name, value in result.facts.items() if name not in values}})
