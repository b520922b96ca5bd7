"""One rank of a training attempt, from its start to its result."""

from __future__ import annotations

import contextlib
import logging
import socket

import torch

from ts4s_core.artifacts.leases.lease import Fence
from ts4s_core.artifacts.store import ArtifactStore, stage_file
from ts4s_core.artifacts.versions.manifest import FileEntry
from ts4s_core.errors import TrainingError, Ts4sError, WorkerFailedError
from ts4s_core.models.weights import weights_sha256
from ts4s_core.retries import retried
from ts4s_core.training.checkpoints.reader import Checkpoint
from ts4s_core.training.checkpoints.scratch_files import scratch_file, write_tensors
from ts4s_core.training.checkpoints.writer import WRITE_LIMIT_S, CheckpointWriter
from ts4s_core.training.control.address import ControlAddress
from ts4s_core.training.control.client import ControlClient, LogToDriver
from ts4s_core.training.control.messages import TrainedWeights, WorkerResult
from ts4s_core.training.exchange.peers import Peers, check_same_weights, rendezvous
from ts4s_core.training.job import TrainJob
from ts4s_core.training.step.built_model import BuiltModel
from ts4s_core.training.strategies.averaging import averaging
from ts4s_core.training.strategies.hogwild import hogwild
from ts4s_core.training.strategies.strategy import MakeStrategy
from ts4s_core.training.strategies.synchronous import synchronous
from ts4s_core.training.worker.allocator import keep_memory
from ts4s_core.training.worker.assembly import assemble
from ts4s_core.training.worker.ledger import ledger_of
from ts4s_core.training.worker.loop import Loop

log = logging.getLogger(__name__)

#: What torch and the system say when there is no more memory; torch raises a plain RuntimeError.
_OUT_OF_MEMORY = ("can't allocate memory", "Cannot allocate memory", "not enough memory", "Unable to allocate")
_STRATEGIES: dict[str, MakeStrategy] = {"synchronous": synchronous, "averaging": averaging, "hogwild": hogwild}


def run_worker(job: TrainJob, *, rank: int, world_size: int, control: ControlAddress, address: str = "127.0.0.1") -> WorkerResult:
    """Run one rank to the end of training.

    The process ends at once (``os._exit``) when the driver says so or is gone.

    Args:
        job: what to train, without secrets: the driver sends those over the control channel.
        rank: this worker's number.
        world_size: number of workers.
        control: the driver's control server.
        address: the interface by which peers reach this worker.

    Returns:
        steps that were taken; on rank 0 also the entry and the hash of the trained weights.

    Raises:
        Ts4sError: the failure, after it was reported to the driver.
    """
    client = ControlClient(control, rank=rank, own_address=address)
    job = job.with_secrets(client.store_secrets)
    log_to_driver = LogToDriver(client)
    own = logging.getLogger("ts4s_core")
    level = own.level
    own.addHandler(log_to_driver)
    own.setLevel(logging.INFO)
    try:
        torch.set_num_threads(job.threads_per_worker)
        keep_memory()
        peers = rendezvous(job, client, where=control, rank=rank, world_size=world_size, address=address)
        result = _train(job, peers)
    except Ts4sError as exc:
        client.fail(exc)
        raise
    except Exception as exc:
        log.exception("worker %d failed", rank)
        error = _unforeseen(exc, job, rank=rank, step=client.step + 1)
        client.fail(error)
        raise error from exc
    finally:
        own.setLevel(level)
        own.removeHandler(log_to_driver)
    client.done(result, timeout_s=job.timeout_s)
    return result


def _unforeseen(exc: Exception, job: TrainJob, *, rank: int, step: int) -> TrainingError:
    """An error that is not one of ours, with where it was raised; the same at every attempt if it has the same cause."""
    where = f"Worker {rank} on {socket.gethostname()}"
    if isinstance(exc, MemoryError) or any(sign in str(exc) for sign in _OUT_OF_MEMORY):
        settings = job.settings
        return TrainingError(
            f"{where} ran out of memory in step {step}: train.batch_size {settings.batch_size} in {settings.logical_shards} "
            f"parts does not fit ({exc}). Lower train.batch_size or model.max_length, or raise train.logical_shards"
        )
    return WorkerFailedError(f"{where} failed in step {step}: {type(exc).__name__}: {exc}")


def _train(job: TrainJob, peers: Peers) -> WorkerResult:
    store = ArtifactStore.open(job.storage_settings())
    store.storage.fences.extend(Fence.from_json(record) for record in job.held)
    setup, rows = assemble(job, store)
    checkpoint = Checkpoint.open(store, job.resume_ref) if job.resume_ref else None
    if checkpoint is not None:
        setup.restore(checkpoint)
    check_same_weights(peers, setup.parameters)
    writer = CheckpointWriter(job, store, peers.control, rank=peers.rank)
    strategy = _STRATEGIES[job.settings.strategy](setup, peers, exchange=job.exchange, checkpoint=checkpoint)
    with contextlib.closing(strategy), ledger_of(job, rank=peers.rank) as ledger:
        loop = Loop(
            strategy,
            setup.built,
            rows,
            job.settings,
            peers=peers,
            checkpoints=writer,
            ledger=ledger,
            checkpoint=checkpoint,
        )
        loop.run()
        stored = _store_weights(job, store, setup.built, loop) if peers.rank == 0 else None
        # A rank that leaves takes its connections with it; the others may still be on their last numbers.
        peers.control.gather("trained", None, timeout_s=WRITE_LIMIT_S)
    return WorkerResult(rank=peers.rank, steps=loop.progress.step, trained=stored)


def _store_weights(job: TrainJob, store: ArtifactStore, built: BuiltModel, loop: Loop) -> TrainedWeights:
    """Write the trained weights (the best ones, with early stopping) beside the frozen ones into the output version."""
    trained = loop.best if loop.best is not None else loop.weights()

    def write() -> FileEntry:
        with scratch_file() as local:
            write_tensors(local, {**built.weights(), **trained})
            return stage_file(store.storage, job.output_ref, "model.safetensors", local)

    return TrainedWeights(
        weights=retried(write),
        weights_sha256=weights_sha256(trained),
        best_step=loop.progress.best_step,
        validation_loss=loop.progress.best_loss,
        strategy=loop.progress.strategy,
    )
