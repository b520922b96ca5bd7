"""A user id that the system knows nothing of, as containers run with: no name, no home."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from ts4s_core.artifacts.registry import Registry
from ts4s_core.artifacts.store import ArtifactStore
from ts4s_core.settings import StorageSettings

ROOT = Path(__file__).resolve().parents[2]
NOBODY_KNOWS = 54_321
#: The libraries are imported as the known user, who may read them.
AS_UNKNOWN = f"""
import os, sys
import ts4s_core.artifacts.versions.environment as environment
from ts4s_core.artifacts.registry import Registry
from ts4s_core.artifacts.storage.try_writes import try_writes
from ts4s_core.artifacts.store import ArtifactStore
from ts4s_core.artifacts.versions.keys import code_version
from ts4s_core.errors import SettingsError
from ts4s_core.host_user import expanded, home, is_known
from ts4s_core.settings import StorageSettings
import flows.prefect_api.server as server
code_version(); environment.library_versions(); environment.instruction_set()
os.setgroups([]); os.setgid({NOBODY_KNOWS}); os.setuid({NOBODY_KNOWS})
assert (is_known(), home()) == (False, None)
store = ArtifactStore.open(StorageSettings(uri=sys.argv[1]))
try_writes(store.storage)
with store.begin("trained", "demo", "a" * 64, settings={{}}, upstream={{}}) as writer:
    writer.add_bytes("model.safetensors", b"1")
    writer.seal()
who = Registry(store).decide("demo", to=writer.ref.version, why="gate").who
assert server.configured_api_url({{}}) is None
try:
    expanded("~/data")
except SettingsError as exc:
    sys.stdout.write(f"{{who}}|{{exc}}")
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user needs root")
def test_it_trains_seals_and_decides(tmp_path: Path) -> None:
    for place in (tmp_path, *tmp_path.parents):
        if place == Path(tempfile.gettempdir()):
            break
        place.chmod(place.stat().st_mode | 0o011)
    store = tmp_path / "store"
    store.mkdir()
    os.chown(store, NOBODY_KNOWS, NOBODY_KNOWS)
    kept = {name: value for name, value in os.environ.items() if name not in ("HOME", "USER", "LOGNAME", "LNAME", "USERNAME")}
    done = subprocess.run(
        [sys.executable, "-c", AS_UNKNOWN, str(store)],
        env={**kept, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    who, _, refusal = done.stdout.partition("|")
    assert (done.returncode, who.partition("@")[0]) == (0, f"uid-{NOBODY_KNOWS}"), done.stderr
    assert refusal == f"path ~/data: ~ stands for no folder, as user uid-{NOBODY_KNOWS} has no home. Give the whole path"


#: Reads a store that belongs to somebody else.
AS_READER = f"""
import encodings.ascii, logging, os, sys
from ts4s_core.artifacts.leases.in_use import in_use
from ts4s_core.artifacts.registry import Registry
from ts4s_core.artifacts.store import ArtifactStore
from ts4s_core.settings import StorageSettings
logging.basicConfig(format="%(message)s", stream=sys.stdout)
os.setgroups([]); os.setgid({NOBODY_KNOWS}); os.setuid({NOBODY_KNOWS})
store = ArtifactStore.open(StorageSettings(uri=sys.argv[1], cache_dir=sys.argv[2]))
with in_use(store, "predict"):
    ref = Registry(store).resolve("demo@champion")
    sys.stdout.write(store.local_file(ref, "model.safetensors").read_text())
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user needs root")
def test_a_store_without_the_right_to_write_is_read_and_one_line_says_what_follows(tmp_path: Path) -> None:
    for place in (tmp_path, *tmp_path.parents):
        if place == Path(tempfile.gettempdir()):
            break
        place.chmod(place.stat().st_mode | 0o011)
    cache = tmp_path / "cache"
    cache.mkdir(mode=0o777)
    cache.chmod(0o777)
    store = ArtifactStore.open(StorageSettings(uri=str(tmp_path / "store")))
    with store.begin("trained", "demo", "a" * 64, settings={}, upstream={}) as writer:
        writer.add_bytes("model.safetensors", b"weights")
        writer.seal()
    Registry(store).decide("demo", to=writer.ref.version, why="gate")
    before = sorted((tmp_path / "store").rglob("*"))
    command = [sys.executable, "-c", AS_READER, str(tmp_path / "store"), str(cache)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    warning, weights = done.stdout.splitlines()
    assert warning.startswith("the store cannot be marked as in use, so `ts4s models gc` elsewhere may delete what is being read")
    assert weights == "weights"
    assert sorted((tmp_path / "store").rglob("*")) == before
