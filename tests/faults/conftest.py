from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))  # for this folder's own modules: tests/ is no package

from fault_ground import Ground  # noqa: E402


def beside(name: str) -> ModuleType:
    """A module of tests/, where it is not loaded already."""
    key = f"ts4s_tests_{name}"
    if key not in sys.modules:
        spec = importlib.util.spec_from_file_location(key, HERE.parent / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        sys.modules[key] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[key])
    return sys.modules[key]


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    """Where runs take place. A module's: it sets this process's environment and log level, which other tests must not see."""
    ground = Ground(
        tmp_path_factory.mktemp("faults"),
        s3=beside("s3_servers").rclone_serving,
        front=beside("s3_front").front_of,
        cluster=beside("spark_cluster").SparkCluster,
    )
    yield ground
    assert ground.close() == []


@pytest.fixture(scope="module")
def undisturbed(ground: Ground) -> tuple[str, dict[tuple[int, int], str]]:
    """Hash and ledger of a run that nothing happens to."""
    return ground.reference()
