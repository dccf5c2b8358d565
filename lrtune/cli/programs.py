"""Server and workers as programs of the command line, which itself has neither torch nor a database.

Their packages have names that others use as well (`app`, `worker`, `migrations`). So a wheel keeps them in a folder of
its own, which stands on the path of these programs and of no other; in the source tree they lie beside `lrtune`.
"""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from lrtune.errors import Invalid

INSTALLED = Path(__file__).resolve().parents[1] / "_service"
ROOT = INSTALLED if INSTALLED.is_dir() else INSTALLED.parents[1]


def require(extra: str, *modules: str) -> None:
    """Raise Invalid, in words, where what a program needs is not installed."""
    if missing := [module for module in modules if find_spec(module) is None]:
        words = " and ".join(missing)
        raise Invalid(f"found no package {words}, which this command needs; pip install 'lrtune[{extra}]' brings it")


def become() -> None:
    """Make the programs importable here, before others of their names; modules of the working folder are found too."""
    sys.path[:0] = [str(ROOT), str(Path.cwd())]


def run(module: str, *arguments: str, needs: str, extra: str) -> int:
    """Run a module that needs a package in a process of its own; its exit status. Raises Invalid as `require` does."""
    require(extra, needs)
    paths = [str(ROOT), str(Path.cwd()), *filter(None, [os.environ.get("PYTHONPATH")])]
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.run(command, env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)}, check=False).returncode  # noqa: S603
