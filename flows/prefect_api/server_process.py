"""The temporary Prefect server's process: ``python -m flows.prefect_api.server_process SOCKET_NUMBER PARENT_PID FOLDER``.

It serves on a socket that its parent has bound, so that no other program can take the port in between, and ends, with its
folder, when the parent does.
"""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

from ts4s_core.private_folders import remove_private
from ts4s_core.processes import die_with_parent


def serve(socket_number: int, parent_pid: int, folder: str) -> None:
    """Run Prefect's server until the parent ends it or dies."""

    def end() -> None:
        remove_private(Path(folder))
        os._exit(0)

    die_with_parent(parent_pid, on_death=end)
    import uvicorn

    config = uvicorn.Config(
        "prefect.server.api.server:create_app", factory=True, log_level="error", lifespan="on", access_log=False
    )
    with socket.socket(fileno=socket_number) as listener:
        uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    serve(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
