"""``ts4s generate`` as it is typed."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest

from flows.cli.main import main
from ts4s_core.artifacts.store import ArtifactStore


@pytest.fixture(scope="module")
def command(store: ArtifactStore, make) -> list[str]:
    """The command's words for a store with a language model ``lm`` and a classifier ``c``."""
    for name, task in (("lm", None), ("c", "classification")):
        folder = store.local(make("gpt2").ref)
        with store.begin("trained", name, "ab" * 32, settings={}, upstream={}) as writer:
            for path in sorted(path for path in folder.rglob("*") if path.is_file()):
                where, data = path.relative_to(folder).as_posix(), path.read_bytes()
                if where == "manifest.json":
                    continue
                if where == "model.json" and task is not None:
                    data = data.replace(b'"language-model"', f'"{task}"'.encode())
                writer.add_bytes(where, data)
            writer.seal()
    return ["generate", "--storage.uri", str(store.storage.uri), "--generate.max_new_tokens", "6", "--generate.seed", "3"]


def test_text_and_json_are_the_same(command, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    asked = [*command, "--model", "lm", "--generate.prompt", "w1 w2"]
    assert main(asked) == 0
    text = capsys.readouterr().out
    assert text.startswith("w1 w2 ")
    assert text.endswith("\n")
    assert main([*asked, "--json"]) == 0
    lines = capsys.readouterr().out.splitlines()
    found = json.loads(lines[-1])
    assert found["texts"] == [text[:-1]]
    assert found["prompts"] == ["w1 w2"]
    assert found["model"].startswith("trained/lm/")
    assert found["tokens"] == 6
    assert found["tokens_per_s"] > 0
    file = tmp_path / "prompts.txt"
    file.write_text("w9\nw1 w2\n")
    assert main([*command, "--model", "lm", "--generate.prompt_file", str(file)]) == 0
    both = capsys.readouterr().out
    assert both.split("\n\n")[1] == text


def test_pieces_are_written_as_they_come(command, monkeypatch: pytest.MonkeyPatch):
    class Slow(io.StringIO):
        flushed: list[str] = []

        def flush(self) -> None:
            self.flushed.append(self.getvalue())

    stream = Slow()
    monkeypatch.setattr(sys, "stdout", stream)
    assert main([*command, "--model", "lm", "--generate.prompt", "w1"]) == 0
    assert len(set(Slow.flushed)) >= 7  # the prompt and six tokens


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--model", "lm"], "generate.prompt is empty"),
        (["--model", "lm", "--generate.prompt", " "], "generate.prompt is empty"),
        (["--model", "nobody", "--generate.prompt", "w1"], "nobody"),
        (["--model", "c", "--generate.prompt", "w1"], "--model c: The model's task is classification: expected language-model"),
        (["--model", "lm", "--generate.prompt", "w1 " * 40], "Prompt 1 has 40 tokens: expected at most 15"),
        (["--model", "lm", "--generate.prompt_file", "nowhere.txt"], "prompt_file nowhere.txt cannot be read"),
        (["--model", "lm", "--generate.prompt", "w1", "--generate.top_p", "0"], "generate.top_p"),
        (["--model", "lm", "--generate.prompt", "w1", "--generate.top_p", "1.5"], "generate.top_p"),
        (["--model", "lm", "--generate.prompt", "w1", "--generate.temperature", "-1"], "generate.temperature"),
        (["--model", "lm", "--generate.prompt", "w1", "--generate.prompt_file", "x"], "both given"),
        (["--generate.prompt", "w1"], "--model"),
    ],
)
def test_what_is_refused(command, store, flags, message, capsys: pytest.CaptureFixture[str]):
    before = sorted(path for path in Path(store.storage.uri).rglob("*"))
    assert main([*command, *flags]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert captured.err.startswith("error: ")
    assert message in captured.err
    assert sorted(path for path in Path(store.storage.uri).rglob("*")) == before
