"""The training loop of one rank: the same decisions on every rank, because all are made from gathered numbers."""

from __future__ import annotations

import logging
import time
from dataclasses import replace

import psutil

from ts4s_core.models.weights import Array
from ts4s_core.settings import TrainSettings
from ts4s_core.training.batches.batch import PartBatch
from ts4s_core.training.batches.batch_plan import BatchPlan
from ts4s_core.training.batches.prefetch import prefetched
from ts4s_core.training.batches.read_ahead import PlannedStep, RowSource, planned_steps
from ts4s_core.training.checkpoints.reader import Checkpoint
from ts4s_core.training.checkpoints.state import Snapshot
from ts4s_core.training.checkpoints.training_progress import TrainingProgress
from ts4s_core.training.checkpoints.writer import CheckpointWriter
from ts4s_core.training.control.messages import Progressing, Started, Stepped, Validated
from ts4s_core.training.exchange.peers import Peers
from ts4s_core.training.step.built_model import BuiltModel
from ts4s_core.training.step.engine import GradientNotFiniteError, StepStats, non_finite
from ts4s_core.training.step_rows import StepRow
from ts4s_core.training.strategies.strategy import Strategy
from ts4s_core.training.worker.ledger import Ledger
from ts4s_core.training.worker.validation import validation_loss

log = logging.getLogger(__name__)

_SEND_EVERY_S = 1.0


