"""The whole chain on S3 servers: the same weights as in a folder, nothing left lying about, and no key anywhere."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

TRAIN = ["--train.max_steps", "4", "--train.batch_size", "16", "--train.checkpoint_every_steps", "2"]
# On two idle cores a run takes half a minute.
LIMIT_S = 900


@pytest.fixture(scope="module")
def in_folder(model_flags: list[str], tsv: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The result of the same command with its store in a folder, by plain processes."""
    folder = tmp_path_factory.mktemp("in-folder")
    words = [
        "retrain",
        "--data.source",
        str(tsv),
        *model_flags,
        *TRAIN,
        "--train.workers",
        "1",
        "--spark.master",
        "none",
        "--json",
    ]
    environ = {"PREFECT_HOME": str(folder / "prefect")}
    code, out, err, _ = run_watched(words, folder=folder / "run", environ=environ, limit_s=LIMIT_S)
    assert code == 0, err[-3000:]
    result: dict[str, Any] = json.loads(out.splitlines()[-1])
    return result


def on_server(server: Any, tmp_path: Path) -> tuple[Any, list[str], dict[str, str]]:
    """Storage settings, the flags that name them, and the environment that holds the keys."""
    settings = server.settings(tmp_path / "cache")
    flags = ["--storage.uri", settings.uri, "--storage.endpoint_url", settings.endpoint_url]
    flags += ["--storage.cache_dir", str(tmp_path / "cache")]
    keys = {"TS4S_STORAGE__KEY": settings.key.get_secret_value(), "TS4S_STORAGE__SECRET": settings.secret.get_secret_value()}
    return settings, flags, keys


class Watcher:
    """Looks at the command line of every process of this user below one, again and again."""

    def __init__(self) -> None:
        self.seen: set[str] = set()
        self._ended = threading.Event()

    def watch(self, pid: int) -> None:
        while not self._ended.wait(0.05):
            try:
                root = psutil.Process(pid)
                for process in [root, *root.children(recursive=True)]:
                    self.seen.add("\0".join(process.cmdline()))
            except psutil.Error:
                continue

    def stop(self) -> None:
        self._ended.set()


def run_watched(words: list[str], *, folder: Path, environ: dict[str, str], limit_s: float) -> tuple[int, str, str, set[str]]:
    """Run a command as a user does, and note the command lines of all its processes."""
    folder.mkdir()
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "hf"), "TMPDIR": str(folder / "tmp"), **environ}
    (folder / "tmp").mkdir()
    watcher = Watcher()
    with (folder / "out").open("w+") as out, (folder / "err").open("w+") as err:
        process = subprocess.Popen(
            [sys.executable, "-m", "flows.cli", *words], cwd=folder, env=environment, stdout=out, stderr=err
        )
        thread = threading.Thread(target=watcher.watch, args=(process.pid,))
        thread.start()
        try:
            code = process.wait(limit_s)
        finally:
            process.kill()
            process.wait()
            watcher.stop()
            thread.join()
    return code, (folder / "out").read_text(), (folder / "err").read_text(), watcher.seen


def contents(store: Any) -> Iterator[tuple[str, bytes]]:
    """Every object of a store, hidden ones too."""
    for entry in store.storage.list("", temporary=True):
        yield entry.path, store.storage.read_bytes(entry.path)


