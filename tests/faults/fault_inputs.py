"""What runs read: a tiny model, its tokenizer, and labelled sentences; and the ledgers that they write."""

from __future__ import annotations

import csv
import json
import random
from pathlib import Path

from tiny_networks import roberta_with

TOPICS = {
    "cocina": "arroz sal aceite horno sopa pan",
    "liga": "gol portero balón árbitro césped",
    "tiempo": "lluvia viento nube sol niebla",
}
COMMON = ["el", "la", "un", "con", "hoy", "muy", "y", "sin", "para", "siempre"]


def read_ledger(folder: Path) -> dict[tuple[int, int], str]:
    """(step, part) -> samples over all attempts and ranks; a step that was repeated must have repeated its samples."""
    found: dict[tuple[int, int], str] = {}
    for path in sorted(folder.glob("*.csv")):
        lines = [line for line in path.read_text(encoding="ascii").splitlines(keepends=True) if line.endswith("\n")]
        for row in csv.DictReader(lines):
            at = int(row["step"]), int(row["part"])
            if found.setdefault(at, row["samples"]) != row["samples"]:
                raise AssertionError(f"{path.name} has other samples in step {at[0]}, part {at[1]}")
    return found


def write_rows(path: Path) -> Path:
    """300 labelled sentences."""
    draw = random.Random(5)
    lines = []
    for number in range(300):
        label = sorted(TOPICS)[number % 3]
        words = draw.sample(TOPICS[label].split(), 3) + draw.sample(COMMON, draw.randint(2, 8))
        draw.shuffle(words)
        lines.append(f"{label}\t{' '.join(words)} {number}\n")
    path.write_text("".join(lines), encoding="utf-8")
    return path


def write_model(folder: Path) -> Path:
    """The configuration of a tiny RoBERTa, and a tokenizer."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    folder.mkdir(parents=True)
    words = ["<s>", "<pad>", "</s>", "<unk>", *COMMON, *" ".join(TOPICS.values()).split(), *map(str, range(300))]
    tokenizer = Tokenizer(models.WordLevel({word: place for place, word in enumerate(dict.fromkeys(words))}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    names = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(folder)
    config = roberta_with(tokenizer, max_position_embeddings=40)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder
