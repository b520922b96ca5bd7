"""How fast, and in how much memory, an artifact goes up to an S3 server and down again: ts4s beside boto3.

boto3's own transfer manager (``upload_file``, ``download_file``, its defaults) plus one sha256 pass over the same bytes is
what a careful user would write; ts4s publishes the same file as an artifact (hash, parts, manifest) and fetches it into an
empty verified cache. Both talk to the same server process, in turn, each measurement in a fresh process, on fresh content.
The server is rclone's (or moto's with ``--server moto``), or one that runs already, given by ``--endpoint-url``.

    python infra/benchmarks/store_throughput.py [--mib 512] [--rounds 5] [--server rclone] [--only ts4s] [--to FILE.json]

The ratio is ts4s's throughput over boto3's, median of rounds. Peak memory is that of the whole process, libraries included.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from side_by_side import write_result

KEY, SECRET = "BENCHACCESSKEY", "bench-secret-key-0123456789"
BUCKET = "bench"
CHUNK_BYTES = 2**20
STEP_KEY = "0" * 64


def client(url: str) -> Any:
    """A boto3 client set up as S3 servers other than AWS want it."""
    import boto3
    from botocore.config import Config

    config = Config(
        s3={"addressing_style": "path"},
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    options = {"aws_access_key_id": KEY, "aws_secret_access_key": SECRET, "region_name": "us-east-1"}
    return boto3.client("s3", endpoint_url=url, config=config, **options)


def open_store(url: str, cache: str) -> Any:
    """The store of ts4s on the same bucket."""
    from ts4s_core.artifacts.store import ArtifactStore
    from ts4s_core.settings import StorageSettings

    values = {"uri": f"s3://{BUCKET}/store", "endpoint_url": url, "key": KEY, "secret": SECRET, "cache_dir": cache}
    store = ArtifactStore.open(StorageSettings.model_validate(values))
    store.newest("model", "none")  # connected, as boto3's client is after its own first request
    return store


def sha256(path: Path) -> str:
    """One pass over a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def measured(work: str, url: str, file: Path, ref: str) -> dict[str, Any]:
    """One measurement: runs in a process of its own."""
    target = file.with_name("down.safetensors")
    with tempfile.TemporaryDirectory(dir=file.parent) as cache:
        if work.startswith("boto3"):
            s3 = client(url)
            s3.list_objects_v2(Bucket=BUCKET, MaxKeys=1)
        else:
            store = open_store(url, cache)
        started, worked = time.perf_counter(), time.process_time()
        if work == "boto3-up":
            s3.upload_file(str(file), BUCKET, "boto3.safetensors")
            ref = sha256(file)
        elif work == "boto3-down":
            s3.download_file(BUCKET, "boto3.safetensors", str(target))
            ref = sha256(target)
        elif work == "ts4s-up":
            with store.begin("model", "bench", STEP_KEY, settings={}, upstream={}) as writer:
                writer.add_file(file, "model.safetensors")
                writer.seal()
            ref = str(writer.ref)
        else:
            from ts4s_core.artifacts.versions.refs import ArtifactRef

            store.local(ArtifactRef.parse(ref))
        seconds, cpu = time.perf_counter() - started, time.process_time() - worked
    target.unlink(missing_ok=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"seconds": seconds, "cpu_s": cpu, "peak_mib": peak / 1024, "ref": ref}


def in_process(work: str, url: str, file: Path, ref: str = "-") -> dict[str, Any]:
    """Run :func:`measured` in a fresh process."""
    command = [sys.executable, __file__, "--measure", work, "--endpoint-url", url, "--file", str(file), "--ref", ref]
    os.sync()  # what the one before left to be written is not this one's to wait for
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{work} failed: {done.stderr[-2000:]}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


