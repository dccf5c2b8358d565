"""The curve search on a replay table, as jobs run it, and its ablations.

`curve` is what a job does by default, sampler `curve` with pruner `forecast`: it trains in stages, resumes runs that
were paused, and does not pay twice for a shared prefix. `curve-forecast` is a job whose runs cannot be resumed: full
runs that share nothing; `curve-apart` one of a loop in stages that is not deterministic: its runs are resumed and share
nothing. The others leave something out.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from benchmarks.replay import Ledger, Row, RunKey, Table
from lrtune.optimizers import OPTIMIZERS, Adamw, Sgd
from lrtune.search.engine.costs import Settings
from lrtune.search.engine.decide import decide
from lrtune.search.engine.early_stop import due, judge
from lrtune.search.engine.kept_models import KeptModels
from lrtune.search.engine.types import Array, Decision, Pool, Run, State
from lrtune.search.engine.weighing import Fitted


@dataclass(frozen=True)
class Variant:
    """Switches of the search; `resuming`: paused runs go on and, if `sharing`, prefixes are shared; `pruned`: by the
    forecast.

    `effective`: rates are compared as jobs compare them, by `Optimizer.effective`.
    """

    settings: Settings
    resuming: bool = True
    pruned: bool = True
    effective: bool = True
    sharing: bool = True


STAGED = Settings(short_horizons=False)
FULL_RUNS = Settings(partial_runs=False, short_horizons=False)
VARIANTS = {
    "curve": Variant(STAGED),
    "curve-apart": Variant(STAGED, sharing=False),
    "curve-no-law": Variant(replace(STAGED, law_share=0.0)),
    "curve-law-alone": Variant(replace(STAGED, law_share=1.0)),
    "curve-no-weighing": Variant(replace(STAGED, law_share=0.5)),
    "curve-no-trunks": Variant(replace(STAGED, trunks=0)),
    "curve-no-idle": Variant(replace(STAGED, idle=False)),
    "curve-no-pruner": Variant(STAGED, pruned=False),
    "curve-no-embedding": Variant(replace(STAGED, embedding=False)),
    "curve-raw-rates": Variant(STAGED, effective=False),
    "curve-no-cost": Variant(replace(STAGED, cost=False)),
    "curve-no-stages": Variant(FULL_RUNS),
    "curve-ei": Variant(replace(FULL_RUNS, cost=False)),
    "curve-and-short": Variant(replace(STAGED, short_horizons=True)),
    "curve-short": Variant(replace(FULL_RUNS, short_horizons=True)),
    "curve-whole": Variant(FULL_RUNS, resuming=False, pruned=False),
    "curve-forecast": Variant(FULL_RUNS, resuming=False),
}
REFIT_GROWTH = 1.15


def _family(row: Row) -> str:
    """The family's name with its knobs, as a general tool would see it."""
    return f"{row.params.get('schedule')}{row.params.get('schedule_knobs')}"


def _families(rows: list[Row], wanted: bool) -> Array:
    """One column per family name, for the search without its embedding; none otherwise."""
    names = sorted({_family(row) for row in rows}) if wanted else []
    names = names if len(names) < len(rows) / 4 else []
    return np.array([[float(_family(row) == name) for name in names] for row in rows]).reshape(len(rows), len(names))


def _effective(row: Row) -> float:
    """The effective rate of a rate of 1 with a run's other knobs, as jobs have it."""
    given, name = row.params, row.params.get("optimizer")
    if name in ("sgd", "momentum"):  # in DeepOBS these are two, without momentum and with 0.99
        return Sgd(momentum=given.get("momentum", 0.99 if name == "momentum" else 0.0)).effective(1.0)
    return OPTIMIZERS.get(str(name), Adamw)().effective(1.0)


def make_pool(table: Table, *, embedding: bool, effective: bool = True) -> Pool:
    """All rows of a table as options; without the embedding a curve is flat at its peak and has its family's name."""
    rows = list(table.rows.values())
    names = sorted({name for row in rows for name in row.extras})
    extras = np.array([[row.extras.get(name, 0.0) for name in names] for row in rows]).reshape(len(rows), len(names))
    number = {config: i for i, config in enumerate(dict.fromkeys(row.config for row in rows))}
    curves = np.array([row.lr if embedding else [max(row.lr)] * 64 for row in rows])
    if effective:
        curves = curves * np.array([_effective(row) for row in rows])[:, None]
    return Pool(
        keys=tuple(number[row.config] for row in rows),
        horizons=np.array([row.horizon for row in rows]),
        curves=curves,
        extras=np.column_stack([extras, _families(rows, not embedding)]),
        free=np.zeros(len(rows), dtype=np.int64),
        every=np.array([row.reports[0][0] for row in rows]),
        families=tuple(str(row.params.get("schedule")) for row in rows),
    )


