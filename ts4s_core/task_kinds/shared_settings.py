"""Settings that several kinds of task use, in the order in which forms, help and reports show them."""

from __future__ import annotations

#: What people change first where texts have labels.
FIRST_OF_LABELLED_TEXTS = (
    "data.source",
    "data.format",
    "data.text_column",
    "data.label_column",
    "model.source",
    "train.epochs",
    "train.learning_rate",
    "train.batch_size",
    "model.max_length",
    "train.workers",
)
#: Where it runs and where artifacts go; `models gc` alone reads storage.keep_last and storage.grace_hours.
STORE = (
    "storage.uri",
    "storage.endpoint_url",
    "storage.options",
    "storage.region",
    "storage.cache_dir",
    "storage.cache_gb",
    "storage.key",
    "storage.secret",
)
PLACES = ("spark", *STORE)
OF_EVERY_TRAINING = ("name", "reuse", "train", *PLACES)
OF_LABELLED_TEXTS = (
    "model.tokenizer",
    "model.classes",
    "model.dropout",
    "model.attention_dropout",
    "model.freeze_encoder",
    "model.lora_rank",
    "model.lora_alpha",
    "data.validation_fraction",
    "data.test_fraction",
    "data.max_rows",
    "data.query",
    "data.options",
    "data.csv_escape",
    "data.csv_escape_unquoted",
    "data.max_bad_fraction",
    "data.seed",
    "data.show_text",
    "evaluate.metric",
    "evaluate.min_improvement",
    "evaluate.max_drift",
    "evaluate.require_approval",
    *OF_EVERY_TRAINING,
)
