"""Generation: caches against whole computations, same seed same text, limits and refusals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from small_language_models import MODELS, WORDS

from ts4s_core.errors import SettingsError
from ts4s_core.language.copy_guard import CopyGuard, longest_copy
from ts4s_core.language.generate import Generator, prompts_of
from ts4s_core.language.sampling import candidates, next_token, random_of_prompt
from ts4s_core.language.steppers import CachedStepper, GraphStepper, stepper_of
from ts4s_core.models.model_folder import ModelFolder
from ts4s_core.settings import GenerateSettings


@pytest.fixture(scope="module")
def folders(store, make) -> dict[str, Path]:
    return {kind: store.local(make(kind).ref) for kind in MODELS}


@pytest.mark.parametrize("kind", sorted(MODELS))
def test_a_cache_changes_no_logit_and_no_greedy_text(folders, kind):
    stepper, model = stepper_of(ModelFolder(folders[kind]))
    whole = GraphStepper(ModelFolder(folders[kind]).build().eval())
    ids = torch.randint(2, len(WORDS), (15,), generator=torch.Generator().manual_seed(1)).tolist()
    pairs = [(stepper.read(ids[:5], reset=True), whole.read(ids[:5], reset=True))]
    pairs += [(stepper.read([token], reset=False), whole.read([token], reset=False)) for token in ids[5:]]
    for with_cache, without in pairs:
        np.testing.assert_allclose(with_cache, without, atol=1e-4)
    assert np.abs(pairs[0][1] - pairs[-1][1]).max() > 1e-3
    assert isinstance(stepper, CachedStepper) == (kind in ("gpt2", "llama"))

    options = GenerateSettings(max_new_tokens=30, temperature=0)
    cached, plain = Generator.open(folders[kind]), Generator.open(folders[kind])
    plain._stepper = whole
    texts = [generator.generate(["w3 w4"], options, stop_at_end=False)[0] for generator in (cached, plain)]
    assert texts[0].ids == texts[1].ids
    assert len(texts[0].ids) == 30  # more than the 16 positions of the model
    assert model.spec.max_length == 16


def test_same_seed_same_text_whatever_stands_beside(folders):
    generator = Generator.open(folders["gpt2"])
    options = GenerateSettings(max_new_tokens=12, seed=4)
    alone = [generator.generate([prompt], options)[0].text for prompt in ("w1", "w2 w3", "w4")]
    together = [text.text for text in Generator.open(folders["gpt2"]).generate(["w4", "w2 w3", "w1", "w1"], options)]
    assert together == [alone[2], alone[1], alone[0], alone[0]]
    other = generator.generate(["w1"], GenerateSettings(max_new_tokens=12, seed=5))[0].text
    assert other != alone[0]


def test_a_guarded_text_copies_no_longer_run(folders):
    generator = Generator.open(folders["gpt2"])
    options = GenerateSettings(max_new_tokens=40, temperature=0)
    plain = generator.generate(["w1 w2"], options, stop_at_end=False)[0].ids
    guarded = generator.generate(["w1 w2"], options, stop_at_end=False, guard=CopyGuard([np.array(plain)], longest=3))[0].ids
    assert longest_copy(plain, np.array(plain)) == 40
    assert 0 < longest_copy(guarded, np.array(plain)) <= 3


def test_pieces_add_up_to_the_text(folders):
    heard: dict[int, list[str]] = {}
    texts = Generator.open(folders["recurrent"]).generate(
        ["w1", "w5  w6"],
        GenerateSettings(max_new_tokens=9),
        on_piece=lambda number, piece: heard.setdefault(number, []).append(piece),
    )
    assert [text.text for text in texts] == ["".join(heard[number]) for number in (0, 1)]
    assert [len(pieces) for pieces in heard.values()] == [10, 10] or any(text.ended for text in texts)
    assert texts[1].text.startswith("w5  w6 ")


def test_bytes_of_one_character_come_together(store, make, tmp_path):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: place for place, letter in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    folder = tmp_path / "bytes"
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    generator = Generator.open(store.local(make("window", tokenizer=folder).ref))
    euro = list(tokenizer.encode("x€y").ids)

    class Euro:
        def __init__(self) -> None:
            self.left: list[int] = []

        def read(self, ids, *, reset):
            self.left = euro[1:] if reset else self.left
            logits = np.zeros(len(alphabet))
            logits[self.left[0]] = 50.0
            self.left = self.left[1:] or [euro[0]]
            return logits

    generator._stepper = Euro()
    pieces: list[str] = []
    made = generator.generate(["x"], GenerateSettings(max_new_tokens=4), on_piece=lambda _number, piece: pieces.append(piece))
    assert pieces == ["x", "€", "y"]
    assert made[0].text == "x€y"


def test_the_models_own_end(folders):
    generator = Generator.open(folders["gpt2"])

    class Ending:
        def read(self, ids, *, reset):
            return np.eye(len(WORDS))[1] * 90 + np.eye(len(WORDS))[9] * 50

    generator._stepper = Ending()
    options = GenerateSettings(max_new_tokens=5)
    stopped, going = (generator.generate(["w1"], options, stop_at_end=stop)[0] for stop in (True, False))
    assert (stopped.text, stopped.ended) == ("w1", True)
    assert (going.text, going.ended) == ("w1" + " w7" * 5, False)


def test_prompts(tmp_path, folders, store, make):
    file = tmp_path / "prompts.txt"
    file.write_text("﻿w1 w2\r\n\n  \nw3\n", encoding="utf-8")
    assert prompts_of(GenerateSettings(prompt_file=str(file))) == ["w1 w2", "w3"]
    assert prompts_of(GenerateSettings(prompt="a b")) == ["a b"]
    (tmp_path / "blank.txt").write_text("\n \n")
    (tmp_path / "latin.txt").write_bytes(b"\xe9\n")
    for options, message in (
        (GenerateSettings(), r"generate\.prompt is empty"),
        (GenerateSettings(prompt_file=str(tmp_path / "none.txt")), r"prompt_file .*none\.txt cannot be read"),
        (GenerateSettings(prompt_file=str(tmp_path / "blank.txt")), "has no prompt"),
        (GenerateSettings(prompt_file=str(tmp_path / "latin.txt")), "is not UTF-8"),
    ):
        with pytest.raises(SettingsError, match=message):
            prompts_of(options)
    generator = Generator.open(folders["gpt2"])
    with pytest.raises(SettingsError, match="Prompt 2 has 16 tokens: expected at most 15, what the window of 16 leaves"):
        generator.check(["w1", "w1 " * 16])
    assert len(generator.check(["w1 " * 15])[0]) == 15


def test_a_classifier_does_not_generate(tmp_path, folders):
    record = (folders["window"] / "model.json").read_text().replace('"language-model"', '"classification"')
    (tmp_path / "model.json").write_text(record)
    with pytest.raises(SettingsError, match="task is classification: expected language-model"):
        Generator.open(tmp_path)


def test_unknown_words_and_padding_are_never_chosen(folders):
    generator = Generator.open(folders["window"])
    assert generator._never == {0}


SCORES = np.log(np.array([0.1, 0.4, 0.2, 0.3]))


@pytest.mark.parametrize(
    ("options", "order", "probabilities"),
    [
        ({}, [1, 3, 2, 0], [0.4, 0.3, 0.2, 0.1]),
        ({"top_k": 2}, [1, 3], [4 / 7, 3 / 7]),
        ({"top_k": 9}, [1, 3, 2, 0], [0.4, 0.3, 0.2, 0.1]),
        ({"top_p": 0.6}, [1, 3], [4 / 7, 3 / 7]),
        ({"top_p": 0.05}, [1], [1.0]),
        ({"temperature": 0.5}, [1, 3, 2, 0], [16 / 30, 9 / 30, 4 / 30, 1 / 30]),
        ({"top_k": 3, "top_p": 0.7}, [1, 3], [4 / 7, 3 / 7]),
    ],
)
def test_candidates(options, order, probabilities):
    ids, found = candidates(SCORES, GenerateSettings(**options))
    assert ids.tolist() == order
    np.testing.assert_allclose(found, probabilities, rtol=1e-9)


def test_choices_follow_the_probabilities():
    random = random_of_prompt(0, "x")
    drawn = np.bincount([next_token(SCORES, GenerateSettings(), random=random) for _ in range(4_000)], minlength=4) / 4_000
    np.testing.assert_allclose(drawn, [0.1, 0.4, 0.2, 0.3], atol=0.03)
    assert next_token(SCORES, GenerateSettings(temperature=0), random=random) == 1
    assert next_token(SCORES, GenerateSettings(temperature=0), random=random, never=[1]) == 3
    assert next_token(np.zeros(4), GenerateSettings(temperature=0), random=random) == 0
    never = {next_token(SCORES, GenerateSettings(), random=random, never=[1, 3]) for _ in range(50)}
    assert never == {0, 2}