@pytest.mark.long
@pytest.mark.timeout(2_000)
@pytest.mark.parametrize("kind", ["moto_server", "rclone_server"])
def test_retrain_on_s3_gives_the_weights_of_a_folder(
    ts4s: Callable[..., Any],
    model_flags: list[str],
    tsv: Path,
    tmp_path: Path,
    in_folder: dict[str, Any],
    kind: str,
    request: pytest.FixtureRequest,
) -> None:
    from ts4s_core.artifacts.store import ArtifactStore
    from ts4s_core.artifacts.upkeep.verify import verify

    settings, storage, keys = on_server(request.getfixturevalue(kind), tmp_path)
    on_spark = ["--data.source", str(tsv), *model_flags, *TRAIN, "--train.workers", "2", "--json", "--spark.master", "local[2]"]
    first = ts4s("retrain", *on_spark, *storage, environ=keys, timeout_s=LIMIT_S)
    assert first.code == 0, first.err
    assert first.json["weights_sha256"] == in_folder["weights_sha256"]
    assert first.json["metrics"] == in_folder["metrics"]
    assert first.json["status"] == "done"

    store = ArtifactStore.open(settings)
    before = store.storage.list("", temporary=True)
    assert store.names("checkpoint") == []
    assert not [entry.path for entry in before if ".ts4s-tmp-" in entry.path or entry.path.startswith("leases/")]
    second = ts4s("retrain", *on_spark, *storage, environ=keys, timeout_s=LIMIT_S)
    assert second.json["status"] == "unchanged"
    assert second.json["version"] == first.json["version"]
    assert store.storage.list("", temporary=True) == before
    rows = verify(store)
    assert len(rows) == 6
    assert [damage for row in rows for damage in row.damages] == []
    assert ts4s("models", "verify", *storage, environ=keys, timeout_s=LIMIT_S).code == 0
    shown = ts4s("models", "show", f"default@{first.json['version']}", "--json", *storage, environ=keys, timeout_s=LIMIT_S)
    assert shown.json["weights_sha256"] == first.json["weights_sha256"]


@pytest.mark.long
@pytest.mark.timeout(2_000)
def test_the_steps_on_s3_give_the_weights_of_a_folder(
    model_flags: list[str],
    tsv: Path,
    tmp_path: Path,
    moto_server: Any,
    rclone_server: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One by one, without Prefect and Spark: folder, a server with conditional writes, one without."""
    from flows.cli import main as cli

    flags = ["--data.source", str(tsv), *model_flags, *TRAIN, "--spark.master", "none", "--train.workers", "2", "--json"]
    hashes = {}
    for place, server in (("folder", None), ("moto", moto_server), ("rclone", rclone_server)):
        storage = ["--storage.uri", str(tmp_path / "store")]
        if server is not None:
            _, storage, keys = on_server(server, tmp_path / place)
            for name, value in keys.items():
                monkeypatch.setenv(name, value)
        for step in ("export", "prepare", "import", "train", "evaluate"):
            code = cli.main([step, *flags, *storage])
            captured = capsys.readouterr()
            assert code == 0, (place, step, captured.err[-3000:])
            result = json.loads(captured.out.splitlines()[-1])
            hashes[place] = result.get("weights_sha256", hashes.get(place))
        assert cli.main(["models", "verify", *storage]) == 0, capsys.readouterr().out
    assert len(set(hashes.values())) == 1, hashes
    assert len(str(hashes["folder"])) == 64


@pytest.mark.long
@pytest.mark.timeout(2_000)
def test_keys_are_nowhere(model_flags: list[str], tsv: Path, tmp_path: Path, rclone_server: Any) -> None:
    """Not in output, logs, temporary files, Prefect's database, the store, the cache, nor any process's arguments."""
    from ts4s_core.artifacts.store import ArtifactStore

    settings, storage, keys = on_server(rclone_server, tmp_path)
    home = tmp_path / "prefect"
    words = ["retrain", "--debug", "--data.source", str(tsv), *model_flags, *TRAIN, "--spark.master", "local[2]", *storage]
    environ = {**keys, "PREFECT_HOME": str(home)}
    code, out, err, seen = run_watched(words, folder=tmp_path / "run", environ=environ, limit_s=LIMIT_S)
    assert code == 0, err[-3000:]
    assert len(seen) > 3
    assert any("org.apache.spark" in line for line in seen), sorted(seen)
    planted = [value.encode() for value in keys.values()]
    texts = [("out", out.encode()), ("err", err.encode()), ("arguments", "\n".join(seen).encode())]
    files = [path for folder in (tmp_path / "run", home, tmp_path / "cache") for path in folder.rglob("*") if path.is_file()]
    texts += [(str(path), path.read_bytes()) for path in files]
    texts += list(contents(ArtifactStore.open(settings)))
    assert len(texts) > 30
    found = [where for where, text in texts for secret in planted if secret in text]
    assert found == []

    # And when the store refuses: one line, no key in it.
    wrong = {**keys, "TS4S_STORAGE__SECRET": "planted-wrong-secret-98765"}
    code, out, err, _ = run_watched(["models", "list", *storage], folder=tmp_path / "wrong", environ=wrong, limit_s=LIMIT_S)
    assert code == 1
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert all(secret not in out + err for secret in wrong.values())
