"""The rendezvous of an attempt's ranks, and the checks that they compute the same bits from the same weights."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ts4s_core.artifacts.versions.environment import instruction_set, library_versions
from ts4s_core.errors import TrainingError, listed
from ts4s_core.models.weights import weights_sha256
from ts4s_core.training.control.address import ControlAddress
from ts4s_core.training.control.client import ControlClient
from ts4s_core.training.exchange.shared_memory import host_identity
from ts4s_core.training.job import TrainJob

log = logging.getLogger(__name__)

#: Longest wait for a value over the control channel: ranks start apart, build models, read from slow stores. A rank that
#: is dead or silent is noticed much sooner, by the channel itself.
STRING_LIMIT_S = 600.0


@dataclass(frozen=True)
class Peers:
    """A rank among its peers.

    Attributes:
        address: the interface by which peers reach this rank.
        one_host: whether all ranks may share memory.
    """

    rank: int
    world_size: int
    control: ControlClient
    secret: str
    address: str
    timeout_s: float
    one_host: bool

    def gather(self, key: str, value: Any) -> list[Any]:
        """Every rank's value, in rank order; also a barrier."""
        return self.control.gather(key, value, timeout_s=max(STRING_LIMIT_S, self.timeout_s))


def rendezvous(
    job: TrainJob, control: ControlClient, *, where: ControlAddress, rank: int, world_size: int, address: str
) -> Peers:
    """Wait for all ranks, and compare everything that the bits of a run depend on.

    Raises:
        TrainingError: if CPUs, libraries or thread counts are mixed.
    """
    mine = {
        "instruction_set": instruction_set(),
        "torch_instruction_set": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        **library_versions(),
    }
    limit_s = max(STRING_LIMIT_S, job.timeout_s)
    everybody = control.gather("meet", {"alike": mine, "host": host_identity()}, timeout_s=limit_s)
    for peer, other in enumerate(everybody):
        odd = [
            f"{name} {value!r} and {other['alike'].get(name)!r}"
            for name, value in mine.items()
            if other["alike"].get(name) != value
        ]
        if odd:
            raise TrainingError(
                f"Workers {rank} and {peer} would not compute the same bits: expected one environment, got {listed(odd)}. "
                "Use machines of one kind with the same installation"
            )
    one_host = len({other["host"] for other in everybody}) == 1
    return Peers(rank, world_size, control, where.secret, address, job.timeout_s, one_host)


def check_same_weights(peers: Peers, parameters: Mapping[str, torch.nn.Parameter]) -> None:
    """Make sure that every rank starts from the same weights.

    Args:
        peers: the ranks.
        parameters: what is trained.

    Raises:
        TrainingError: if a rank has other weights than rank 0.
    """
    digest = weights_sha256({name: parameter.detach().numpy() for name, parameter in parameters.items()})
    digests = peers.gather("initial-weights", digest)
    odd = [rank for rank, other in enumerate(digests) if other != digests[0]]
    if odd:
        raise TrainingError(f"Workers {listed(odd)} start from other weights than worker 0: expected {digests[0][:12]}")
