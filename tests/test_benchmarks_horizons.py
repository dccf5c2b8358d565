"""`python -m benchmarks.horizons` on a table of runs that follow the law, whose best peaks are therefore known."""

import gzip
import json
import sys
from pathlib import Path

import pytest

from benchmarks import horizons
from tests.test_horizons import RATES, STEPS, many, trial


def table(folder: Path) -> None:
    """Runs of three families over the horizon, and of one over twice as many steps."""
    longer = [trial(50 + place, rate, "cosine", 2e-4, 2 * STEPS) for place, rate in enumerate(RATES)]
    rows = []
    for run in [*many(2e-4), *longer]:
        family, factor = run.configuration.kind[1], run.configuration.curve.over(run.horizon)
        peak = run.configuration.learning_rate
        rows.append(
            {
                "config": f"{family} {peak}",
                "params": {"schedule": family, "schedule_knobs": {}, "learning_rate": peak},
                "horizon": run.horizon,
                "lr": [peak * factor(int((place + 0.5) / 64 * run.horizon)) for place in range(64)],
                "reports": [[report.step, report.metrics["loss"]] for report in run.reports],
            }
        )
    with gzip.open(folder / "lawful.jsonl.gz", "wt", encoding="utf-8") as lines:
        lines.writelines(json.dumps(row) + "\n" for row in rows)
    entry = {"name": "lawful", "file": "lawful.jsonl.gz", "target_horizon": 2 * STEPS, "tolerance_relative": 0.01}
    (folder / "tables.json").write_text(json.dumps([entry]))


def test_it_names_the_best_peak_over_the_longest_horizon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    table(tmp_path)
    monkeypatch.setattr(sys, "argv", ["horizons", "--tables", str(tmp_path)])
    horizons.main()
    said = capsys.readouterr().out
    assert f"fitted on 27 runs up to {STEPS} steps, named for {2 * STEPS}" in said
    (row,) = [line for line in said.splitlines() if line.startswith("| cosine")]
    (last,) = [line for line in said.splitlines() if line.startswith("| median error")]
    assert row.count("|") == last.count("|")
    unmoved, law = (float(cell.split(",")[0]) for cell in last.split("|")[3:5])
    assert law < min(0.3, unmoved)
    assert "inside 1 of 1" in last.split("|")[4]


def test_a_table_of_one_horizon_has_nothing_to_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    table(tmp_path)
    monkeypatch.setattr(sys, "argv", ["horizons", "--tables", str(tmp_path), "--upto", str(STEPS - 1)])
    horizons.main()
    assert capsys.readouterr().out == ""