class Loop:
    """Steps, validations and checkpoints from where a checkpoint stands, or the beginning, to the end.

    Attributes:
        progress: what has been done so far.
        best: the best weights so far by stored name (rank 0, with early stopping).
    """

    def __init__(
        self,
        strategy: Strategy,
        built: BuiltModel,
        rows: RowSource,
        settings: TrainSettings,
        *,
        peers: Peers,
        checkpoints: CheckpointWriter,
        ledger: Ledger | None,
        checkpoint: Checkpoint | None,
    ) -> None:
        self.progress = checkpoint.progress() if checkpoint else TrainingProgress()
        self.best = checkpoint.best() if checkpoint else None
        self.plan = BatchPlan(
            rows.rows_per_group("train"),
            settings.batch_size,
            settings.logical_shards,
            settings.seed,
            least_rows=2 if strategy.statistics() else 1,  # what is normalised over one row is not a number
        )
        self.total_steps = self.plan.total_steps(settings.epochs, settings.max_steps)
        self._strategy = strategy
        self._checkpoint_interval = strategy.checkpoint_interval(settings.checkpoint_every_steps)
        self._built = built
        self._rows = rows
        self._settings = settings
        self._peers = peers
        self._checkpoints = checkpoints
        self._ledger = ledger
        self._process = psutil.Process()
        self._unsent: list[StepRow] = []
        self._sent = time.monotonic()
        self._checkpoint_due = False
        self._last_step_ended = time.perf_counter()

    def run(self) -> None:
        """Train to the end, or until validation says so.

        Raises:
            NonFiniteError: on every rank, before the update.
            WorkerLostError: if a peer does not keep up.
        """
        first = self.progress.step
        self._tell(Started(step=first, steps=self.total_steps))
        steps = planned_steps(self._rows, "train", self.plan, first=first, stop=self.total_steps)
        self._last_step_ended = time.perf_counter()
        for planned, batches in prefetched(steps, self._own_batches, depth=self._settings.prefetch_batches):
            busy = self._step(planned, batches)
            validates = self._validates_after(planned)
            if self._strategy.independent:
                self._join_after(planned, validates=validates)
            if validates:
                if self._validate():
                    log.info("early stop after step %d: best loss at step %d", self.progress.step, self.progress.best_step)
                    break
                self._last_step_ended = time.perf_counter()  # a validation is no step's time
            if self._checkpoint_due and not busy:
                self._checkpoint()
        self._send_metrics()
        self._checkpoints.wait()

    def weights(self) -> dict[str, Array]:
        """The trained weights by stored name: the current ones, as views; running statistics too."""
        weights = {self._built.stored_name(name): view.numpy() for name, view in self._strategy.weights().items()}
        return weights | self._strategy.statistics()

    def _step(self, planned: PlannedStep, batches: list[PartBatch | None]) -> bool:
        """Take a step; whether any rank is still writing a checkpoint.

        A step's time runs from the end of the one before: waiting for its batch and copying a checkpoint count.
        """
        settings = self._settings
        step = planned.step
        rate = self._built.rate(
            step, total_steps=self.total_steps, highest=settings.learning_rate, warmup_fraction=settings.warmup_fraction
        )
        self._note(planned)
        memory_mib = self._process.memory_info().rss / 2**20
        try:
            stats = self._strategy.step(batches, step=step, rate=rate, flag=self._checkpoints.busy, memory_mib=memory_mib)
        except GradientNotFiniteError as exc:
            raise self._explained(exc, planned, batches) from exc
        started, self._last_step_ended = self._last_step_ended, time.perf_counter()
        seconds = self._last_step_ended - started
        self.progress.step = self._peers.control.step = step + 1
        self._record(_row(stats, step=step + 1, epoch=planned.epoch, rate=rate, milliseconds=seconds * 1e3))
        self._checkpoint_due |= (step + 1) % self._checkpoint_interval == 0
        return stats.flag

    def _join_after(self, planned: PlannedStep, *, validates: bool) -> None:
        """Let independent ranks join where the strategy, a validation, a checkpoint or the end of the run asks for it."""
        strategy, done = self._strategy, self.progress.step
        saves = self._checkpoint_due and done < self.total_steps
        if saves:
            self._checkpoints.wait()  # each rank comes here in its own time: it must not skip one that its peers write
        if not (validates or done == self.total_steps or strategy.joins_after(planned) or (saves and strategy.joins_to_save)):
            return
        joined = strategy.join(done, saving=saves)
        started, self._last_step_ended = self._last_step_ended, time.perf_counter()
        self.progress.strategy = strategy.facts()
        rows = self.progress.metrics
        if self._peers.rank == 0 and joined:
            joining_s = self._last_step_ended - started
            rows[-1] = replace(rows[-1], milliseconds=rows[-1].milliseconds + joining_s * 1e3)
            since = slice(len(rows) - len(joined), None)
            # New rows: a checkpoint that is being written may hold the old.
            rows[since] = [_rejoined(row, joined[row.step - 1]) for row in rows[since]]
            self._unsent = rows[since]
            self._send_metrics()

    def _validates_after(self, planned: PlannedStep) -> bool:
        last = planned.step + 1 == self.total_steps
        return bool(self._settings.early_stopping_patience or self._built.validates) and (planned.ends_epoch or last)

    def _own_batches(self, planned: PlannedStep) -> list[PartBatch | None]:
        """The rank's parts of a step; made ahead of it, in another thread."""
        own = [planned.parts[part] for part in self._strategy.own_parts()]
        return [planned.block.batch(rows, pad_id=self._rows.pad_id) if len(rows) else None for rows in own]

    def _note(self, planned: PlannedStep) -> None:
        """Write the samples of a step that begins to the ledger."""
        if self._ledger is not None:
            for part in self._strategy.own_parts():
                self._ledger.write(planned.step, part, planned.block.sample_ids(planned.parts[part]))

    def _checkpoint(self) -> None:
        """Copy the state and let a thread write it; the last step needs none."""
        self._checkpoint_due = False
        if self.progress.step >= self.total_steps:
            return
        chief = self._peers.rank == 0
        snapshot = Snapshot(
            self.progress.copy(),
            self._strategy.saved(),
            {name: view.copy() for name, view in self.weights().items()} if chief else None,
            self.best if chief else None,
        )
        # No barrier is needed: a peer steps only after this rank has brought its next gradients.
        self._checkpoints.write(snapshot)
        if self._strategy.joins_to_save and self._checkpoint_interval == 1:
            self._checkpoints.wait()  # a kill in the next step must find it

    def _validate(self) -> bool:
        """Measure the validation loss; with early stopping keep the best weights, and say whether patience is at its end."""
        loss = validation_loss(self._strategy, self._rows, self._settings)
        state, patience = self.progress, self._settings.early_stopping_patience
        if not patience:  # the weights are the last ones, and so is their loss
            state.best_loss, state.best_step = loss, state.step
        elif state.best_loss is None or loss < state.best_loss:
            state.best_loss, state.best_step, state.worse = loss, state.step, 0
            if self._peers.rank == 0:
                self.best = {name: view.copy() for name, view in self.weights().items()}
        else:
            state.worse += 1
        if state.metrics:
            # A new row: a checkpoint that is being written may hold the old.
            state.metrics[-1] = replace(state.metrics[-1], validation_loss=loss)
            self._unsent = [*self._unsent[:-1], state.metrics[-1]]
        self._tell(Validated(step=state.step, loss=loss))
        return bool(patience) and state.worse >= patience

    def _explained(self, error: GradientNotFiniteError, planned: PlannedStep, batches: list[PartBatch | None]) -> Exception:
        parts = error.parts or self._strategy.find_non_finite_parts(batches, step=planned.step)
        own = set(self._strategy.own_parts()).intersection(parts)
        ids = {part: planned.block.sample_ids(planned.parts[part]) for part in own}
        if self._strategy.independent:  # the peers are at other steps, and need not know
            return non_finite(planned.step + 1, ids)
        everybody = self._peers.gather("non-finite", {str(part): names for part, names in ids.items()})
        return non_finite(planned.step + 1, {int(part): names for found in everybody for part, names in found.items()})

    def _record(self, row: StepRow) -> None:
        if self._peers.rank:
            return
        self.progress.metrics.append(row)
        self._unsent.append(row)
        if time.monotonic() - self._sent > _SEND_EVERY_S:
            self._send_metrics()

    def _send_metrics(self) -> None:
        if self._unsent:
            self._tell(Stepped(rows=self._unsent))
        self._unsent, self._sent = [], time.monotonic()

    def _tell(self, message: Progressing) -> None:
        if self._peers.rank == 0:
            self._peers.control.send(message)


def _rejoined(row: StepRow, stats: StepStats) -> StepRow:
    """A row with the figures of all ranks in place of this rank's estimate."""
    found = _row(stats, step=row.step, epoch=row.epoch, rate=row.learning_rate, milliseconds=row.milliseconds)
    return replace(found, validation_loss=row.validation_loss)


def _row(stats: StepStats, *, step: int, epoch: int, rate: float, milliseconds: float) -> StepRow:
    """A step's row; an estimate until the next join where ranks step independently."""
    return StepRow(
        step=step,
        epoch=epoch,
        loss=stats.loss,
        accuracy=stats.correct / stats.predictions if stats.predictions else None,
        learning_rate=rate,
        grad_norm=stats.grad_norm,
        predictions=int(stats.predictions),
        tokens=stats.tokens,
        padded_tokens=stats.padded_tokens,
        tokens_per_s=stats.tokens / (milliseconds / 1e3),
        milliseconds=milliseconds,
        memory=stats.memory_mib,
        memory_per_worker=";".join(f"{memory:.1f}" for memory in stats.memories_mib),
        staleness=stats.staleness,
    )
