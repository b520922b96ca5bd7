from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))  # for this folder's own modules: tests/ is no package

from fault_ground import Ground  # noqa: E402
from s3_front import front_of  # noqa: E402
from s3_servers import rclone_serving  # noqa: E402
from spark_cluster import SparkCluster  # noqa: E402


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    """Where runs take place. A module's: it sets this process's environment and log level, which other tests must not see."""
    ground = Ground(
        tmp_path_factory.mktemp("faults"),
        s3=rclone_serving,
        front=front_of,
        cluster=SparkCluster,
    )
    yield ground
    assert ground.close() == []


@pytest.fixture(scope="module")
def undisturbed(ground: Ground) -> tuple[str, dict[tuple[int, int], str]]:
    """Hash and ledger of a run that nothing happens to."""
    return ground.reference()
