"""Classification: one label of several for each text."""

from __future__ import annotations

from ts4s_core.task_kinds.kind import TaskKind
from ts4s_core.task_kinds.metrics import OF_CLASSES
from ts4s_core.task_kinds.shared_settings import FIRST_OF_LABELLED_TEXTS, OF_LABELLED_TEXTS

CLASSIFICATION = TaskKind(
    name="classification",
    noun="a classifier",
    flow="retrain",
    labels="one",
    least_classes=2,
    rows="texts",
    base="encoder",
    use="ts4s predict",
    metrics=OF_CLASSES,
    hugging_face_class="AutoModelForSequenceClassification",
    problem_type="single_label_classification",
    first_settings=FIRST_OF_LABELLED_TEXTS,
    settings=(*OF_LABELLED_TEXTS, "model.class_weights"),
    run="ts4s_core.pipeline.classifier_run:ClassifierRun",
    scan_job="ts4s_core.spark.driver.labelled_jobs:scan",
    prepare_job="ts4s_core.spark.driver.labelled_jobs:prepare",
    head="ts4s_core.models.heads:ClassificationHead",
    head_nodes="ts4s_core.models.plain_onnx.lower:classification_head",
    training_rows="ts4s_core.training.worker.dataset_rows:labelled_rows",
    objective="ts4s_core.training.step.objectives:Classification",
    class_weights="ts4s_core.training.driver.class_weights:balanced_weights",
    evaluation="ts4s_core.evaluation.steps.classifier:evaluate",
    predictions="ts4s_core.prediction.result_table:label_layout",
)
