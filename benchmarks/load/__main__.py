"""Load: `python -m benchmarks.load [--seconds 20] [--history 100] [--only postgresql] [--processes 2]`, over loopback.

Four times 64 loops take a trial each, and report it as fast as the server answers; then, for so many seconds, they
report once a second, 500 clients poll a job every five, 200 event streams are open, and a quarter of the loops are at
four jobs of the default search, which decide. The same for SQLite and for PostgreSQL, and in the same run Optuna's RDB
storage on that PostgreSQL, from one process and from eight, and behind its gRPC proxy: 64 trials, each report followed
by `should_prune`; and the server with a report that writes nothing, which is the least that one can cost. Prints JSON
as it goes, and in the end tables, and how many times the reports of Optuna's for the same CPU, the callers' own in it.
Takes six minutes at most.
"""

import argparse
import json
import platform
import tempfile
from pathlib import Path
from typing import Any

import psutil

from benchmarks.growth import SPEC, postgresql
from benchmarks.load import ours, studies
from benchmarks.load.measuring import cost, tables


def main() -> None:
    """Everything, one after the other."""
    parser = argparse.ArgumentParser("python -m benchmarks.load", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--history", type=int, default=100, help="trials that a job or study has at first")
    parser.add_argument("--processes", type=int, default=1, help="of the server on PostgreSQL")
    parser.add_argument("--pruner", default="forecast", help="of our jobs; with none no report asks for a verdict")
    parser.add_argument("--only", choices=["sqlite", "postgresql"])
    asked = parser.parse_args()
    SPEC["search"] = {"sampler": "random", "pruner": asked.pruner}
    how: dict[str, Any] = {"history": asked.history, "seconds": asked.seconds}
    print(
        f"{platform.machine()}, {psutil.cpu_count()} cores, {psutil.getloadavg()[0]:.1f} busy before; {vars(asked)}",
        flush=True,
    )
    found = list[dict[str, Any]]()
    with tempfile.TemporaryDirectory() as folder:
        if asked.only != "postgresql":
            found.append(_show(ours.measured(f"sqlite:///{Path(folder) / 'lrtune.db'}", servers=[], **how)))
        found.append(_show(ours.floor(f"sqlite:///{Path(folder) / 'floor.db'}")))
        if asked.only != "sqlite":
            found += _on_postgresql(folder, how | {"processes": asked.processes})
    print(f"\n{tables(found)}", flush=True)
    mine = {one["storage"]: cost(one["reports alone"], "report") for one in found}
    for name in (name for name in mine if not name.startswith("lrtune")):
        times = mine[name] / next(found for ours, found in mine.items() if ours.startswith("lrtune on postgresql"))
        most = mine[name] / next(found for ours, found in mine.items() if ours.endswith("nothing"))
        print(
            f"reports for the same CPU: {times:.1f} times those of {name}, {most:.1f} if nothing were written",
            flush=True,
        )


def _on_postgresql(folder: str, how: dict[str, Any]) -> list[dict[str, Any]]:
    with postgresql(str(Path(folder) / "server")) as url:
        servers = _servers(folder)
        found = [_show(ours.measured(url, servers=servers, **how))]
        for grpc, processes in ((False, 1), (False, 8), (True, 1)):
            other = {"history": how["history"], "servers": servers, "grpc": grpc, "processes": processes}
            found.append(_show(studies.measured(url, **other)))
    return found


def _servers(folder: str) -> list[psutil.Process]:
    """The first process of the PostgreSQL in a folder."""
    pid = int((Path(folder) / "server" / "postmaster.pid").read_text().split()[0])
    return [psutil.Process(pid)]


def _show(found: dict[str, Any]) -> dict[str, Any]:
    print(json.dumps(found, indent=1), flush=True)
    return found


if __name__ == "__main__":
    main()
