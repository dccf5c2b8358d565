"""Compare learning-rate searches on logged runs: who finds a good schedule for how many full runs.

    python -m benchmarks.search --tables DIR --strategies curve,tpe,gp,random --seeds 10 --json out.json

`curve` is what a job does by default; the others leave something out, or are jobs whose runs cannot be resumed
(see `ours.py`). `make_table` makes tables.

Optuna's strategies run in two spaces (knobs belong to their family, or all are always present) and the better one
counts; `mobster` and `hypertune` need an environment of their own (see `opponents_staged.py`). With `--cache DIR`
finished studies of the opponents are kept, since they never change.
"""

import argparse
import json
import math
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from statistics import fmean, median

from benchmarks import opponents, opponents_staged
from benchmarks.opponents import replay_optuna
from benchmarks.opponents_staged import replay_staged
from benchmarks.ours import VARIANTS, replay_curve
from benchmarks.replay import Ledger, Table, load_tables, thinned

OPPONENTS = (*opponents.OPPONENTS, *opponents_staged.OPPONENTS)
LIMIT = 40.0
BUDGETS = (5, 10, 20)


@dataclass(frozen=True)
class Result:
    """One study: what it cost to come within tolerance, and how far from the best it was on the way."""

    table: str
    strategy: str
    seed: int
    cost_to_target: float | None
    regret_5: float | None
    regret_10: float | None
    regret_20: float | None
    seconds: float = 0.0


def _done(ledger: Ledger, limit: float) -> bool:
    """The regret is wanted up to 20 full runs, the cost up to the limit."""
    reached = ledger.cost_to_target() is not None
    return ledger.spent >= limit or (reached and ledger.spent >= BUDGETS[-1])


def _hit(ledger: Ledger, limit: float) -> bool:
    """Only the cost is wanted."""
    return ledger.spent >= limit or ledger.cost_to_target() is not None


def _result(table: Table, strategy: str, seed: int, ledger: Ledger, seconds: float, limit: float) -> Result:
    cost = ledger.cost_to_target()
    within = cost if cost is not None and cost <= limit + 1e-9 else None
    regret_5, regret_10, regret_20 = (ledger.regret(b) for b in BUDGETS)
    return Result(table.name, strategy, seed, within, regret_5, regret_10, regret_20, seconds)


def study(table: Table, strategy: str, seed: int, space: str, quick: bool = False, limit: float = LIMIT) -> Result:
    """Run one study of one strategy."""
    start, done = time.perf_counter(), partial(_hit if quick else _done, limit=limit)
    if strategy in opponents_staged.OPPONENTS:
        ledger = replay_staged(table, strategy, seed, done)
    elif strategy in OPPONENTS:
        ledger = replay_optuna(table, strategy, seed, space == "family", done)
    else:
        ledger = replay_curve(table, strategy, seed, done)
    return _result(table, strategy, seed, ledger, time.perf_counter() - start, limit)


@dataclass(frozen=True)
class Asked:
    """Of all studies: where the opponents' are kept, whether ours end at the target, what is left out, and the end."""

    cache: Path | None = None
    quick: bool = False
    thin: float = 0.0
    limit: float = LIMIT


def _cached(asked: Asked, table: Table, strategy: str, seed: int, space: str) -> Result:
    cache, left = asked.cache, thinned(table, asked.thin, seed)
    if cache is None or strategy not in OPPONENTS:
        return study(left, strategy, seed, space, asked.quick, asked.limit)
    part = f".thin{asked.thin:g}" if asked.thin else ""
    file = cache / f"{table.name}.{strategy}.{space}.{seed}{part}.json"
    if file.exists():
        return Result(**json.loads(file.read_text(encoding="utf-8")))
    result = study(left, strategy, seed, space)
    cache.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(asdict(result)), encoding="utf-8")
    return result


def median_cost(results: Iterable[Result]) -> float:
    """Median cost to the target; a study that never got there counts as infinite."""
    costs = [r.cost_to_target for r in results]
    return median([math.inf if c is None else c for c in costs])


