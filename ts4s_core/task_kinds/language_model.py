"""Language models: the next token of running text.

The defaults were chosen on the embedded corpus with the default vocabulary: eight epochs of the default decoder come to 2.09
bits per byte of the test side in three and a half minutes of two cores, where an interpolated Kneser-Ney bigram has 2.17 and a
trigram 2.06. ``infra/benchmarks/language_model_quality.py`` measures a run.
"""

from __future__ import annotations

from ts4s_core.task_kinds.kind import TaskKind
from ts4s_core.task_kinds.metrics import BITS_PER_BYTE
from ts4s_core.task_kinds.shared_settings import OF_EVERY_TRAINING

DECODER = "config:decoder"

LANGUAGE_MODEL = TaskKind(
    name="language-model",
    noun="a language model",
    flow="language-model",
    labels="none",
    least_classes=0,
    rows="windows",
    base="causal-lm",
    use="ts4s generate",
    metrics=(BITS_PER_BYTE,),
    hugging_face_class="AutoModelForCausalLM",
    first_settings=(
        "data.source",
        "data.format",
        "model.source",
        "train.epochs",
        "train.learning_rate",
        "train.batch_size",
        "data.window",
        "train.workers",
    ),
    settings=(
        "model.tokenizer",
        "model.tokenizer_kind",
        "model.vocabulary_size",
        "model.architecture",
        "model.hidden_size",
        "model.layers",
        "model.attention_heads",
        "model.embedding_size",
        "model.context",
        "model.cell",
        "model.tie_word_embeddings",
        "model.word_vectors",
        "model.freeze_word_vectors",
        "model.dropout",
        "model.attention_dropout",
        "model.lora_rank",
        "model.lora_alpha",
        "data.stride",
        "data.split_by",
        "data.block_bytes",
        "data.validation_fraction",
        "data.test_fraction",
        "data.max_bad_fraction",
        "data.seed",
        "data.show_text",
        "evaluate.min_improvement",
        "evaluate.top_k",
        "evaluate.words",
        "evaluate.require_approval",
        "generate",
        *OF_EVERY_TRAINING,
    ),
    defaults={
        "model": {"task": "language-model", "source": DECODER},
        "data": {"test_fraction": 0.1},
        # Of the whole distribution a small vocabulary's pieces make words that are none: 15 of 100; with these fewer than 8.
        "generate": {"max_new_tokens": 400, "max_copied_tokens": 11, "temperature": 0.8, "top_p": 0.9},
    },
    # Many passes at a high rate, with dropout, and the weights that did best on the validation side.
    defaults_of_new={
        "model": {"dropout": 0.2},
        "train": {
            "batch_size": 16,
            "epochs": 8,
            "learning_rate": 2e-3,
            "weight_decay": 0.1,
            "early_stopping_patience": 2,
        },
    },
    run="ts4s_core.pipeline.language_run:LanguageRun",
    completed="ts4s_core.language.defaults:with_defaults",
    scan_job="ts4s_core.spark.driver.text_jobs:scan",
    prepare_job="ts4s_core.spark.driver.text_jobs:prepare",
    head=None,
    head_nodes=None,
    training_rows="ts4s_core.training.batches.text_windows:window_rows",
    objective="ts4s_core.training.step.objectives:NextToken",
    evaluation="ts4s_core.evaluation.steps.language_model:evaluate_language",
    predictions=None,
)
