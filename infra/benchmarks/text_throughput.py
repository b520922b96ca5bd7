"""Tokenizing and windowing of large text beside the tokenizer library alone, on the same cores.

python infra/benchmarks/text_throughput.py --megabytes 1000 --slots 2

Text is generated (words by Zipf's law, lines, paragraphs), written to a temporary folder, and prepared as `ts4s prepare` does:
scan, tokenizer training, then tokens and windows on Spark. The library's own speed is `encode_batch_fast` on 2 MiB batches of
the same text, in as many processes of one thread as Spark has slots, before and after (the mean counts). Writes and prints one
JSON object; memory is the largest resident size of all processes below this one but Java's while the text was prepared, sampled.
"""

from __future__ import annotations

import argparse
import functools
import json
import multiprocessing
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from side_by_side import HERE, write_result

BATCH_BYTES = 2 * 2**20
BLOCK_BYTES = 4_096
MEMORY_EVERY_S = 0.5


def write_text(path: Path, size: int, *, seed: int) -> int:
    """Generated text of at least ``size`` bytes; every million bytes have new rare words."""
    random = np.random.default_rng(seed)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    words = ["".join(random.choice(letters, int(length))) for length in 2 + random.poisson(4.0, 50_000)]
    written = 0
    with path.open("w", encoding="utf-8") as file:
        while written < size:
            ranks = np.minimum(random.zipf(1.15, 150_000) - 1, len(words) - 1)
            lines = [
                " ".join(words[rank] for rank in ranks[start : start + 12]) + (".\n\n" if start % 96 == 0 else ".\n")
                for start in range(0, len(ranks), 12)
            ]
            written += file.write("".join(lines))
    return written


def library_speed(tokenizer: str, path: Path, *, size: int, processes: int) -> float:
    """Bytes a second of the library alone over all of the text, one thread a process."""
    share = size // processes
    started = time.perf_counter()
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        parts = pool.starmap(_encode, [(tokenizer, str(path), number * share, share) for number in range(processes)])
    assert time.perf_counter() > started
    return sum(done for done, _ in parts) / max(seconds for _, seconds in parts)


def _encode(text: str, path: str, start: int, size: int) -> tuple[int, float]:
    os.environ["RAYON_NUM_THREADS"] = "1"
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    from tokenizers import Tokenizer

    tokenizer, done, seconds = Tokenizer.from_str(text), 0, 0.0
    with Path(path).open("rb") as file:
        file.seek(start)
        while done < size and (data := file.read(min(BATCH_BYTES, size - done))):
            batch = data.decode("utf-8", "ignore")
            texts = [batch[at : at + BLOCK_BYTES] for at in range(0, len(batch), BLOCK_BYTES)]
            began = time.perf_counter()
            tokenizer.encode_batch_fast(texts)
            seconds += time.perf_counter() - began
            done += len(data)
    return done, seconds


class Memory:
    """Largest resident size of this process's descendants, all together, in MiB; and its course."""

    def __init__(self) -> None:
        self.course: list[tuple[float, float]] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Memory:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        me, began = psutil.Process(), time.monotonic()
        while not self._stop.wait(MEMORY_EVERY_S):
            total = 0
            for child in me.children(recursive=True):
                try:
                    total += child.memory_info().rss if "java" not in child.name() else 0
                except psutil.Error:
                    continue
            self.course.append((time.monotonic() - began, total / 2**20))

    def peaks(self, quarters: int = 4) -> Iterator[float]:
        """The largest size in each quarter of the time: flat memory has like peaks."""
        end = self.course[-1][0] if self.course else 0.0
        for quarter in range(quarters):
            inside = [size for at, size in self.course if quarter <= quarters * at / max(end, 1e-9) <= quarter + 1]
            yield round(max(inside, default=0.0), 1)


def prepared(source: Path, store: Path, *, slots: int) -> tuple[dict[str, Any], str]:
    """Seconds of scan and prepare, and the tokenizer that was trained."""
    from tasks.current_run import open_run
    from ts4s_core.data.corpus.dataset import TextDataset
    from ts4s_core.language.defaults import with_defaults
    from ts4s_core.pipeline.language_run import LanguageRun
    from ts4s_core.settings import Settings

    given = Settings(
        name="text",
        storage={"uri": str(store), "cache_dir": str(store / "cache")},
        data={"source": str(source), "window": 128},
        model={"task": "language-model", "vocabulary_size": 8_000},
        spark={"master": f"local[{slots}]" if slots else "none"},
    )
    with Memory() as memory, open_run(with_defaults(given)) as run:
        assert isinstance(run, LanguageRun)
        run.program.run({"job": "warm-up"})
        started = time.perf_counter()
        run.check_text()
        scanned = time.perf_counter()
        result = run.prepare_text()
        done = time.perf_counter()
    with TextDataset.open(run.store, result.ref) as dataset:
        tokenizer = (dataset.tokenizer_folder() / "tokenizer.json").read_text(encoding="utf-8")
    figures = {
        "scan_s": round(scanned - started, 2),
        "prepare_s": round(done - scanned, 2),
        "tokens": sum(result.facts["tokens"].values()),
        "windows": sum(result.facts["windows"].values()),
        "memory_mib_by_quarter": list(memory.peaks()),
    }
    return figures, tokenizer


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=100)
    parser.add_argument("--slots", type=int, default=2, help="Spark's slots; 0: without Spark")
    parser.add_argument("--folder", type=Path, default=None, help="where the text and the store are put for the time")
    parser.add_argument("--output", type=Path, default=None, help="the file of figures")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ts4s-text-", dir=given.folder) as folder:
        source = Path(folder) / "text.txt"
        size = write_text(source, given.megabytes * 10**6, seed=0)
        write_text(Path(folder) / "sample.txt", 20 * 10**6, seed=0)
        _, tokenizer = prepared(Path(folder) / "sample.txt", Path(folder) / "store of the sample", slots=given.slots)
        alone_on = functools.partial(library_speed, path=source, size=min(size, 100 * 10**6), processes=max(1, given.slots))
        before = alone_on(tokenizer)
        figures, tokenizer = prepared(source, Path(folder) / "store", slots=given.slots)
        alone = (before + alone_on(tokenizer)) / 2
    ours = size / figures["prepare_s"]
    speeds = {"ours_mb_per_s": round(ours / 1e6, 3), "library_mb_per_s": round(alone / 1e6, 3), "ratio": round(ours / alone, 3)}
    result = {"bytes": size, "slots": given.slots, **figures, **speeds}
    write_result(given.output or HERE / "text_throughput.json", result)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