def _rank(results: list[Result]) -> tuple[float, float]:
    """What makes one space better than the other: the median, then the mean with failures at the limit."""
    return median_cost(results), fmean(LIMIT if r.cost_to_target is None else r.cost_to_target for r in results)


def has_knobs(table: Table) -> bool:
    """Whether the family-conditional space differs from the flat one."""
    return len({row.params.get("schedule") for row in table.at_target()}) > 1


def compare(table: Table, strategy: str, seeds: int, asked: Asked) -> list[Result]:
    """All studies of one strategy on one table, in its better space."""
    two = strategy in opponents.OPPONENTS and strategy != "random" and has_knobs(table)
    spaces = ("family", "flat") if two else ("family",)
    runs = [[_cached(asked, table, strategy, seed, space) for seed in range(seeds)] for space in spaces]
    return min(runs, key=_rank)


def _cell(results: list[Result], limit: float = LIMIT) -> str:
    share = sum(r.cost_to_target is not None for r in results) / len(results)
    cost = median_cost(results)
    return f"{'>' + format(limit, 'g') if math.isinf(cost) else format(cost, '.1f')} ({share:.0%})"


def _geometric(columns: Iterable[list[Result]], limit: float) -> str:
    costs = [min(median_cost(results), limit) for results in columns]
    return f"{math.exp(fmean(math.log(max(c, 1e-3)) for c in costs)):.2f}"


def render(results: dict[tuple[str, str], list[Result]], limit: float = LIMIT) -> str:
    """The comparison as a Markdown table; in the means a strategy that never got there counts as the limit."""
    tables, strategies = (list(dict.fromkeys(key[i] for key in results)) for i in (0, 1))
    lines = ["| table | " + " | ".join(strategies) + " |", "|" + " --- |" * (len(strategies) + 1)]
    for name in tables:
        lines.append(f"| {name} | " + " | ".join(_cell(results[name, s], limit) for s in strategies) + " |")
    means = [_geometric((results[name, s] for name in tables), limit) for s in strategies]
    return "\n".join([*lines, "| geometric mean | " + " | ".join(means) + " |"])


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", required=True, help="folder with tables.json")
    parser.add_argument(
        "--strategies",
        default="curve,curve-forecast,tpe,tpe-median,tpe-median-half,tpe-hyperband,gp,random",
        help=f"from {', '.join((*VARIANTS, *OPPONENTS))}",
    )
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--only", default="", help="only tables whose name contains this")
    parser.add_argument("--thin", type=float, default=0.0, help="leave out this share of the configurations, by seed")
    parser.add_argument("--quick", action="store_true", help="end our studies at the target: no regrets")
    parser.add_argument("--limit", type=float, default=LIMIT, help="full runs at which a study is given up")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--cache", type=Path, help="keep the opponents' finished studies here")
    return parser.parse_args()


def main() -> None:
    """Run every study and print the comparison."""
    args = _arguments()
    strategies, asked = args.strategies.split(","), Asked(args.cache, args.quick, args.thin, args.limit)
    if args.cache and args.limit != LIMIT:
        raise SystemExit("--cache keeps studies up to the usual limit: leave out --limit")
    unknown = [s for s in strategies if s not in OPPONENTS and s not in VARIANTS]
    if unknown:
        raise SystemExit(f"unknown strategies: {', '.join(unknown)}")
    if find_spec("syne_tune") is None and any(s in opponents_staged.OPPONENTS for s in strategies):
        raise SystemExit(opponents_staged.MISSING)
    results = {}
    for table in load_tables(args.tables):
        for strategy in strategies if args.only in table.name else ():
            found = results[table.name, strategy] = compare(table, strategy, args.seeds, asked)
            seconds = fmean(r.seconds for r in found)
            print(f"{table.name} {strategy}: {_cell(found, args.limit)} {seconds:.1f} s a study", flush=True)
    print("\n" + render(results, args.limit))
    if args.json:
        flat = [asdict(r) for found in results.values() for r in found]
        args.json.write_text(json.dumps(flat, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
