"""Another user of this machine, who reaches every port on loopback and wants his code run as somebody else."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

STRANGER = "65534"
#: What may end in a run of a command of his, without a login and with a wrong one; prints each answer's status.
_POSTS = """
import base64, json, sys, urllib.error, urllib.request
api = sys.argv[1]
wrong = {"Authorization": "Basic " + base64.b64encode(b"ts4s:guess").decode()}
command = {"name": "x", "flow_id": "00000000-0000-0000-0000-000000000000", "work_pool_name": "ts4s", "entrypoint": "a.b",
           "job_variables": {"command": "id"}}
for headers in ({}, wrong):
    for path, body in (("/work_pools/filter", {}), ("/flows/", {"name": "x"}), ("/deployments/", command), ("/flow_runs/", {})):
        kind = {"Content-Type": "application/json"}
        asked = urllib.request.Request(api + path, data=json.dumps(body).encode(), headers={**headers, **kind})
        try:
            print(urllib.request.build_opener(urllib.request.ProxyHandler({})).open(asked, timeout=30).status)
        except urllib.error.HTTPError as answer:
            print(answer.code)
"""


def as_a_stranger(*command: str, limit_s: float = 60) -> subprocess.CompletedProcess[str]:
    """Run a command as another user, or, where that is not allowed, as this one without any of its environment."""
    person = ["setpriv", "--reuid", STRANGER, "--regid", STRANGER, "--clear-groups"] if os.geteuid() == 0 else []
    environ = {"PATH": os.environ["PATH"]}
    return subprocess.run([*person, *command], env=environ, cwd="/", capture_output=True, text=True, check=False, timeout=limit_s)


def answers_to_posts(api_url: str) -> list[str]:
    """Status of what Prefect's API answers to a stranger's eight posts."""
    system = "/usr/bin/python3" if os.geteuid() == 0 and os.access("/usr/bin/python3", os.X_OK) else shutil.which("python3")
    done = as_a_stranger(system or sys.executable, "-I", "-c", _POSTS, api_url)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()
