from __future__ import annotations

from dataclasses import replace

import pytest

from ts4s_core.errors import SettingsError
from ts4s_core.planning.cost import (
    LATENCY_S,
    PAYLOAD,
    Cluster,
    LoadMeasurement,
    Measurements,
    PartCost,
    fit_parts,
    forecast,
    worker_memory,
)
from ts4s_core.planning.options import memory_size, network_speed

MILLION = 1_000_000
FAST = 1e15  # memory and network that cost nothing


def measured(**values: object) -> Measurements:
    level = LoadMeasurement(PartCost(call=0.01, token=1e-4, attention=0.0, last=0.0), optimiser_s=0.08, rest_s=0.005)
    steps = (((4, 50), (4, 50), (4, 50), (4, 50)), ((2, 50), (2, 50), (8, 50), (0, 0)))
    found = Measurements(level, level, (MILLION, MILLION), frozenset(), 10**9, FAST, steps, 4)
    return replace(found, **values)


def test_the_fit_finds_what_parts_cost():
    true = PartCost(call=0.004, token=2e-5, attention=3e-8, last=0.02)
    shapes = [(1, 128), (2, 90), (8, 40), (4, 64), (16, 12), (1, 512), (3, 300)]
    samples = [
        (rows, length, last, true.seconds((rows, length)) + true.last * last) for rows, length in shapes for last in (False, True)
    ]
    found = fit_parts(samples)
    for name in ("call", "token", "attention", "last"):
        assert getattr(found, name) == pytest.approx(getattr(true, name), rel=1e-6)
    assert found.seconds((0, 0)) == 0


def test_no_term_of_the_fit_is_negative():
    # Noise alone would make the attention term negative here.
    samples = [(4, length, False, 1e-4 * 4 * length * (1.1 if length < 40 else 0.95)) for length in (10, 20, 40, 80, 160)]
    found = fit_parts(samples)
    assert min(found.call, found.token, found.attention, found.last) == 0
    assert found.seconds((4, 80)) == pytest.approx(0.032, rel=0.1)


def test_synchronous_workers_wait_for_the_slowest():
    here = Cluster(per_host=4, network_bytes_per_s=1.0)
    one, two, four = (forecast(measured(), here, workers=workers) for workers in (1, 2, 4))
    # Steps cost 4 x 30 ms, and 20 + 20 + 50 ms with one part empty.
    assert one.compute_s == pytest.approx((0.12 + 0.09) / 2)
    assert two.compute_s == pytest.approx((0.06 + 0.05) / 2)
    assert four.compute_s == pytest.approx((0.03 + 0.05) / 2)
    assert [each.optimiser_s for each in (one, two, four)] == pytest.approx([0.08, 0.04, 0.02])
    assert one.seconds == pytest.approx(one.compute_s + 0.08 + 0.005)
    assert (two.exchange_s, two.hosts, two.traffic_bytes) == (0.0, 1, 8 * MILLION)
    hogwild = forecast(measured(), here, workers=4, strategy="hogwild")
    assert hogwild.compute_s == pytest.approx((0.03 + 0.0225) / 2)
    assert hogwild.optimiser_s == 0.08


def test_the_network_costs_its_bytes():
    apart = Cluster(per_host=1, network_bytes_per_s=1e8 / PAYLOAD)
    # Each of two workers sends half of 8 MB twice, at 0.1 GB/s; nothing hides behind backward if that takes no time.
    instant = measured(
        alone=replace(measured().alone, parts=PartCost(0, 0, 0, 0)), crowded=LoadMeasurement(PartCost(0, 0, 0, 0), 0, 0)
    )
    assert forecast(instant, apart, workers=2).exchange_s == pytest.approx(0.08 + 4 * LATENCY_S)
    # The first bucket's reduction (20 ms) hides: the last part's backward takes 20 ms, and half of it is behind the bucket.
    assert forecast(measured(), apart, workers=2).exchange_s == pytest.approx(0.08 + 4 * LATENCY_S - 0.01, abs=0.003)
    # A bucket that waits for a table of embeddings starts when backward ends.
    late = measured(table_buckets=frozenset({0}))
    assert forecast(late, apart, workers=2).exchange_s == pytest.approx(0.08 + 4 * LATENCY_S)
    # Two workers of a host send twice as much through its network, to the two of the other host.
    shared = forecast(instant, replace(apart, per_host=2), workers=4)
    assert shared.hosts == 2
    assert shared.exchange_s == pytest.approx(2 * 0.08 + 4 * LATENCY_S)
    averaging = forecast(instant, apart, workers=2, strategy="averaging", averaging_every=10)
    assert averaging.exchange_s == pytest.approx(0.3 * (0.08 + 4 * LATENCY_S))
    assert averaging.traffic_bytes == pytest.approx(0.3 * 8 * MILLION)


def test_memory_falls_with_the_moments():
    need = {workers: worker_memory(measured(), workers=workers, hosts=1, strategy="synchronous") for workers in (1, 2, 4)}
    # Of 8 MB of weights: half of two moments, and the one level of the tree that two parts do not need.
    assert need[1] - need[2] == 8 * MILLION * 2
    assert need[2] - need[4] == 8 * MILLION // 2
    # Of the larger bucket, 4 MB, the other's piece of the own half.
    assert worker_memory(measured(), workers=2, hosts=2, strategy="synchronous") == need[2] + 2 * MILLION


@pytest.mark.parametrize(
    ("text", "bytes_per_s"),
    [
        ("1Gbit", 1.25e8),
        ("10 Gbit/s", 1.25e9),
        ("100Mbps", 1.25e7),
        ("100mbit", 1.25e7),
        ("25MB/s", 2.5e7),
        ("fast", None),
        ("100", None),
    ],
)
def test_network_speeds(text: str, bytes_per_s: float | None):
    if bytes_per_s is None:
        with pytest.raises(SettingsError, match="is not valid: expected a number with Kbit, Mbit, Gbit"):
            network_speed(text)
    else:
        assert network_speed(text) == pytest.approx(bytes_per_s)


def test_memory_sizes():
    assert memory_size("1.5GB") == 3 * 2**29
    assert memory_size("512MiB") == 2**29
    assert memory_size(" 16 gb ") == memory_size("16g") == 2**34
    for text in ("lots", "12", "0GB", "-1GB", "", "GB"):
        with pytest.raises(SettingsError, match="is not valid: expected a number with MB"):
            memory_size(text)
