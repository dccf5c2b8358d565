"""Load: `python -m benchmarks.load [--seconds 20] [--history 100] [--only postgresql]`; bounded, over loopback.

64 loops take a trial each, and report it as fast as the server answers; then, for so many seconds, they report once a
second, 500 clients poll a job every five, 200 event streams are open, and a quarter of the loops are at four jobs of
the default search, which decide. The same for SQLite and for PostgreSQL, and in the same run Optuna's RDB storage on
that PostgreSQL, itself and behind its gRPC proxy: 64 trials, each report followed by `should_prune`. Prints JSON, and
how many times the reports of Optuna's for the same CPU, the callers' own in it.
"""

import argparse
import json
import platform
import tempfile
from pathlib import Path
from typing import Any

import psutil

from benchmarks.growth import postgresql
from benchmarks.load import ours, studies


def main() -> None:
    """Everything, one after the other."""
    parser = argparse.ArgumentParser("python -m benchmarks.load", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--history", type=int, default=100, help="trials that a job or study has at first")
    parser.add_argument("--only", choices=["sqlite", "postgresql"])
    asked = parser.parse_args()
    how: dict[str, Any] = {"history": asked.history, "seconds": asked.seconds}
    print(
        f"{platform.machine()}, {psutil.cpu_count()} cores, {psutil.getloadavg()[0]:.1f} busy before; {how}", flush=True
    )
    with tempfile.TemporaryDirectory() as folder:
        if asked.only != "postgresql":
            _show(ours.measured(f"sqlite:///{Path(folder) / 'lrtune.db'}", servers=[], **how))
        if asked.only != "sqlite":
            _on_postgresql(folder, how)


def _on_postgresql(folder: str, how: dict[str, Any]) -> None:
    with postgresql(str(Path(folder) / "server")) as url:
        servers = _servers(folder)
        found = _show(ours.measured(url, servers=servers, **how))
        mine = _cost(found["reports alone"])
        for grpc in (False, True):
            theirs = _show(studies.measured(url, history=how["history"], servers=servers, grpc=grpc))
            times = _cost(theirs["reports alone"]) / mine
            print(f"reports for the same CPU: {times:.1f} times those of {theirs['storage']}", flush=True)


def _servers(folder: str) -> list[psutil.Process]:
    """The first process of the PostgreSQL in a folder."""
    pid = int((Path(folder) / "server" / "postmaster.pid").read_text().split()[0])
    return [psutil.Process(pid)]


def _cost(found: dict[str, Any]) -> float:
    return float(sum(value for name, value in found["cpu"].items() if name.endswith("ms a report")))


def _show(found: dict[str, Any]) -> dict[str, Any]:
    print(json.dumps(found, indent=1), flush=True)
    return found


if __name__ == "__main__":
    main()
