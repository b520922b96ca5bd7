"""What a fault point is, and the seeded choice of points: the same seed and index are the same point on every machine.

Each family of kinds has seeds of its own, so that a further family changes none of the points that were run.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

STEPS = 60
CHECKPOINT_EVERY = 6

#: Seeds below it draw faults of processes and machines, from it on faults of leases, clocks, users of the store and the network.
FIRST_LEASE_SEED = 100

#: Kind of fault and where the run that it hits takes place.
MACHINE_KINDS: dict[str, tuple[str, ...]] = {
    "worker-kill": ("processes", "spark"),  # SIGKILL of one Python worker
    "workers-kill": ("processes", "spark"),  # SIGKILL of all Python workers
    "worker-stop": ("processes", "spark"),  # SIGSTOP of one Python worker
    "executor-kill": ("cluster",),  # SIGKILL of an executor's JVM
    "executor-loss": ("cluster",),  # SIGKILL of an executor and of the worker that would start another
    "jvm-kill": ("spark",),  # SIGKILL of the driver's JVM
    "driver-kill": ("processes", "spark", "cluster"),  # SIGKILL of the Spark driver process
    "flow-kill": ("train-command", "retrain-command"),  # SIGKILL of the process that the user started
    "disk-full": ("disk",),  # nothing can be written for a while: store, temporary folder
    "store-fails": ("s3",),  # the store cannot be reached for a while
}
#: A place that is named twice is drawn twice as often.
LEASE_KINDS: dict[str, tuple[str, ...]] = {
    "holder-stop": ("processes", "train-command", "train-command", "retrain-command"),  # SIGSTOP of who holds a lease, for 70 s
    "clock-steps": (
        "train-command",
        "train-command",
        "retrain-command",
    ),  # one process's clock goes back and forth, or a run's
    "second-namespace": (
        "train-command",
        "train-command",
        "retrain-command",
    ),  # another pid namespace wants the lease
    "upkeep": ("train-command", "train-command", "retrain-command"),  # gc, promote and rollback while the run goes on
    "stage-vanishes": ("processes", "s3", "train-command"),  # somebody deletes the version that is being written
    "driver-cut": ("namespace",),  # nothing reaches the driver's host any more, and nothing comes from it
    "strangers": ("processes", "spark"),  # connections that drip, more than the run may have open files, until it ends
}
KINDS = MACHINE_KINDS | LEASE_KINDS


def kinds_of(seed: int) -> tuple[str, ...]:
    """The family of kinds that a seed draws from."""
    return tuple(MACHINE_KINDS if seed < FIRST_LEASE_SEED else LEASE_KINDS)


@dataclass(frozen=True)
class Aim:
    """When a fault comes: at a step, or at the first checkpoint that is being written from that step on.

    Attributes:
        step: step number, from 1.
        during: ``step``, ``checkpoint``, or ``end`` (the trained weights are being written).
    """

    step: int
    during: str


@dataclass(frozen=True)
class Point:
    """One fault of one run.

    Attributes:
        aims: one aim an attempt that is to be hit.
        victim: which of the possible victims, modulo their number.
        workers: W of the run.
        more: further faults of the kind's own: refusals until the store works again, who is stopped, and the like; from 1 to 3.
    """

    seed: int
    index: int
    kind: str
    place: str
    aims: tuple[Aim, ...]
    victim: int
    workers: int
    more: int

    @property
    def name(self) -> str:
        """A name for the run, and of the point in reports."""
        return f"{self.kind}-{self.seed}-{self.index}"


def draw(seed: int, index: int) -> Point:
    """The point of a seed and an index; every kind of the seed's family comes once in each ``len(kinds_of(seed))`` points.

    Args:
        seed: any number.
        index: from 0.
    """
    kinds = kinds_of(seed)
    cycle, place_in_cycle = divmod(index, len(kinds))
    order = sorted(kinds)
    random.Random(f"order/{seed}/{cycle}").shuffle(order)
    choice = random.Random(f"point/{seed}/{index}")
    kind = order[place_in_cycle]
    place = choice.choice(KINDS[kind])
    during = choice.choices(("step", "checkpoint", "end"), (70, 22, 8))[0]
    aims = [Aim(choice.randint(1, STEPS - 8) if during != "end" else STEPS, during)]
    if kind in ("worker-kill", "workers-kill", "executor-kill") and during != "end" and choice.random() < 0.25:
        aims.append(Aim(min(STEPS - 8, aims[0].step + choice.randint(1, 12)), "step"))
    workers = 2 if place in ("spark", "cluster", "retrain-command") else choice.choice((2, 2, 4))
    return Point(seed, index, kind, place, tuple(aims), choice.randrange(1_000), workers, choice.randint(1, 3))
