"""Tasks of the language-model flow that labelled data have no like of: text, decoder, generation."""

from __future__ import annotations

from typing import Any

from tasks.language_run import LanguageRun
from tasks.retries import step
from tasks.run import current_run
from tasks.show import show_table, show_version
from ts4s_core.artifacts.refs import ArtifactRef
from ts4s_core.artifacts.steps import StepResult


def language_run() -> LanguageRun:
    """The run that is under way."""
    run = current_run()
    if not isinstance(run, LanguageRun):
        raise RuntimeError("this task runs inside the language-model flow")
    return run


@step("prepare")
def prepare_text() -> dict[str, Any]:
    """Tokenise the text and cut it into windows, on Spark."""
    run = language_run()
    result = run.prepare_text()
    show_version(run, result)
    names = ("rows", "bytes", "tokens", "windows")
    rows = [{"side": side, **{name: result.facts[name][side] for name in names}} for side in result.facts["rows"]]
    show_table("text", run.settings.name, rows, description="blocks, bytes, tokens and windows of each side")
    return result.to_json()


@step("export")
def export_decoder(dataset: str) -> dict[str, Any] | None:
    """Export the transformer that the settings name; None for a small network.

    Args:
        dataset: reference of the dataset, whose tokens the model reads.
    """
    run = language_run()
    result = run.export_decoder(ArtifactRef.parse(dataset))
    return None if result is None else _shown(run, result)


@step("import")
def import_decoder(dataset: str, exported: str | None) -> dict[str, Any]:
    """Make the model that is trained.

    Args:
        dataset: reference of the dataset.
        exported: reference of the ONNX artifact; None for a small network.

    Raises:
        ParityError: if the imported model does not compute what the exported one does.
    """
    run = language_run()
    return _shown(run, run.import_decoder(ArtifactRef.parse(dataset), None if exported is None else ArtifactRef.parse(exported)))


@step("generate")
def generate_text(trained: str, dataset: str) -> dict[str, Any]:
    """Write texts of a trained version.

    Args:
        trained: reference of the trained artifact.
        dataset: reference of the dataset, which a prompt is taken from if none is given.
    """
    run = language_run()
    return _shown(run, run.generate(ArtifactRef.parse(trained), ArtifactRef.parse(dataset)))


def _shown(run: LanguageRun, result: StepResult) -> dict[str, Any]:
    show_version(run, result)
    return result.to_json()
