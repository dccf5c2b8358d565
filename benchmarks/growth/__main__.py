"""No call gets slower with the size of a job, nor with the number of jobs: `python -m benchmarks.growth`.

Fills a database with a job of 100, 1,000, 10,000 and 100,000 ended trials (`--trials` for more or fewer), four reports
each, then one with 10 to 10,000 jobs (`--jobs`), then one with a trial of 10 to 10,000 reports (`--reports`), times the
calls that are made all the time on each of them, and prints the milliseconds of CPU that they take, of this process and
of PostgreSQL's (the median; the first call, which fits models and fills caches, is left out), and the exponent by which
it grows: 0 is not at all, 1 in proportion.
`python -m benchmarks.growth.picture` draws them. Both databases; PostgreSQL is a server of its own from a wheel, as in
the tests.
"""

import argparse
import math
import platform
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
from sqlalchemy import delete, make_url, text

import migrations
from benchmarks.growth import fill, postgresql, with_jobs, with_reports
from benchmarks.growth.calls import REPEATS, Timer, Timings, of_a_job, of_a_trial, of_jobs
from lrtune.store import Database
from lrtune.store.tables import JobRow

Calls = Callable[[Timer, Database, str, int], Timings]


def main() -> None:
    """Measure both databases."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=100_000, help="of the largest job; 0: leave it out")
    parser.add_argument("--jobs", type=int, default=10_000, help="in the fullest database; 0: leave it out")
    parser.add_argument("--reports", type=int, default=10_000, help="of the trial with most of them; 0: leave it out")
    parser.add_argument("--only", choices=["sqlite", "postgresql"])
    asked = parser.parse_args()
    print(f"{platform.machine()}, Python {platform.python_version()}, {REPEATS - 1} calls or more of each")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if asked.only != "postgresql":
            measured(lambda size: f"sqlite:///{folder / f'{size}.db'}", Timer(), asked)
        if asked.only != "sqlite":
            with postgresql(str(folder / "server")) as url:
                postmaster = (folder / "server" / "postmaster.pid").read_text().split()[0]
                measured(lambda _: url, Timer(int(postmaster)), asked)


def measured(url: Callable[[str], str], timed: Timer, asked: argparse.Namespace) -> None:
    """Print three tables of one database."""
    for what, first, most, filled, calls in (
        ("trials in the job", 100, asked.trials, fill, of_a_job),
        ("jobs", 10, asked.jobs, with_jobs, of_jobs),
        ("reports of the trial", 10, asked.reports, with_reports, of_a_trial),
    ):
        sizes = [10**power for power in range(round(math.log10(first)), round(math.log10(max(most, 1))) + 1)]
        if sizes:
            kind = make_url(url("any")).get_backend_name()
            table(f"{kind}, {what}", sizes, times(url(what[:4]), timed, sizes, filled, calls))


def times(
    url: str, timed: Timer, sizes: list[int], filled: Callable[[Database, int], str], calls: Calls
) -> dict[str, dict[int, float]]:
    """Of each call at each size."""
    migrations.upgrade(url)
    found: dict[str, dict[int, float]] = {}
    for size in sizes:
        database, seen = Database(url), dict[str, list[float]]()
        job = filled(database, size)
        settled(database)
        for name, timing in calls(timed, database, job, size):
            seen.setdefault(name, []).append(timing)
        for name, timings in seen.items():
            found.setdefault(name, {})[size] = median(timings[1:])
        emptied(database)  # the next size alone
        database.dispose()
    return found


def settled(database: Database) -> None:
    """Let PostgreSQL know what there is now, as its autovacuum does within a minute."""
    if not database.lite:
        with database.write() as tx:
            tx.execute(text("analyze"))


def emptied(database: Database) -> None:
    """Leave no job behind."""
    with database.write() as tx:
        tx.execute(delete(JobRow))


def table(title: str, sizes: list[int], found: dict[str, dict[int, float]]) -> None:
    """Print it."""
    print(f"\n| {title}: ms of CPU | {' | '.join(f'{size:,}' for size in sizes)} | exponent |")
    print("| --- |" + " ---: |" * (len(sizes) + 1))
    for name, by_size in found.items():
        exponent = np.polyfit(np.log(list(by_size)), np.log(list(by_size.values())), 1)[0] if len(sizes) > 1 else 0.0
        cells = " | ".join(f"{ms:.1f}" for ms in by_size.values())
        print(f"| {name} | {cells} | {exponent:.2f} |", flush=True)


if __name__ == "__main__":
    main()
