"""A run of the language-model flow: the same steps for text, with a decoder in place of an encoder and a head."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

from ts4s_core.artifacts.steps import StepResult
from ts4s_core.artifacts.versions.refs import ArtifactRef
from ts4s_core.data.corpus.dataset import TextDataset
from ts4s_core.data.facts import ScanFacts
from ts4s_core.errors import InputError
from ts4s_core.language.decoder import check_decoder, export_decoder, import_decoder, source_tokenizer
from ts4s_core.language.generation_step import generate_texts, given_prompts
from ts4s_core.pipeline.checks import check_store
from ts4s_core.pipeline.training_run import NamedInputs, TrainingRun
from ts4s_core.training.settings_checks import check_training


class LanguageRun(TrainingRun):
    """Steps of a language model; those that every kind of task has stand in the base class.

    They come in another order than for labelled texts: a new decoder's vocabulary is that of the dataset's tokenizer.
    """

    _text: ScanFacts | None = None
    _tokenizer: dict[str, bytes] | None = None

    def check_text(self) -> ScanFacts:
        """Check the model, read the text completely and train its tokenizer; writes nothing. Done once.

        Returns:
            what the scan found: blocks and bytes by side, lines, fingerprint.

        Raises:
            InputError: naming what is wrong with settings, model or text.
        """
        if self._text is None:
            check_store(self.settings)
            check_training(self.settings)
            given_prompts(self.settings.generate)
            check_decoder(self.settings, self.store)
            self._text = self.scan()
        return self._text

    def check_input(self) -> None:
        """Check model and text; see :meth:`check_text`."""
        self.check_text()

    def scan(self) -> ScanFacts:
        """Read the text completely; writes nothing."""
        self._tokenizer = source_tokenizer(self.settings, self.store)
        return ScanFacts.model_validate(self._job("scan", **self._tokenizer_files()))

    def prepare_text(self) -> StepResult:
        """Tokenise the text and cut it into windows."""
        return self._spark_step("prepare", **self._tokenizer_files())

    def export_decoder(self, dataset: ArtifactRef) -> StepResult | None:
        """Export the transformer for a dataset's tokens; None for a small network, which has no graph."""
        with self._step("export") as done:
            found = export_decoder(self.settings, self.store, tokenizer=self._tokenizer_of(dataset), progress=self.progress)
            return None if found is None else done(found)

    def import_decoder(self, dataset: ArtifactRef, exported: ArtifactRef | None) -> StepResult:
        """Make the model that is trained."""
        with self._step("import") as done:
            tokenizer = self._tokenizer_of(dataset)
            return done(import_decoder(self.settings, self.store, tokenizer=tokenizer, exported=exported, progress=self.progress))

    def prepare_alone(self, given: NamedInputs) -> StepResult:
        """See :class:`TrainingRun`; the tokenizer is the text's own."""
        with self.stage("check"):
            self.check_text()
        return self.prepare_text()

    def export_alone(self, to: Path | None) -> StepResult:
        """See :class:`TrainingRun`; for the newest dataset's tokens, where there is one and no file is wanted.

        Raises:
            InputError: if it is a small network, which has no graph.
        """
        with self.stage("check"):
            dataset = self.store.newest("dataset", self.settings.name)
            if dataset is None or to is not None:
                self.source()
        if dataset is None or to is not None:
            return self._export_source(to)
        result = self.export_decoder(dataset)
        if result is None:
            raise InputError(
                f"model.architecture {self.settings.model.architecture} is not exported: expected transformer. "
                "Run ts4s import at once"
            )
        return result

    def import_alone(self, given: NamedInputs) -> StepResult:
        """See :class:`TrainingRun`: of the exported transformer that is named, or of the one that the settings name."""
        dataset, onnx = self.newest("dataset", given), given.get("onnx")
        if onnx is None:
            found = self.export_decoder(dataset)
            onnx = None if found is None else found.ref
        return self.import_decoder(dataset, onnx)

    def _evaluation_inputs(self) -> dict[str, Any]:
        """The report shows what may follow the prompts."""
        return {"prompts": given_prompts(self.settings.generate)}

    def generate(self, trained: ArtifactRef, dataset: ArtifactRef) -> StepResult:
        """Write texts of a trained version."""
        with self._step("generate") as done:
            return done(generate_texts(self.settings, self.store, trained=trained, dataset=dataset, progress=self.progress))

    def _tokenizer_files(self) -> dict[str, Any]:
        """The tokenizer as a job takes it: not given, where one is trained on the text."""
        if self._tokenizer is None:
            return {}
        return {"tokenizer": {name: base64.b64encode(data).decode("ascii") for name, data in self._tokenizer.items()}}

    def _tokenizer_of(self, dataset: ArtifactRef) -> Any:
        with TextDataset.open(self.store, dataset) as opened:
            return opened.tokenizer_folder()
