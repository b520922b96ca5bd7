"""A training worker as a plain local process: ``python -m ts4s_core.training.worker.local_process``, its job a line of JSON."""

from __future__ import annotations

import json
import logging
import sys

from ts4s_core.errors import Ts4sError
from ts4s_core.processes import die_with_parent


def main() -> int:
    """Read the job from standard input and run it."""
    job_line = json.loads(sys.stdin.readline())
    die_with_parent(job_line["parent_pid"])
    logging.basicConfig(
        level=logging.INFO, stream=sys.stderr, format=f"rank {job_line['rank']}: %(levelname)s %(name)s: %(message)s"
    )
    sys.path[:0] = job_line["python_path"]
    from ts4s_core.training.control.address import ControlAddress
    from ts4s_core.training.job import TrainJob
    from ts4s_core.training.worker.worker import run_worker

    try:
        run_worker(
            TrainJob.from_wire(job_line["job"]),
            rank=job_line["rank"],
            world_size=job_line["world_size"],
            control=ControlAddress.from_wire(job_line["control"]),
            address=job_line["address"],
        )
    except Ts4sError as exc:
        logging.getLogger(__name__).error("%s", exc)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
