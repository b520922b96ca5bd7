"""What every test has: an environment without settings or keys of the user's, a home of its own, S3 servers on demand."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path

import hypothesis
import pytest

from ts4s_core.artifacts.store import ArtifactStore
from ts4s_core.settings import StorageSettings

# For what several folders of tests share: tests/ is no package. Last, so that it hides nothing.
sys.path.append(str(Path(__file__).parent))


# The same examples in every run: what is tested does not hang on luck. Fuzzing (make fuzz) is where new ones are looked for.
hypothesis.settings.register_profile("ts4s", derandomize=True, database=None)
hypothesis.settings.load_profile("ts4s")


def pytest_configure(config: pytest.Config) -> None:
    """Load the fixtures that every folder of tests has, and make JVMs quick to start."""
    # They live for seconds here: time for better machine code and a parallel collector is never earned back.
    os.environ.setdefault("SPARK_SUBMIT_OPTS", "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC")
    for name in ("s3_servers", "s3_front", "trained_models", "prefect_stand", "shown_commands", "edited_sources"):
        config.pluginmanager.register(importlib.import_module(name), name)


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """No ``TS4S_*`` or ``AWS_*`` of the user's, no look at the cloud's metadata address, Prefect's home and the cache apart."""
    for name in list(os.environ):
        if name.startswith(("TS4S_", "AWS_", "BOTO_")):
            monkeypatch.delenv(name)
    home = tmp_path_factory.getbasetemp() / "home"
    home.mkdir(exist_ok=True)
    monkeypatch.setenv("PREFECT_HOME", str(home / "prefect"))
    monkeypatch.setenv("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    monkeypatch.setenv("DO_NOT_TRACK", "1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "cache"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(home / "no-aws-config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(home / "no-aws-credentials"))


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    """An empty store in the test's own folder, with a cache of its own."""
    return ArtifactStore.open(StorageSettings(uri=str(tmp_path / "store"), cache_dir=str(tmp_path / "cache")))
