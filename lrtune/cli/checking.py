"""`lrtune check`: the worker's own check of a task, run in a process of its own, because the client has no torch."""

import os
import subprocess
import sys
from pathlib import Path

from lrtune.cli import service


def check(task: str, *, params: str, data_dir: Path) -> int:
    """Check a task where it stands; the check's exit status. Raises Invalid where there is no torch to do it."""
    service.require("worker", "torch")
    paths = [str(Path.cwd()), *filter(None, [os.environ.get("PYTHONPATH")]), str(service.ROOT)]
    command = [sys.executable, "-m", "worker.check", task, "--params", params, "--data-dir", str(data_dir)]
    return subprocess.run(command, env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)}, check=False).returncode  # noqa: S603
