"""A training worker as a plain local process: ``python -m ts4s_core.training.worker.local_process``, told by a line of JSON."""

from __future__ import annotations

import json
import logging
import sys

from ts4s_core.errors import Ts4sError
from ts4s_core.processes import die_with_parent


def main() -> int:
    """Read the job from standard input and run it."""
    told = json.loads(sys.stdin.readline())
    die_with_parent(told["parent_pid"])
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format=f"rank {told['rank']}: %(levelname)s %(name)s: %(message)s")
    sys.path[:0] = told["python_path"]
    from ts4s_core.training.control.address import ControlAddress
    from ts4s_core.training.job import TrainJob
    from ts4s_core.training.worker.worker import run_worker

    try:
        run_worker(
            TrainJob.from_wire(told["job"]),
            rank=told["rank"],
            world_size=told["world_size"],
            control=ControlAddress.from_wire(told["control"]),
            address=told["address"],
        )
    except Ts4sError as exc:
        logging.getLogger(__name__).error("%s", exc)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
