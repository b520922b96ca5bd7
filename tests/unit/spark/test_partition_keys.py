"""Keys that Spark's hash partitioning sends where they are wanted."""

from __future__ import annotations

import numpy as np
import pytest

from ts4s_core.spark.session.partition_keys import murmur3, partition_keys


def test_the_hash_is_sparks() -> None:
    """``SELECT hash(0), hash(1), hash(42), hash(-1), hash(2147483647)`` in Spark 4.3."""
    numbers = np.array([0, 1, 42, -1, 2**31 - 1], np.int32)
    assert murmur3(numbers).tolist() == [933211791, -559580957, 29417773, -1604776387, 133916647]


@pytest.mark.parametrize("partitions", [1, 2, 7, 64, 1000])
def test_each_partition_has_a_key_of_its_own(partitions: int) -> None:
    keys = partition_keys(partitions)
    found = np.mod(murmur3(np.array(keys, np.int32)).astype(np.int64), partitions)
    assert found.tolist() == list(range(partitions))
