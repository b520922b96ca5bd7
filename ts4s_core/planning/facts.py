"""What a measuring process is asked and finds, and what a plan says: typed JSON."""

from __future__ import annotations

from ts4s_core.artifacts.facts import Record


class ProbeRequest(Record):
    """What a measuring process is asked.

    Attributes:
        job: the training job whose steps are measured, for the wire.
        rank: which of the processes it is.
        world_size: processes that measure at once.
        threads: of a worker.
        budget_s: longest time of the steps.
        memory_bytes: of a host.
        parent_pid: the process that it ends with.
        python_path: folders that it imports from too.
    """

    job: str
    rank: int
    world_size: int
    threads: int
    budget_s: float
    memory_bytes: int
    parent_pid: int
    python_path: list[str]


class MachineSpeed(Record):
    """What a machine does with the threads of a worker."""

    gemm_gflops: float
    memory_gb_per_s: float


class ProbeFacts(Record):
    """What one process measured.

    Attributes:
        shapes: rows and tokens of each part of the planned steps.
        samples: rows, tokens, whether it was the last of its step, and seconds of each part that was measured.
        optimiser_s: seconds of the optimiser's step.
        rest_s: seconds of everything else of a step.
        peak_bytes: most memory.
        bucket_elements: trained elements by bucket.
        table_buckets: buckets that wait for the gradients of embedding tables.
        parameters: weights, trained or not.
        rows: of the training side.
        steps_in_epoch: of the first epoch.
        total_steps: of the training.
        mean_tokens: of a row.
        machine: what it did meanwhile.
    """

    shapes: list[list[tuple[int, int]]]
    samples: list[tuple[int, int, bool, float]]
    optimiser_s: float
    rest_s: float
    peak_bytes: int
    bucket_elements: list[int]
    table_buckets: list[int]
    parameters: int
    rows: int
    steps_in_epoch: int
    total_steps: int
    mean_tokens: float
    machine: MachineSpeed


class ProbeMessage(Record):
    """A line of a measuring process: it is ready (nothing else is in it), what it found, or why it cannot.

    Attributes:
        found: the measurements.
        error: as :func:`ts4s_core.errors.to_wire` gives it.
    """

    found: ProbeFacts | None = None
    error: dict[str, str] | None = None


class PlanMachine(MachineSpeed):
    """The machine of a plan; ``gemm_gflops_crowded`` is with as many processes as it holds workers."""

    cores: int
    memory_gb: float
    threads_per_worker: int
    gemm_gflops_crowded: float


class PlanModel(Record):
    """The model of a plan: all of its weights, and those that are trained."""

    weights: int
    trained: int
    strategy: str


class PlanData(Record):
    """The rows of a plan; ``assumed`` where there is no dataset."""

    rows: int
    assumed: bool
    mean_tokens: float
    steps_per_epoch: int
    steps: int


class StepShares(Record):
    """Seconds of a step by what they go to."""

    compute: float
    optimiser: float
    exchange: float
    rest: float


class PlanRow(Record):
    """What training costs with so many workers.

    Attributes:
        memory_gb: of a worker.
        seconds_per_step: of a step.
        seconds_per_epoch: of an epoch.
        seconds: of the whole training.
        traffic_mb_per_step: that a worker sends.
        speed_up: against one worker.
        fits: whether the workers of a host fit into its memory.
        of_step: where the seconds of a step go.
    """

    workers: int
    hosts: int
    memory_gb: float
    seconds_per_step: float
    seconds_per_epoch: float
    seconds: float
    traffic_mb_per_step: float
    speed_up: float
    fits: bool
    of_step: StepShares


class PlanReport(Record):
    """A plan as the command line prints it, but for its sources."""

    machine: PlanMachine
    model: PlanModel
    data: PlanData
    network: str
    workers: list[PlanRow]
