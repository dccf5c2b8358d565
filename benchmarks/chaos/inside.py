"""A module in a network namespace: `python -m benchmarks.chaos.inside NAMESPACE MODULE ARGUMENTS`."""

import ctypes
import os
import runpy
import sys
from pathlib import Path

NETWORK = 0x40000000  # CLONE_NEWNET


def enter(namespace: str) -> None:
    """Let this process have the network of a namespace. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    with (Path("/run/netns") / namespace).open() as there:
        if libc.setns(there.fileno(), NETWORK):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), namespace)


if __name__ == "__main__":
    _, namespace, module, *arguments = sys.argv
    enter(namespace)
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
