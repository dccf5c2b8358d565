"""Processes of the service and of its users, forked from one that has imported what they need.

They are as real as those of `python -m`, to be killed and frozen; but importing torch takes seconds, and is done once.
"""

import multiprocessing
import os
import runpy
import sys
from collections.abc import Mapping
from multiprocessing.process import BaseProcess
from pathlib import Path

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["worker.__main__", "worker.check", "app.main", "torch._inductor", "psycopg"])


def start(program: str, *arguments: str, environment: Mapping[str, str], log: Path, cwd: Path = Path()) -> BaseProcess:
    """A module as `python -m` runs it, or a script, with these variables beside ours and its output added to `log`.

    A process that nobody has ended is killed at the end of the tests.
    """
    log.touch()  # there to be read before the process has begun
    given = (program, arguments, os.environ | environment, log.absolute(), cwd.absolute())
    started = FORKS.Process(target=_run, args=given, daemon=True)
    started.start()
    return started


def _run(program: str, arguments: tuple[str, ...], environment: Mapping[str, str], log: Path, cwd: Path) -> None:
    multiprocessing.current_process().daemon = False  # a worker starts processes for further devices
    os.environ.clear()
    os.environ |= environment
    os.chdir(cwd)
    sys.path[:0] = [str(cwd), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    with log.open("ab") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    sys.argv[1:] = arguments
    if program.endswith(".py"):
        runpy.run_path(program, run_name="__main__")
    else:
        runpy.run_module(program, run_name="__main__", alter_sys=True)
