"""Replay of logged training runs at exact cost.

A table holds what every configuration really did when it was trained; a `Ledger` lets a search buy pieces of those
runs and charges for each step once: a step that an earlier run already trained with the same learning rates is free.
The format is that of the replay tables' README (`tables.json` and one gzipped JSON Lines file per table).
"""

import gzip
import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

RunKey = tuple[str, int]


@dataclass(frozen=True)
class Row:
    """One logged training run: a configuration over one horizon."""

    config: str
    horizon: int
    params: dict[str, Any]
    lr: tuple[float, ...]
    extras: dict[str, float]
    reports: tuple[tuple[int, float], ...]
    trunk: str | None
    trunk_steps: int

    @property
    def key(self) -> RunKey:
        """What names a run."""
        return self.config, self.horizon

    @property
    def end(self) -> int:
        """The last step that training reaches: the horizon, or the first value that was not finite."""
        for step, value in self.reports:
            if not math.isfinite(value):
                return step
        return self.horizon

    @property
    def final(self) -> float:
        """The value at its end, or the first that was not finite."""
        return next((v for _, v in self.reports if not math.isfinite(v)), self.reports[-1][1])


@dataclass(frozen=True)
class Table:
    """All runs of one study, with the value that a completed run must reach."""

    name: str
    target: int
    best: float
    threshold: float
    rows: dict[RunKey, Row]
    shares_prefixes: bool

    def at_target(self) -> list[Row]:
        """The runs over the horizon that counts."""
        return [row for row in self.rows.values() if row.horizon == self.target]


def thinned(table: Table, share: float, seed: int) -> Table:
    """The table without a share of its configurations, drawn anew for each seed, so that no winner is learned by heart.

    The best of those that are left takes the place of the best; the tolerance stays as wide as it was.
    """
    if not share:
        return table
    configs = sorted({row.config for row in table.at_target()})
    kept = np.random.default_rng(seed).permutation(len(configs))[round(share * len(configs)) :]
    names = {configs[place] for place in kept}
    rows = {key: row for key, row in table.rows.items() if row.config in names}
    best = min(row.final for row in rows.values() if row.horizon == table.target and math.isfinite(row.final))
    threshold = best + table.threshold - table.best
    return replace(table, rows=rows, best=best, threshold=threshold)


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _row(raw: dict[str, Any]) -> Row:
    reports = tuple((int(step), _number(value)) for step, value in raw["reports"])
    extras = {name: float(value) for name, value in raw.get("extras", {}).items()}
    return Row(
        str(raw["config"]),
        int(raw["horizon"]),
        raw.get("params", {}),
        tuple(raw["lr"]),
        extras,
        reports,
        raw.get("trunk"),
        int(raw.get("trunk_steps", 0)),
    )


def _threshold(entry: dict[str, Any], best: float) -> float:
    if entry.get("threshold") is not None:
        return float(entry["threshold"])
    if entry.get("tolerance_absolute") is not None:
        return best + float(entry["tolerance_absolute"])
    return best + float(entry.get("tolerance_relative") or 0.01) * abs(best)


def load_table(folder: Path, entry: dict[str, Any]) -> Table:
    """Read the table that one entry of tables.json describes."""
    with gzip.open(folder / entry["file"], "rt", encoding="utf-8") as lines:
        rows = [_row(json.loads(line)) for line in lines if line.strip()]
    target = int(entry["target_horizon"])
    finals = [row.final for row in rows if row.horizon == target and math.isfinite(row.final)]
    best = float(entry.get("best") or min(finals))
    # The stored threshold is rounded; the best configuration itself must always pass it.
    threshold = max(_threshold(entry, best), min(finals))
    return Table(
        entry["name"], target, best, threshold, {row.key: row for row in rows}, bool(entry.get("prefix_sharing", True))
    )


def load_tables(folder: str | Path) -> list[Table]:
    """Read every table of a folder."""
    folder = Path(folder)
    entries = json.loads((folder / "tables.json").read_text(encoding="utf-8"))
    return [load_table(folder, entry) for entry in entries]


_SCHEDULE_PARAMS = ("learning_rate", "schedule", "schedule_knobs", "warmup", "warmup_steps")


def _same_training(a: Row, b: Row) -> bool:
    """Everything but the learning rates is equal, so that equal rates mean equal runs."""
    rest_a = {k: v for k, v in a.params.items() if k not in _SCHEDULE_PARAMS}
    rest_b = {k: v for k, v in b.params.items() if k not in _SCHEDULE_PARAMS}
    return rest_a == rest_b and a.extras == b.extras


def shared_steps(a: Row, b: Row) -> int:
    """How many first steps two runs certainly have in common.

    Trunks say so exactly. Without them, runs over one horizon share the steps up to the last of the first sample
    points at which their rates agree.
    """
    if a.key == b.key:
        return a.horizon
    if a.trunk is not None or b.trunk is not None:
        return min(a.trunk_steps, b.trunk_steps) if a.trunk == b.trunk else 0
    if a.horizon != b.horizon or not _same_training(a, b):
        return 0
    equal = next((i for i, (x, y) in enumerate(zip(a.lr, b.lr, strict=True)) if x != y), len(a.lr))
    return a.horizon if equal == len(a.lr) else int(max(equal - 0.5, 0) / len(a.lr) * a.horizon)


class Ledger:
    """What one search has bought so far, and what it paid, in full runs."""

    def __init__(self, table: Table, share: bool = True) -> None:
        self.table = table
        self.share = share
        self.spent = 0.0
        self.trained: dict[RunKey, int] = {}
        self.milestones: list[tuple[float, float]] = []
        self._free: dict[RunKey, int] = {}

    def free(self, key: RunKey) -> int:
        """The first steps of a run that need not be paid for any more."""
        return self._free.get(key, 0)

    def run(self, key: RunKey, until: int) -> list[tuple[int, float]]:
        """Train a run up to a step (at least), pay for the new steps, and get all its reports so far."""
        row = self.table.rows[key]
        stop = next((step for step, _ in row.reports if step >= until), row.horizon)
        stop = min(stop, row.end)
        self._pay(row, stop)
        seen = [(step, value) for step, value in row.reports if step <= stop]
        if row.horizon == self.table.target and stop == row.horizon and math.isfinite(row.final):
            self.milestones.append((self.spent, row.final))
        return seen

    def _pay(self, row: Row, stop: int) -> None:
        new = max(0, stop - self.free(row.key))
        if stop <= self.trained.get(row.key, 0):
            return
        self.spent += new / self.table.target
        self.trained[row.key] = stop
        for other in self._relatives(row):
            common = min(shared_steps(row, other), stop)
            self._free[other.key] = max(self.free(other.key), common)

    def _relatives(self, row: Row) -> list[Row]:
        if not self.share or not self.table.shares_prefixes:
            return [row]
        return list(self.table.rows.values())

    def cost_to_target(self) -> float | None:
        """What had been spent when a completed run at the target horizon first reached the threshold."""
        return next((spent for spent, value in self.milestones if value <= self.table.threshold), None)

    def regret(self, budget: float) -> float | None:
        """Best completed value within a budget, minus the best there is."""
        values = [value for spent, value in self.milestones if spent <= budget + 1e-9]
        return min(values) - self.table.best if values else None
