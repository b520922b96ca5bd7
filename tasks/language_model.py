"""Tasks of the language-model flow that labelled data have no like of: text, decoder, generation."""

from __future__ import annotations

from typing import Any

from tasks.current_run import current_run
from tasks.prefect_ui.show import show_table, show_version
from tasks.step import step
from ts4s_core.artifacts.steps import StepResult
from ts4s_core.artifacts.versions.refs import ArtifactRef
from ts4s_core.pipeline.language_run import LanguageRun


@step("prepare")
def prepare_text() -> dict[str, Any]:
    """Tokenise the text and cut it into windows, on Spark."""
    run = current_run(LanguageRun)
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
    run = current_run(LanguageRun)
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
    run = current_run(LanguageRun)
    return _shown(run, run.import_decoder(ArtifactRef.parse(dataset), None if exported is None else ArtifactRef.parse(exported)))


@step("generate")
def generate_text(trained: str, dataset: str) -> dict[str, Any]:
    """Write texts of a trained version.

    Args:
        trained: reference of the trained artifact.
        dataset: reference of the dataset, which a prompt is taken from if none is given.
    """
    run = current_run(LanguageRun)
    return _shown(run, run.generate(ArtifactRef.parse(trained), ArtifactRef.parse(dataset)))


def _shown(run: LanguageRun, result: StepResult) -> dict[str, Any]:
    show_version(run, result)
    return result.to_json()
