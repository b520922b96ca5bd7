"""Inputs of the store: a tiny RoBERTa, a tokenizer of whole words, labelled rows, and a text."""

import json
import random
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers, processors

SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
TOPICS = {
    "ham": ["bread", "oven", "salt", "soup", "cheese", "rice"],
    "spam": ["prize", "winner", "click", "offer", "cash", "free"],
    "tofu": ["rain", "wind", "cloud", "sun", "fog", "frost"],
}
COMMON = ["the", "a", "and", "very", "today", "with", "no", "for"]


def sentences(count: int, seed: int) -> list[tuple[str, str]]:
    draw = random.Random(seed)
    rows = []
    for number in range(count):
        label = sorted(TOPICS)[number % 3]
        words = draw.sample(TOPICS[label], 3) + draw.sample(COMMON, draw.randint(2, 5))
        draw.shuffle(words)
        rows.append((label, " ".join(words)))
    return rows


def write(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    words = SPECIAL + sorted({word for topic in TOPICS.values() for word in topic} | set(COMMON))
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)])
    (folder / "tokenizer").mkdir(exist_ok=True)
    tokenizer.save(str(folder / "tokenizer" / "tokenizer.json"))
    described = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "<pad>", "unk_token": "<unk>"}
    (folder / "tokenizer" / "tokenizer_config.json").write_text(json.dumps(described))
    config = {
        "model_type": "roberta",
        "architectures": ["RobertaModel"],
        "vocab_size": len(words),
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "max_position_embeddings": 26,
        "type_vocab_size": 1,
        "pad_token_id": 1,
        "bos_token_id": 0,
        "eos_token_id": 2,
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "rows.tsv").write_text("".join(f"{label}\t{text}\n" for label, text in sentences(150, 5)))
    for number in range(40):
        text = "".join(f"{text}.\n" for _, text in sentences(6, 100 + number))
        (folder / "text").mkdir(exist_ok=True)
        (folder / "text" / f"{number:02}.txt").write_text(text)


if __name__ == "__main__":
    write(Path("inputs"))
