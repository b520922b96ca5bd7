"""Whether a folder that is handed over answers texts as ``predict`` does, read by its users' own libraries.

Shapes: ``N`` texts, ``T`` tokens, ``C`` classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ts4s_core.artifacts.store import ArtifactStore
from ts4s_core.data.tokenizers import TOKENIZER_FILE, StoredTokenizer, tokenize
from ts4s_core.errors import ParityError
from ts4s_core.evaluation.figures.lineage import training_datasets
from ts4s_core.evaluation.scoring.dataset_rows import rows_of
from ts4s_core.handover.plain_file import MODEL_FILE, session_of
from ts4s_core.handover.program import load_program
from ts4s_core.handover.tokenizer import FOLDER
from ts4s_core.handover.trained import Floats, Trained
from ts4s_core.models.length_batches import Ids
from ts4s_core.prediction.runners import OnnxRunner, Run, in_fixed_shape, run_sorted

MOST_TEXTS = 24
#: A token stands for fewer characters on average: so many a token are cut.
MOST_CHARACTERS = 16
LONG_TEXTS = 8
#: Texts of a batch of unlike lengths.
BATCH = 7
#: Share of ``max(1, largest logit)``: another token or another place shows as 1e-2 and more.
TOLERANCE = 1e-4


def check_answers(trained: Trained, folder: Path, store: ArtifactStore, *, form: str) -> dict[str, Any]:
    """Compare the answers of a folder with those of ``predict``, on held-out texts and on texts longer than the model takes.

    Args:
        trained: the model.
        folder: what was written, its tokenizer with it.
        store: holds the dataset that the model was trained on; without it the texts are made up.
        form: one of :data:`ANSWERING`.

    Returns:
        how many texts, whether held-out ones, and the largest difference.

    Raises:
        ParityError: it gives other tokens or other answers.
    """
    stored, spec = StoredTokenizer.read(trained.tokenizer_folder), trained.spec
    texts, held_out = _texts(trained, store, stored)
    own = stored.load(max_length=spec.max_length)
    tokens = [found.ids for found in tokenize(own, texts, fallback_id=spec.pad_id)]
    at = folder if form == "hf" else folder / FOLDER
    _check_tokens(trained, at, texts, tokens, form=form)
    expected = run_sorted(_merged(trained), tokens, pad_id=spec.pad_id)
    try:
        found = ANSWERING[form](trained, folder, texts)
    except Exception as exc:  # what the libraries raise on their way through tokenizer and model
        raise ParityError(f"Export as {form} of {trained.manifest.ref}: the folder cannot answer: {exc}") from exc
    differences = np.abs(found - expected).max(axis=1)
    worst = float(differences.max() / max(1.0, float(np.abs(expected).max())))
    if not worst <= TOLERANCE:
        text = texts[int(differences.argmax())]
        raise ParityError(
            f"Export as {form} of {trained.manifest.ref}: expected the answers of predict within {TOLERANCE:g}, got a difference "
            f"of {worst:.3g} for the text {text[:80]!r}. Nothing was written"
        )
    return {"texts": len(texts), "held_out": held_out, "difference": worst}


def _pipeline_answers(trained: Trained, folder: Path, texts: Sequence[str]) -> Floats:
    """Logits by Transformers' own pipeline."""
    import transformers

    auto = getattr(transformers, trained.spec.kind.hugging_face_class)
    model, tokenizer = auto.from_pretrained(folder, local_files_only=True), _library_tokenizer(folder)
    pipeline = transformers.pipeline("text-classification", model=model, tokenizer=tokenizer, device="cpu")
    found: Any = pipeline(list(texts), truncation=True, batch_size=BATCH, top_k=None, function_to_apply="none")
    scores = [{entry["label"]: entry["score"] for entry in entries} for entries in found]
    return np.array([[row[label] for label in trained.spec.labels] for row in scores], np.float32)


def _session_answers(_trained: Trained, folder: Path, texts: Sequence[str]) -> Floats:
    return _run_answers(OnnxRunner(session_of(folder / MODEL_FILE)), folder, texts)


