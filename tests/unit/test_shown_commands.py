"""Every command that the documents show is one that the program takes; short ones are run. As printed: tests/end_to_end."""

from __future__ import annotations

import ast
import importlib
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from flows.cli import main as cli
from flows.cli.options import parse
from flows.cli.table import find_command
from ts4s_core.artifacts.registry import Registry
from ts4s_core.artifacts.store import ArtifactStore
from ts4s_core.settings import StorageSettings, load_settings

ROOT = Path(__file__).parents[2]
PLACEHOLDERS = {"N": "16", "FILE.tsv": "news.tsv", "...": "because"}


def test_every_command_line_is_taken(shown_texts: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".ts4s-stack").mkdir()
    (tmp_path / ".ts4s-stack/ts4s.toml").write_text("")
    monkeypatch.chdir(tmp_path)
    lines = shown_texts.of("ts4s")
    assert len(lines) > 40
    for shown in lines:
        if shown.words[1] == "COMMAND":
            continue
        words = [PLACEHOLDERS.get(word, word) for word in shown.words[1:]]
        words = words[:-1] if words[-1] == "because" and words[-2] != "--reason" else words
        command, length = find_command(words)
        assert command is not None, shown
        if words[length:]:
            parsed = parse(command, words[length:])
            load_settings(parsed.settings, config=parsed.config, profile=parsed.profile)


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_every_target_of_make_is_there(shown_texts: Any) -> None:
    targets = shown_texts.of("make")
    assert {shown.words[1] for shown in targets} >= {"run", "test", "fuzz", "coverage", "test-faults", "test-stack", "bench"}
    for words in {tuple(shown.words) for shown in targets}:
        done = subprocess.run([words[0], "-n", *words[1:]], cwd=ROOT, capture_output=True, text=True, timeout=30, check=False)
        assert done.returncode == 0, (words, done.stderr)


def test_settings_file_is_taken(shown_texts: Any, tmp_path: Path) -> None:
    (block,) = (body for _, _, body in shown_texts.blocks if body.startswith("[model]"))
    (tmp_path / "settings.toml").write_text(block)
    assert load_settings(config=tmp_path / "settings.toml").storage.uri == "artifacts"
    cloud = load_settings(config=tmp_path / "settings.toml", profile="cloud")
    assert (cloud.storage.uri, cloud.spark.master, cloud.train.batch_size) == ("s3://models/ts4s", "spark://driver:7077", 32)


def test_what_the_programs_import_is_there(shown_texts: Any) -> None:
    blocks = [body for _, language, body in shown_texts.blocks if language == "python"]
    assert len(blocks) == 3
    for block in blocks:
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom):
                module = importlib.import_module(str(node.module))
                assert all(hasattr(module, alias.name) for alias in node.names), ast.unparse(node)


def test_commands_of_the_registry_run(shown_texts: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On versions without a model in them, which are called as the documents call them."""
    store = ArtifactStore.open(StorageSettings(uri=str(tmp_path)))
    registry, versions = Registry(store), []
    for key in "ab":
        with store.begin("trained", "demo", key * 64, settings={}, upstream={}) as writer:
            writer.add_json("training.json", {"steps": 1})
            writer.facts.update(weights_sha256=key * 64)
            writer.seal()
        versions.append(writer.ref.version)
        registry.decide("demo", to=writer.ref.version, why="a test")
    names = {"VERSION": versions[0], "news": "demo", "NAME": "demo", **PLACEHOLDERS}
    seen = set()
    for shown in shown_texts.of("ts4s"):
        words = tuple(names.get(word, word) for word in shown.words[1:])
        if words[0] != "models" or words[1] in ("export", "compare") or words in seen:
            continue
        seen.add(words)
        registry.decide("demo", to=versions[1], why="a champion to go back from")
        code = cli.main([*words, "--json", "--storage.uri", str(tmp_path)])
        captured = capsys.readouterr()
        assert code == 0, (words, captured.err)
        json.loads(captured.out.splitlines()[-1])
    assert {words[1] for words in seen} == {"list", "show", "promote", "rollback", "verify", "gc"}
    assert registry.alias("demo", "staging") == versions[0]


def test_every_command_in_a_block_is_run_by_some_test(shown_texts: Any) -> None:
    blocks = [shown for shown in shown_texts.commands if shown.in_block]
    assert {shown.run_by for shown in blocks} == {"end_to_end/test_shown_commands.py", "stack", "a target"}
