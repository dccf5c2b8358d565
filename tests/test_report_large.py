"""The report of a large job: of its best trials and a sample, with what all of them have cost."""

import itertools

import pytest
from sqlalchemy import case, select, update

from app import reports
from app.landscape import known
from lrtune.analysis.report import report
from lrtune.store import Database, audits, charts, events, findings, jobs, lookup
from lrtune.store.tables import ReportRow, TrialRow
from lrtune.wire.report import Audit
from lrtune.wire.results import TrialState
from tests.leasing import NOON
from tests.serving import served
from tests.test_plans import filled
from tests.test_statements import counted

SMALL = {"FEW_ENOUGH": 20, "MODELLED": 10, "TERRAIN": 40, "LATELY": 50}


@pytest.fixture
def bounded(monkeypatch: pytest.MonkeyPatch, thinking_here: None) -> None:
    """As if some dozen trials were many."""
    for name, few in SMALL.items():
        monkeypatch.setattr(charts, name, few)
    monkeypatch.setattr(findings, "WHOLE", 60)


def test_a_large_jobs_report_has_the_answer_and_the_cost_of_all_and_says_what_it_has_read(
    database_url: str, monkeypatch: pytest.MonkeyPatch, bounded: None
) -> None:
    database = Database(database_url)
    job = filled(database, 240)
    with served(database_url) as service:
        found = service.get(f"/v1/jobs/{job}/report").json()
        text = service.get(f"/v1/jobs/{job}/report", params={"format": "md"}).text
        on_the_map = service.get(f"/v1/jobs/{job}/landscape").json()["report"]
        monkeypatch.setattr(findings, "WHOLE", 1000)
        whole = service.get(f"/v1/jobs/{job}/report").json()
        entire = service.get(f"/v1/jobs/{job}/report", params={"format": "md"}).text
    database.dispose()
    assert (found["trials"], whole["read"], whole["trials"]) == (240, 240, 240)
    assert 60 < found["read"] < 140
    for same in ("cost", "value", "rate", "optimizer", "family", "edges", "lift"):
        assert found[same] == whole[same], same
    assert found["tolerance"] == pytest.approx(whole["tolerance"], rel=0.1)
    for side in ("above", "below"):
        assert found[side]["behind"] == pytest.approx(whole[side]["behind"], rel=0.25), side
    assert on_the_map["cost"] == whole["cost"]
    assert found["saved"]["pruning"] == pytest.approx(whole["saved"]["pruning"]) == 60 * 20 / 40
    ours, all_of_it = (one["families"][0]["plateau"] for one in (found, whole))
    assert (ours["low"], ours["high"]) == pytest.approx((all_of_it["low"], all_of_it["high"]), rel=0.1)
    assert f"From the best trials and a sample: {found['read']} of 240." in text
    assert "a sample" not in entire


def test_a_large_jobs_report_is_as_many_statements_however_many_trials_there_are(
    database: Database, bounded: None
) -> None:
    costs = []
    for count in (120, 480):
        job = filled(database, count)
        with counted() as seen, database.read() as tx:
            basis = findings.read(tx, jobs.get(tx, job))
        costs.append(len(seen))
        assert len(basis.trials) < 140
    assert costs[0] == costs[1] <= 32


def test_a_sample_that_is_as_large_as_the_job_is_all_of_it_and_another_is_spread_over_it() -> None:
    for many in range(1, 320):
        assert charts.evenly(many, max(many, 300)) == set(range(many))
    some = sorted(charts.evenly(10_000, 300))
    assert 290 < len(some) <= 300
    assert max(later - one for one, later in itertools.pairwise(some)) < 100


def test_a_large_jobs_audit_counts_the_false_stops_that_all_of_its_trials_show(
    database: Database, monkeypatch: pytest.MonkeyPatch, bounded: None
) -> None:
    job = filled(database, 480)
    with database.write() as tx:
        better = case((TrialRow.state == TrialState.COMPLETE, TrialRow.value - TrialRow.number / 200.0))
        tx.execute(update(TrialRow).values(value=better))  # as a search does
        for number in range(1, 480, 3):
            events.add(tx, lookup.job(tx, job).seq, audits.AUDITED, "runs on", now=NOON, trial=number)

    def audit() -> Audit | None:
        with database.read() as tx:
            asked, best = jobs.get(tx, job), jobs.best(tx, job)
            basis = findings.read(tx, asked)
        return report(asked.spec, best, basis.trials, basis.audits, basis.totals).audit

    found = audit()
    with database.read() as tx:
        on_the_page = known(tx, jobs.get(tx, job)).report
    monkeypatch.setattr(findings, "WHOLE", 1000)
    whole = audit()
    assert found is not None
    assert whole is not None
    assert on_the_page is not None
    assert on_the_page.audit is not None
    for one in (found, on_the_page.audit):
        assert (one.audited, one.false) == (whole.audited, whole.false)
    assert whole.false > 1


def test_the_page_says_of_longer_runs_what_the_report_says(sqlite_url: str, bounded: None) -> None:
    database = Database(sqlite_url)
    job = filled(database, 50)  # more than a model is fitted to, and not too many to read
    with database.write() as tx:
        for trial in tx.scalars(select(TrialRow)):
            rate, end = trial.configuration["learning_rate"], trial.value or 2.0
            seen = [(step, end + (trial.step - step) / 20) for step in (10, 20, 30, 40) if step <= trial.step]
            tx.add_all(
                ReportRow(trial=trial.id, step=step, learning_rate=rate, metrics={"val_loss": value})
                for step, value in seen
            )
    assert reports.longer(database, job) == reports.findings(database, job).horizons != []
    database.dispose()