@contextmanager
def server(kind: str, folder: Path) -> Iterator[str]:
    """A server process on a free port, with its files below the folder."""
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    if kind == "moto":
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    else:
        spec = find_spec("rclone_api")
        if spec is None or spec.origin is None:
            raise SystemExit("rclone is not installed: see pyproject.toml, dev")
        binary = Path(spec.origin).parent / "bin" / "rclone"
        options = ["--auth-key", f"{KEY},{SECRET}", "--config", "/dev/null", "--addr", f"127.0.0.1:{port}"]
        command = [str(binary), "serve", "s3", *options, str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(30)


def make_bucket(url: str) -> None:
    """Make the bucket as soon as the server answers."""
    from botocore.exceptions import BotoCoreError, ClientError

    for _ in range(100):
        try:
            client(url).create_bucket(Bucket=BUCKET)
            return
        except ClientError as exc:
            if exc.response["Error"]["Code"] in ("BucketAlreadyOwnedByYou", "BucketAlreadyExists"):
                return
            raise
        except BotoCoreError:
            time.sleep(0.2)
    raise SystemExit(f"no S3 server answers at {url}")


def fresh(file: Path, mib: int) -> None:
    """Fill the file anew with bytes that nothing can compress."""
    with file.open("wb") as target:
        for _ in range(mib):
            target.write(secrets.token_bytes(CHUNK_BYTES))
        target.flush()
        os.fsync(target.fileno())


def rounds_of(url: str, folder: Path, options: argparse.Namespace) -> dict[str, list[dict[str, Any]]]:
    """All measurements, boto3 and ts4s in turn, the order changed from round to round."""
    file, found = folder / "up.safetensors", {}
    tools = [options.only] if options.only else ["boto3", "ts4s"]
    found = {f"{tool}-{way}": [] for tool in tools for way in ("up", "down")}
    for number in range(options.rounds):
        fresh(file, options.mib)
        for tool in tools if number % 2 else reversed(tools):
            up = in_process(f"{tool}-up", url, file)
            down = in_process(f"{tool}-down", url, file, up["ref"])
            found[f"{tool}-up"].append(up)
            found[f"{tool}-down"].append(down)
            if tool == "ts4s":
                _delete(url, folder, up["ref"])
    return found


def _delete(url: str, folder: Path, ref: str) -> None:
    from ts4s_core.artifacts.versions.refs import ArtifactRef

    open_store(url, str(folder / "none")).delete(ArtifactRef.parse(ref))


def summary(found: dict[str, list[dict[str, Any]]], mib: int) -> dict[str, Any]:
    """Medians and ratios."""
    values: dict[str, Any] = {
        work: {
            "mib_per_s": round(mib / statistics.median(one["seconds"] for one in runs), 1),
            "seconds": [round(one["seconds"], 3) for one in runs],
            "cpu_s": round(statistics.median(one["cpu_s"] for one in runs), 3),
            "peak_mib": round(max(one["peak_mib"] for one in runs), 1),
        }
        for work, runs in found.items()
    }
    if "boto3-up" in found and "ts4s-up" in found:
        values["ratio"] = {
            way: round(values[f"ts4s-{way}"]["mib_per_s"] / values[f"boto3-{way}"]["mib_per_s"], 3) for way in ("up", "down")
        }
    return values


def main() -> None:
    """Read the arguments, measure, print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mib", type=int, default=512, help="size of the artifact")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--server", choices=("rclone", "moto"), default="rclone")
    parser.add_argument("--endpoint-url", help="a server that runs already")
    parser.add_argument("--only", choices=("boto3", "ts4s"), help="measure one alone")
    parser.add_argument("--to", type=Path, help="write the result there too")
    parser.add_argument("--folder", type=Path, help="where the files of the measurement lie meanwhile")
    for hidden in ("--measure", "--file", "--ref"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measured(options.measure, options.endpoint_url, Path(options.file), options.ref)))
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as temporary:
        folder = Path(temporary)
        (folder / "served").mkdir()
        with server(options.server, folder / "served") as started:
            url = options.endpoint_url or started
            make_bucket(url)
            found = rounds_of(url, folder, options)
    result = {
        "benchmark": "store_throughput",
        "server": options.endpoint_url or options.server,
        "mib": options.mib,
        "rounds": options.rounds,
        **summary(found, options.mib),
    }
    print(json.dumps(result))
    if options.to:
        write_result(options.to, result)


if __name__ == "__main__":
    main()
