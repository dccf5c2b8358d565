"""The forecast's audit in a job's log: each audited trial once, each switch once, and nothing from a lost lease."""

from datetime import timedelta

import pytest

from lrtune.errors import LeaseLost
from lrtune.search import PruneVerdict
from lrtune.search.engine.early_stop import Audit, Rules, judge
from lrtune.search.engine.types import Run
from lrtune.store import Database, audits, decisions, events, jobs, leases, trials
from lrtune.wire.configuration import Configuration
from lrtune.wire.job import AdmittedJob
from lrtune.wire.results import Proposal, Report, Trial, TrialState
from worker import pruning

SPEC = AdmittedJob.model_validate(
    {
        "task": "digits",
        "metric": {"name": "val_loss", "goal": "minimize"},
        "horizon": {"steps": 40},
        "search": {"sampler": "curve", "pruner": "forecast"},
    }
)


def leased(database: Database) -> leases.Lease:
    """A running trial of the search, of a new job."""
    chosen = Configuration(optimizer="adamw", learning_rate=0.01, schedule="cosine")
    with database.write() as tx:
        job_id = jobs.create(tx, SPEC)[0].id
        trials.propose(tx, job_id, Proposal(configuration=chosen, role="search", seed=0, horizon=40), known=0)
        lease = leases.claim(tx, "worker", ttl=timedelta(minutes=1))
    assert lease is not None
    return lease


def logged(database: Database, lease: leases.Lease) -> list[tuple[str, str]]:
    with database.read() as tx:
        items = events.page(tx, lease.job_id, after=0, limit=99).items
    return [(one.kind, one.message) for one in items if one.kind in (audits.AUDITED, audits.OFF, audits.ON)]


def test_the_log_says_once_that_a_trial_is_an_audit_and_when_the_pruner_goes_off_and_on(database):
    lease = leased(database)
    for on in (True, False, False, True, False):
        with database.write() as tx:
            audits.audited(tx, lease, "forecast pruner: runs on as an audit")
            audits.switched(tx, lease, on=on, reason="2 of 4 false stops")
    kinds = [kind for kind, _ in logged(database, lease)]
    assert kinds == ["trial-audited", "pruner-off", "pruner-on", "pruner-off"]
    assert logged(database, lease)[0][1] == "trial 0, forecast pruner: runs on as an audit"
    with database.read() as tx:
        found = audits.read(tx, lease.job_id)
    assert (found.trials, found.on) == ([0], False)


def test_a_lost_lease_writes_nothing(database):
    lease = leased(database)
    with database.write() as tx:
        leases.finish(tx, lease, TrialState.COMPLETE, value=0.5, step=40)
    for write in (
        lambda tx: audits.audited(tx, lease, ""),
        lambda tx: audits.switched(tx, lease, on=False, reason=""),
    ):
        with pytest.raises(LeaseLost), database.write() as tx:
            write(tx)
    assert logged(database, lease) == []


@pytest.mark.parametrize(
    ("said", "kinds", "stops"),
    [
        (PruneVerdict(), [], None),
        (PruneVerdict(audit="chance 1%"), ["trial-audited"], None),
        (PruneVerdict(off="1 of 3 false stops"), ["pruner-off"], None),
        (PruneVerdict(stop="chance 1%"), [], "chance 1%"),
    ],
)
def test_a_worker_logs_what_the_pruner_says_of_each_report(database, monkeypatch, said, kinds, stops):
    def verdict(spec: AdmittedJob, history: list[Trial], trial: Trial, *, steps: int, kept: object) -> PruneVerdict:
        return said

    monkeypatch.setattr(pruning.search, "verdict", verdict)
    lease = leased(database)
    watch = pruning.Pruning(database, lease, decisions.Timed())
    for step in (10, 20):
        assert watch.verdict(Report(step=step, learning_rate=0.1, metrics={"val_loss": 1.0})) == stops
    assert [kind for kind, _ in logged(database, lease)] == kinds


def test_at_its_end_there_is_nothing_left_to_stop(database, monkeypatch):
    monkeypatch.setattr(
        pruning.search, "verdict", lambda spec, history, trial, steps: PruneVerdict(audit="a", stop="b")
    )
    lease = leased(database)
    last = Report(step=40, learning_rate=0.1, metrics={"val_loss": 1.0})
    assert pruning.Pruning(database, lease, decisions.Timed()).verdict(last) is None
    assert logged(database, lease) == []


def test_the_engine_says_so_when_its_forecasts_have_failed_the_audit():
    def trained(number: int, end: float, until: int, state: str = "complete") -> Run:
        seen = tuple((step, end + 2.0 * (1 - step / 1000) ** 2) for step in range(50, until + 1, 50))
        return Run(number, 1000, (0.001 * (1 + number),) * 64, (), seen, state, until)

    runs = [trained(number, 1.0 + 0.01 * number, 1000) for number in range(12)]
    bad, rules = trained(90, 9.0, 500, "running"), Rules(audit=0.0)
    passed, failed = (judge(runs, bad, 1000, rules=rules, checked=Audit(4, 2, 1.0, on)) for on in (True, False))
    assert (passed.stop, passed.off) == (True, False)
    assert (failed.stop, failed.off) == (False, True)
    assert "2 of 4 false stops" in failed.reason
