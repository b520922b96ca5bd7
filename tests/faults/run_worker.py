"""One of many processes that work on one model: ``run_worker.py NUMBER ROUNDS``, the storage and limits on its input.

Each round trains (a few steps of a tiny network, seeded), publishes, and promotes; now and then it rolls back or collects. What a
lost lease or a decision that was taken away refuses is no failure: it is counted, and the round is over.
"""

from __future__ import annotations

import json
import random
import sys
import time

import numpy as np

from ts4s_core.artifacts.leases.in_use import in_use
from ts4s_core.artifacts.leases.lease import Lease, Limits
from ts4s_core.artifacts.registry import Registry
from ts4s_core.artifacts.store import ArtifactStore
from ts4s_core.artifacts.upkeep.collect import collect
from ts4s_core.artifacts.upkeep.unsealed import discard_unsealed
from ts4s_core.artifacts.versions.refs import ArtifactRef
from ts4s_core.errors import ConflictError, IntegrityError, LeaseHeldError, NotFoundError
from ts4s_core.settings import StorageSettings


def trained(seed: int) -> tuple[bytes, float]:
    """Weights and loss of a linear model after ten steps of gradient descent."""
    draw = np.random.default_rng(seed)
    rows, weights = draw.normal(size=(32, 8)), draw.normal(size=8)
    target = rows @ np.arange(8.0)
    for _ in range(10):
        weights -= 0.01 * rows.T @ (rows @ weights - target) / len(rows)
    return weights.astype("<f8").tobytes(), float(((rows @ weights - target) ** 2).mean())


def one_round(store: ArtifactStore, name: str, mark: str, choice: random.Random, *, longest_training_s: float) -> str:
    registry, act = Registry(store), choice.choices(("run", "rollback", "gc", "look"), (70, 10, 10, 10))[0]
    if act == "rollback":
        with Lease.hold(store, name):
            registry.rollback(name, why=mark, who="test")
    elif act == "gc":
        collect(store, dry_run=False, grace_s=0.5, keep_last=2)
    elif act == "look":
        with in_use(store, "look"):
            champion = registry.resolve(f"{name}@champion")
            assert len(store.local_file(champion, "model.safetensors").read_bytes()) == 64
    else:
        with Lease.hold(store, name):
            discard_unsealed(store, "trained", name)
            weights, loss = trained(choice.randrange(2**31))
            with store.begin("trained", name, mark.encode().hex().ljust(64, "0")[:64], settings={}, upstream={}) as writer:
                writer.add_bytes("model.safetensors", weights)
                time.sleep(choice.random() * longest_training_s)
                writer.add_json("metrics.json", {"loss": loss})
                writer.seal()
            registry.decide(name, to=writer.ref.version, why=mark, who="test", expected=registry.history(name).number)
            assert store.sealed(ArtifactRef("trained", name, writer.ref.version))
    return act


def main() -> None:
    number, rounds = int(sys.argv[1]), int(sys.argv[2])
    options = json.loads(sys.stdin.readline())
    store = ArtifactStore.open(StorageSettings.model_validate(options["storage"]))
    store.storage.limits = Limits(**options["limits"])
    done: dict[str, int] = {}
    for turn in range(rounds):
        mark = f"{number} {turn}"
        time.sleep(random.Random(f"pause/{options['seed']}/{mark}").random() * options["longest_pause_s"])
        try:
            choice = random.Random(f"{options['seed']}/{mark}")
            act = one_round(store, "demo", mark, choice, longest_training_s=options["longest_training_s"])
        except (LeaseHeldError, ConflictError, IntegrityError, NotFoundError) as exc:
            act = type(exc).__name__
        done[act] = done.get(act, 0) + 1
    sys.stdout.write(json.dumps(done))


if __name__ == "__main__":
    main()
