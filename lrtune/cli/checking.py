"""`lrtune check`: the worker's own check of a task, run in a process of its own, because the client has no torch."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from lrtune.errors import Invalid

ROOT = Path(__file__).resolve().parents[2]  # the worker lies beside this package, in the source tree


def check(task: str, *, params: str, data_dir: Path) -> int:
    """Check a task where it stands; the check's exit status. Raises Invalid where there is no worker to do it."""
    if not (ROOT / "worker" / "check.py").exists() or find_spec("torch") is None:
        raise Invalid(
            "check needs the worker, which is not installed here: it comes with the source tree, "
            "after `pip install -e '.[worker]'` there"
        )
    paths = [str(Path.cwd()), *filter(None, [os.environ.get("PYTHONPATH")]), str(ROOT)]
    command = [sys.executable, "-m", "worker.check", task, "--params", params, "--data-dir", str(data_dir)]
    return subprocess.run(command, env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)}, check=False).returncode  # noqa: S603
