"""What a fault point is, and the seeded choice of points: the same seed and index are the same point on every machine."""

from __future__ import annotations

import random
from dataclasses import dataclass

STEPS = 60
CHECKPOINT_EVERY = 6

#: Kind of fault and where the run that it hits takes place.
KINDS: dict[str, tuple[str, ...]] = {
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
    "driver-cut": ("namespace",),  # nothing reaches the driver's host any more, and nothing comes from it
    "strangers": ("processes", "spark"),  # connections that drip, more than the run may have open files, until it ends
}


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
        more: further faults of the kind's own: refusals until the store works again, and the like.
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


def draw(seed: int, index: int, *, kinds: tuple[str, ...] = tuple(KINDS)) -> Point:
    """The point of a seed and an index; every kind comes once in each ``len(kinds)`` points.

    Args:
        seed: any number.
        index: from 0.
        kinds: the kinds to choose from.
    """
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