def _state(row: Row, reports: list[tuple[int, float]]) -> State:
    if not math.isfinite(reports[-1][1]):
        return "diverged"
    return "complete" if reports[-1][0] >= row.horizon else "paused"


class Replay:
    """A study of our own search on one table, of a `budget` in full runs."""

    def __init__(self, table: Table, seed: int, variant: Variant, budget: float = math.inf) -> None:
        self.table, self.seed, self.variant = table, seed, variant
        self.settings = replace(variant.settings, budget=budget)
        self.pool = make_pool(table, embedding=variant.settings.embedding, effective=variant.effective)
        self.ledger = Ledger(table, share=variant.resuming and variant.sharing)
        self.rows: list[Row] = list(table.rows.values())
        self.extras = [tuple(float(v) for v in e) for e in self.pool.extras]
        self.number = {row.key: i for i, row in enumerate(self.rows)}
        self.runs: dict[RunKey, Run] = {}
        self.stopped: set[RunKey] = set()  # by the pruner, which stops a run once
        self._fitted: tuple[int, Fitted | None] = (0, None)
        self._kept = KeptModels()

    def ask(self) -> Decision | None:
        """The next decision; hyper-parameters are refitted whenever the data have grown by a tenth."""
        free = np.array([self.ledger.free(row.key) for row in self.rows])
        pool = replace(self.pool, free=free)
        pool.__dict__["features"] = self.pool.features  # computed once, shared by every later pool
        runs = list(self.runs.values())
        known, fitted = self._fitted
        reports = sum(len(run.reports) for run in runs)
        stale = reports > REFIT_GROWTH * known or fitted is None
        left = self.settings.budget - sum(run.steps for run in runs) / self.table.target + 1e-9
        if left <= 1e-9:
            return None
        fitted = None if stale else fitted
        decision, fitted = decide(pool, runs, self.table.target, self.seed, self.settings, fitted, left)
        # How far the law is believed is weighed for every decision, as in a job.
        self._fitted = (reports if stale else known, replace(fitted, share=None) if fitted else None)
        return decision

    def step(self) -> bool:
        """Train what the search decides; False where that is nothing."""
        decision = self.ask()
        if decision is not None:
            self.train(self.rows[decision.row].key, decision.until)
        return decision is not None

    def train(self, key: RunKey, until: int) -> None:
        """Train a run up to a step; nothing where it was stopped before and cannot be resumed."""
        if key in self.runs and not self.variant.resuming:
            return
        # The run trained last comes last, as in a job's history.
        before = self.runs.pop(key, None)
        run = self._run(key, until, self._reports(key, until))
        born = before.born if before else len(self.runs)
        self.runs[key] = replace(run, state=_state(self.table.rows[key], list(run.reports)), born=born)

    def _reports(self, key: RunKey, until: int) -> list[tuple[int, float]]:
        """What training up to a step shows, or up to where the pruner stops it, by the rules of a job."""
        if not self.variant.pruned or until < key[1] or key in self.stopped:
            return self.ledger.run(key, until)
        seen, before, reused = list[tuple[int, float]](), 0, self.ledger.free(key)
        for step, _ in self.table.rows[key].reports:
            seen = self.ledger.run(key, step)
            if reused < step < until and due(before, step, key[1]) and self._hopeless(key, until, seen):
                self.stopped.add(key)
                break
            before = step
        return seen

    def _hopeless(self, key: RunKey, until: int, seen: list[tuple[int, float]]) -> bool:
        running = replace(self._run(key, until, seen), state="running")
        return judge(list(self.runs.values()), running, self.table.target, self.seed, fitted=self._kept).stop

    def _run(self, key: RunKey, until: int, reports: list[tuple[int, float]]) -> Run:
        row = self.number[key]
        curve = tuple(float(rate) for rate in self.pool.curves[row])
        return Run(
            self.pool.keys[row],
            key[1],
            curve,
            self.extras[row],
            tuple(reports),
            until=max(until, reports[-1][0]),
            family=self.pool.families[row],
        )


def replay_curve(table: Table, strategy: str, seed: int, done: Callable[[Ledger], bool]) -> Ledger:
    """Let the search run on a table until `done` says that enough has been seen."""
    replay = Replay(table, seed, VARIANTS[strategy])
    while not done(replay.ledger):
        before = dict(replay.ledger.trained)
        replay.step()
        if replay.ledger.trained == before:  # everything is known: a replay has no second seed
            break
    return replay.ledger
