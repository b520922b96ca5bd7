"""``ts4s prepare``, ``export``, ``import`` and ``train`` with ``model.task language-model``: one step each, without Prefect.

They come in another order than for labelled data: a new decoder's vocabulary is that of the dataset's tokenizer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from flows.cli.command import Invocation
from ts4s_core.artifacts.steps import StepResult
from ts4s_core.artifacts.versions.refs import ArtifactRef
from ts4s_core.errors import InputError
from ts4s_core.language.defaults import with_defaults
from ts4s_core.pipeline.language_run import LanguageRun
from ts4s_core.pipeline.run import Run


def is_language(invocation: Invocation) -> bool:
    """Whether the settings are those of a language model."""
    return invocation.settings.model.task == "language-model"


def with_language_defaults(invocation: Invocation) -> Invocation:
    """The same invocation, with the defaults of a language model if it is for one."""
    return replace(invocation, settings=with_defaults(invocation.settings)) if is_language(invocation) else invocation


def prepare_step(run: Run) -> StepResult:
    """Tokenise a text and cut it into windows."""
    language = _language(run)
    with run.stage("check"):
        language.check_text()
    return language.prepare_text()


def export_step(run: Run, dataset: ArtifactRef) -> StepResult:
    """Export the transformer that the settings name, for a dataset's tokens.

    Raises:
        InputError: if it is a small network, which has no graph.
    """
    result = _language(run).export_decoder(dataset)
    if result is None:
        raise InputError(
            f"model.architecture {run.settings.model.architecture} is not exported: expected transformer. Run ts4s import at once"
        )
    return result


def import_step(run: Run, dataset: ArtifactRef, exported: Mapping[str, ArtifactRef]) -> StepResult:
    """Make the model that is trained, of the exported transformer that is named, or of the one that the settings name."""
    language, onnx = _language(run), exported.get("onnx")
    if onnx is None:
        found = language.export_decoder(dataset)
        onnx = None if found is None else found.ref
    return language.import_decoder(dataset, onnx)


def _language(run: Run) -> LanguageRun:
    assert isinstance(run, LanguageRun), "model.task is language-model"
    return run
