"""The opponents of `benchmarks.search` pay for what they train, and for what is missing it says what to install."""

import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from unittest.mock import ANY

import numpy as np
import pytest

from benchmarks.replay import Ledger, Row, Table
from benchmarks.search import study

STEPS, REPORTS = 100, 10
MODERN = find_spec("syne_tune") is None


def table(n: int = 12) -> Table:
    rows = {}
    for place, rate in enumerate(np.geomspace(1e-3, 1, n)):
        ends = 0.3 + abs(float(np.log10(rate / 0.05)))
        reports = tuple((step, ends + float(np.exp(-step / 30))) for step in range(10, STEPS + 1, STEPS // REPORTS))
        params = {"learning_rate": float(rate), "schedule": "constant"}
        row = Row(f"{place}", STEPS, params, (float(rate),) * 64, {}, reports, None, 0)
        rows[row.key] = row
    best = min(row.final for row in rows.values())
    return Table("made up", STEPS, best, best + 0.01, rows, False)


@pytest.mark.skipif(not MODERN, reason="syne-tune is here")
def test_without_syne_tune_the_benchmark_says_what_to_install(tmp_path: Path):
    (tmp_path / "tables.json").write_text("[]", encoding="utf-8")
    command = [sys.executable, "-m", "benchmarks.search", "--tables", str(tmp_path), "--strategies", "curve,mobster"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "pip install -e '.[opponents]'" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(MODERN, reason="syne-tune 0.13 needs an environment of its own")
@pytest.mark.parametrize("strategy", ["mobster", "hypertune"])
def test_opponents_of_syne_tune_find_the_best_and_pay_for_new_steps_alone(strategy: str):
    found = study(table(), strategy, 0, "family")
    assert found.cost_to_target is not None
    assert found.cost_to_target <= 12, "no more than every run to its end"


def test_a_run_that_goes_on_pays_for_its_new_steps_alone():
    some = table()
    ledger, key = Ledger(some, share=False), next(iter(some.rows))
    for until in (30, 60, STEPS):
        ledger.run(key, until)
    assert ledger.spent == pytest.approx(1.0)


def test_without_what_it_says_of_idle_runs_and_by_gain_alone_the_search_still_finds_the_best():
    for strategy in ("curve-no-idle", "curve-ei"):
        assert study(table(), strategy, 0, "family", quick=True).cost_to_target is not None


def test_a_study_is_given_up_at_its_limit():
    whole = study(table(), "random", 1, "family", quick=True)
    assert whole.cost_to_target == pytest.approx(8)
    assert study(table(), "random", 1, "family", quick=True, limit=8) == replace(whole, seconds=ANY)
    assert study(table(), "random", 1, "family", quick=True, limit=7).cost_to_target is None
