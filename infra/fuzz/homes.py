"""The targets, and the module of each: reading this imports none of their libraries."""

from __future__ import annotations

HOMES = {
    **dict.fromkeys(("tsv", "csv", "json", "parquet"), "row_targets"),
    **dict.fromkeys(("manifest", "dataset-parquet"), "store_targets"),
    **dict.fromkeys(("onnx", "own-graph", "model-json", "safetensors", "tokenizer", "word-vectors"), "model_targets"),
}