def _program_answers(trained: Trained, folder: Path, texts: Sequence[str]) -> Floats:
    run, fixed = load_program(folder), trained.spec.fixed_shape
    return _run_answers(run if fixed is None else in_fixed_shape(run, fixed), folder, texts)


def _run_answers(run: Run, folder: Path, texts: Sequence[str]) -> Floats:
    """Logits of what takes ids and mask, fed with batches of unlike length by the tokenizer in ``folder``."""
    tokenizer, found = _library_tokenizer(folder / FOLDER), []
    for start in range(0, len(texts), BATCH):
        batch = tokenizer(list(texts[start : start + BATCH]), truncation=True, padding=True, return_tensors="np")
        found.append(run(*(np.asarray(batch[name], np.int64) for name in ("input_ids", "attention_mask"))))
    return np.concatenate(found)


ANSWERING: dict[str, Callable[[Trained, Path, Sequence[str]], Floats]] = {
    "hf": _pipeline_answers,
    "onnx": _session_answers,
    "torch": _program_answers,
}


def _merged(trained: Trained) -> Run:
    import torch

    def run(ids: Ids, mask: Ids) -> Floats:
        with torch.inference_mode():
            return np.asarray(trained.merged(torch.from_numpy(ids), torch.from_numpy(mask)).numpy(), np.float32)

    return run


def _check_tokens(trained: Trained, folder: Path, texts: Sequence[str], tokens: Sequence[list[int]], *, form: str) -> None:
    """Both libraries that read the folder's tokenizer give the tokens of ``predict``, alone and in a batch."""
    from tokenizers import Tokenizer

    reader = Tokenizer.from_file(str(folder / TOKENIZER_FILE))
    reader.encode_special_tokens = StoredTokenizer.read(trained.tokenizer_folder).encoding.split_special_tokens
    encodings = reader.encode_batch(list(texts))
    batched = [[token for token, real in zip(row.ids, row.attention_mask, strict=True) if real] for row in encodings]
    single = _library_tokenizer(folder)(list(texts), truncation=True)["input_ids"]
    for library, found in (("tokenizers", batched), ("transformers", single)):
        for text, ours, theirs in zip(texts, tokens, found, strict=True):
            if ours != list(theirs) and theirs:  # a text without any token becomes padding in predict
                raise ParityError(
                    f"Export as {form} of {trained.manifest.ref}: expected the tokens of predict from {library}, got others for "
                    f"the text {text[:80]!r}: {ours[:12]} and {list(theirs)[:12]}. Nothing was written"
                )


def _texts(trained: Trained, store: ArtifactStore, stored: StoredTokenizer) -> tuple[list[str], bool]:
    """Texts of unlike length, some longer than the model takes in their midst; and whether they are held-out ones."""
    held_out = _held_out(trained, store)
    texts = held_out or _made_up(stored, most_tokens=trained.spec.max_length)
    draw = np.random.default_rng(0)
    joined = [" ".join(texts[place] for place in draw.permutation(len(texts))) for _ in range(LONG_TEXTS)]
    long = [text + f" {text}" * (MOST_CHARACTERS * trained.spec.max_length // len(text)) for text in joined]
    half = len(texts) // 2
    return [*texts[:half], *long, *texts[half:]], bool(held_out)


def _made_up(stored: StoredTokenizer, *, most_tokens: int) -> list[str]:
    tokenizer, draw = stored.load(), np.random.default_rng(1)
    ids = [draw.integers(0, tokenizer.get_vocab_size(), size=int(size)) for size in draw.integers(1, most_tokens + 1, MOST_TEXTS)]
    return [text for row in ids if (text := tokenizer.decode(row.tolist()).strip())] or ["a"]


def _held_out(trained: Trained, store: ArtifactStore) -> list[str]:
    here, _gone = training_datasets(store, trained.manifest.ref)
    return list(rows_of(store, here[0], side="test", indices=[0], texts=True).texts)[:MOST_TEXTS] if here else []


def _library_tokenizer(folder: Path) -> Any:
    import transformers

    return transformers.AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
