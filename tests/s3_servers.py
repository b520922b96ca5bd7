"""Real S3 servers as real processes: moto's (conditional writes) and rclone's (none, but true signatures)."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest

from ts4s_core.settings import StorageSettings

KEY, SECRET = "TESTACCESSKEY", "test-secret-key-0123456789"
#: moto imports for seconds; on a machine with a load of 30 a minute did not do.
START_TIMEOUT_S = 180
FREE_PORT_TRIES = 5


@dataclass(frozen=True)
class S3Server:
    """A running server and how to make a bucket there."""

    url: str
    make_bucket: Callable[[str], None]

    def settings(self, cache_dir: Path, bucket: str | None = None) -> StorageSettings:
        """Settings of a store in a bucket of its own."""
        if bucket is None:
            bucket = f"b-{uuid.uuid4().hex[:12]}"
            self.make_bucket(bucket)
        return StorageSettings.model_validate(
            {"uri": f"s3://{bucket}/pre/fix", "endpoint_url": self.url, "key": KEY, "secret": SECRET, "cache_dir": str(cache_dir)}
        )


@pytest.fixture(scope="session")
def moto_server() -> Iterator[S3Server]:
    """moto's server: honours If-None-Match."""
    with _running(lambda port: [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]) as url:
        yield S3Server(url, functools.partial(_make_bucket, url))


@pytest.fixture(scope="session")
def rclone_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """rclone's server over a folder: ignores If-None-Match, checks signatures."""
    with rclone_serving(tmp_path_factory.mktemp("rclone")) as server:
        yield server


@contextlib.contextmanager
def rclone_serving(folder: Path) -> Iterator[S3Server]:
    """Serve the folders in a folder as buckets."""
    folder.mkdir(exist_ok=True)
    spec = find_spec("rclone_api")
    assert spec is not None
    assert spec.origin is not None
    binary = Path(spec.origin).parent / "bin" / "rclone"
    if not binary.is_file():
        pytest.skip("rclone_api holds no rclone binary")
    options = ["serve", "s3", "--auth-key", f"{KEY},{SECRET}", "--config", "/dev/null"]
    with _running(lambda port: [str(binary), *options, "--addr", f"127.0.0.1:{port}", str(folder)]) as url:
        yield S3Server(url, functools.partial(_make_bucket, url))


def _make_bucket(url: str, name: str) -> None:
    import s3fs

    fs = s3fs.S3FileSystem(
        key=KEY,
        secret=SECRET,
        endpoint_url=url,
        config_kwargs={"s3": {"addressing_style": "path"}},
        skip_instance_cache=True,
    )
    fs.call_s3("create_bucket", Bucket=name)


@contextlib.contextmanager
def _running(command: Callable[[int], list[str]]) -> Iterator[str]:
    """Start a server on a free port, and start again on another one if somebody took that port first."""
    for _ in range(FREE_PORT_TRIES):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        process = subprocess.Popen(
            command(port), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, preexec_fn=_end_with_parent
        )
        try:
            if _answers(f"http://127.0.0.1:{port}", process):
                yield f"http://127.0.0.1:{port}"
                return
        finally:
            _stop(process)
    raise RuntimeError(f"no S3 server started in {FREE_PORT_TRIES} attempts: {command(0)}")


def _end_with_parent() -> None:
    """Linux: end this server when the test process is killed."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def _answers(url: str, process: subprocess.Popen[bytes]) -> bool:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            urllib.request.urlopen(url, timeout=5).close()
        except urllib.error.HTTPError as answer:
            answer.close()
            return True
        except OSError:
            time.sleep(0.1)
            continue
        return True
    return False


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
