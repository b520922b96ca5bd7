"""A run that predicts rows with a trained model."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from ts4s_core.artifacts.leases.in_use import in_use
from ts4s_core.artifacts.versions.refs import ArtifactRef
from ts4s_core.pipeline.checks import check_store
from ts4s_core.pipeline.run import Run
from ts4s_core.prediction.options import PredictOptions


class PredictionRun(Run):
    """Steps of a prediction."""

    def check(self, model: str, options: PredictOptions) -> ArtifactRef:
        """The version that a prediction is asked of, and whether its output can be written; writes nothing.

        Raises:
            InputError: naming what is wrong.
        """
        from ts4s_core.prediction.output import open_target

        if not options.sealed:
            open_target(options.output, self.settings.storage)
        else:
            check_store(self.settings)
        return self.store.manifest(self.registry.resolve(model)).ref

    def predict(self, trained: ArtifactRef, options: PredictOptions) -> dict[str, Any]:
        """Predict every row of the source."""
        if options.sealed:
            self.preflight()
        with in_use(self.store, "predict"), self.stage("predict"):
            return self._job("predict", trained=str(trained), options=asdict(options))
