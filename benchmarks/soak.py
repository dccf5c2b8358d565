"""Do server and workers stay as they are? `python -m benchmarks.soak [--minutes 60] [--only sqlite]`, or `make soak`.

The whole service under jobs without end, of built-in tasks and of loops, and no faults. Prints, for each process, its
memory and its open files after a fifth of the time, half-way and at the end, and the slope of the second half; and
what the jobs came to. A process keeps models of jobs that it was asked about within ten minutes, 64 of them at most, so
it grows for as long.
"""

import argparse
import json
import time
from statistics import linear_regression
from typing import Any

import psutil

from benchmarks.chaos import invariants
from benchmarks.chaos.__main__ import AT_ONCE, KINDS, running, submit
from benchmarks.chaos.stack import Stack

EVERY = 5.0  # seconds between two looks
Look = tuple[float, float, int]  # seconds, megabytes, open files


def main() -> None:
    """Run, look, and print."""
    parser = argparse.ArgumentParser("python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--only", choices=KINDS)
    asked = parser.parse_args()
    for kind in [asked.only] if asked.only else KINDS:
        with running(kind) as stack:
            print(json.dumps({"database": kind} | soaked(stack, 60 * asked.minutes), indent=1), flush=True)


def soaked(stack: Stack, seconds: float) -> dict[str, Any]:
    """What became of every process over so many seconds."""
    began, looks = time.monotonic(), dict[str, list[Look]]()
    while (passed := time.monotonic() - began) < seconds:
        submit(stack, AT_ONCE)
        for one in stack.members:
            process = psutil.Process(one.pid)
            looks.setdefault(one.name, []).append((passed, process.memory_info().rss / 2**20, process.num_fds()))
        time.sleep(EVERY)
    starts = {one.name: one.starts for one in stack.members}
    return {"processes": {name: grown(found) for name, found in looks.items()}, "starts": starts} | {
        "held": stack.ask(invariants.counted)
    }


def grown(looks: list[Look]) -> dict[str, float]:
    """What a process has grown by, once it had warmed up."""
    at, megabytes, files = (list(column) for column in zip(*looks[len(looks) // 5 :], strict=True))
    half = len(looks) // 2 - len(looks) // 5
    return {
        "MB at first": round(megabytes[0], 1),
        "MB half-way": round(megabytes[half], 1),
        "MB in the end": round(megabytes[-1], 1),
        "MB an hour": round(3600 * linear_regression(at[half:], megabytes[half:]).slope, 1),
        "files at first": files[0],
        "files in the end": files[-1],
        "most files": max(files),
    }


if __name__ == "__main__":
    main()
