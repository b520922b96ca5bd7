"""What the documents tell people to type is typed, word by word as printed, in the order in which it is printed."""

from __future__ import annotations

import contextlib
import csv
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest

from ts4s_core.processes import kill_tree

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]
HOME = "end_to_end/test_shown_commands.py"
COMMAND_LIMIT_S, START_LIMIT_S = 600, 120


class Desk:
    """A folder in which somebody types."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environ = {**os.environ, "HF_HUB_OFFLINE": "1", "XDG_CACHE_HOME": str(folder / "cache")}
        self.typed: list[str] = []

    def program(self, words: list[str]) -> list[str]:
        """The program that the words mean, of this environment."""
        module = {"ts4s": "flows.cli", "prefect": "prefect"}[words[0]]
        return [sys.executable, "-m", module, *words[1:]]

    def type(self, shown: Any, *more: str, environ: dict[str, str] | None = None, **names: str) -> str:
        """Run a shown command; ``names`` are put in place of its placeholders, ``more`` comes behind. Gives its output."""
        self.typed.append(shown.text)
        words = [names.get(word, word) for word in self.program(shown.words)]
        done = subprocess.run(
            [*words, *more],
            cwd=self.folder,
            env={**self.environ, **(environ or {}), **shown.environment},
            capture_output=True,
            text=True,
            timeout=COMMAND_LIMIT_S,
            check=False,
        )
        assert done.returncode == 0, (shown.text, done.stdout[-500:], done.stderr[-2_000:])
        return done.stdout


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory, tsv: Path) -> Desk:
    made = Desk(tmp_path_factory.mktemp("desk"))
    (made.folder / "news.tsv").write_bytes(tsv.read_bytes())
    with (made.folder / "news.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "text"])
        writer.writerows([number, f"arroz con sal {number}"] for number in range(20))
    return made


def lines(shown_texts: Any, *beginnings: str) -> list[Any]:
    """The shown commands of these tests that begin so."""
    return [shown for shown in shown_texts.to_run(HOME) if " ".join(shown.words).startswith(beginnings)]


def test_start_and_plan(desk: Desk, shown_texts: Any) -> None:
    """The pretrained MiniLM on three classes that words give away, then the forecasts for it."""
    retrain, show, *plans = lines(shown_texts, "ts4s retrain", "ts4s models show news", "ts4s plan")
    desk.type(retrain)
    version = json.loads(desk.type(show, "--json").splitlines()[-1])
    assert version["aliases"] == ["champion"]
    assert version["metrics"]["accuracy"] > 0.4
    assert len(plans) == 2
    for plan in plans:
        assert "workers" in desk.type(plan)


def test_commands_about_the_demo(desk: Desk, shown_texts: Any, model_flags: list[str], moto_server: Any) -> None:
    """Two versions of a small model under the name that ``make run`` gives."""
    for seed in ("0", "1"):
        words = ["ts4s", "retrain", "--name", "demo", "--data.source", "news.tsv", *model_flags, "--train.max_steps", "3"]
        words += ["--train.seed", seed, "--spark.master", "none", "--evaluate.max_drift", "100"]
        subprocess.run(desk.program(words), cwd=desk.folder, env=desk.environ, check=True, timeout=COMMAND_LIMIT_S)
    versions = sorted(path.name for path in (desk.folder / "artifacts/trained/demo").iterdir())
    for version in versions:
        promote = ["ts4s", "models", "promote", "demo", version, "--reason", "so that there is one to go back from"]
        subprocess.run(desk.program(promote), cwd=desk.folder, env=desk.environ, check=True, timeout=COMMAND_LIMIT_S)
    moto_server.make_bucket("bucket")
    settings = moto_server.settings(desk.folder, "bucket")
    client = boto3.client(
        "s3",
        endpoint_url=settings.endpoint_url,
        region_name="us-east-1",
        aws_access_key_id=settings.key.get_secret_value(),
        aws_secret_access_key=settings.secret.get_secret_value(),
    )
    client.put_object(Bucket="bucket", Key="texts/a.txt", Body=b"arroz con sal\nlluvia y viento\n")
    server = {
        "TS4S_STORAGE__ENDPOINT_URL": str(settings.endpoint_url),
        "TS4S_STORAGE__KEY": settings.key.get_secret_value(),
        "TS4S_STORAGE__SECRET": settings.secret.get_secret_value(),
    }
    about = lines(shown_texts, "ts4s predict", "ts4s models export", "ts4s models list", "ts4s models show demo")
    about += lines(shown_texts, "ts4s models promote", "ts4s models rollback", "ts4s models verify", "ts4s models gc")
    assert len(about) == 9
    for shown in about:
        desk.type(shown, environ=server if "s3://" in shown.text else None, VERSION=versions[0])
    assert (desk.folder / "predictions").is_dir()
    assert (desk.folder / "demo-onnx/model.onnx").is_file()
    keys = [entry["Key"] for entry in client.list_objects_v2(Bucket="bucket", Prefix="vectors/")["Contents"]]
    assert "vectors/_SUCCESS" in keys


def test_language_model(desk: Desk, shown_texts: Any) -> None:
    train, generate = lines(shown_texts, "ts4s language-model", "ts4s generate")
    desk.type(train)
    text = desk.type(generate)
    assert len(text) > len("The man starts with")


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


@contextlib.contextmanager
def running(desk: Desk, shown: Any) -> Iterator[Path]:
    """A command that goes on until it is stopped; gives the file of what it says."""
    desk.typed.append(shown.text)
    said = desk.folder / f"{shown.words[1]}.log"
    with said.open("wb") as log:
        process = subprocess.Popen(
            desk.program(shown.words), cwd=desk.folder, env=desk.environ, stdout=log, stderr=log, start_new_session=True
        )
        try:
            yield said
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                kill_tree(process.pid)
                process.wait(30)


def until(condition: Any) -> None:
    deadline = time.monotonic() + START_LIMIT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.5)


def healthy(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/api/health")
        return connection.getresponse().status == http.client.OK
    except OSError:
        return False
    finally:
        connection.close()


def test_deployments_on_a_server(desk: Desk, shown_texts: Any) -> None:
    """Prefect's default port may be taken here: the server is told another in its environment."""
    start, export, deploy, worker = lines(shown_texts, "prefect", "export", "ts4s deploy")
    port = free_port()
    desk.environ |= {"PREFECT_SERVER_API_PORT": str(port), "PREFECT_HOME": str(desk.folder / "prefect")}
    with running(desk, start):
        until(lambda: healthy(port))
        desk.typed.append(export.text)
        (name, address) = next(iter(export.environment.items()))
        desk.environ[name] = address.replace("4200", str(port))
        printed = desk.type(deploy)
        assert "retrain/nightly" in printed
        with running(desk, worker) as said:
            until(lambda: "started" in said.read_text(errors="replace"))


def test_everything_was_typed(desk: Desk, shown_texts: Any) -> None:
    """The last one: nothing that is shown is left."""
    assert sorted(desk.typed) == sorted(shown.text for shown in shown_texts.to_run(HOME))
