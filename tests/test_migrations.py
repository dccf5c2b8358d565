"""The migrations make exactly the tables the code uses, on both databases, and take them away again.

`old/database.json` is a database that the code before 0009 filled (`old/make.py` says how), and what it answered.
"""

import json
from collections import Counter
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import MetaData, create_engine, insert, inspect, select, text

import migrations
from lrtune import search
from lrtune.analysis.report import report
from lrtune.export import export
from lrtune.optimizers import Adamw
from lrtune.schedules import Cosine, Plateau
from lrtune.store import Database, audits, events, imports, jobs, leases, schema, trials
from lrtune.store.database import clock
from lrtune.store.tables import Base
from lrtune.wire.configuration import Configuration
from lrtune.wire.imports import ImportedJob, ImportedReport, ImportedTrial
from lrtune.wire.job import AdmittedJob, Horizon, Objective
from lrtune.wire.results import Job, Proposal, Report, Trial, TrialState

OLD = json.loads((Path(__file__).parent / "old" / "database.json").read_text())
ANSWERS = OLD["answers"]
SAME = ("stability", "audit")  # what a report says of runs, and not of how many rows they were
COUNTED = ("optimizer", "family", "runs", "largest_stable", "smallest_diverged")  # whatever runs are compared with
VERSION = {"version_table": schema.VERSION_TABLE}
Tables = dict[str, list[dict[str, Any]]]


def rows(name: str, **where: Any) -> list[dict[str, Any]]:
    """Rows of the old database."""
    table = OLD["tables"][name]
    found = (dict(zip(table["columns"], row, strict=True)) for row in table["rows"])
    return [row for row in found if all(row[key] == value for key, value in where.items())]


def run(row: dict[str, Any]) -> str:
    """What a trial's run is, by its configuration as it is read: knobs that came later have their defaults."""
    read = Configuration.model_validate(row["configuration"]).model_dump(mode="json")
    return json.dumps([read, row["seed"], row["horizon"]], sort_keys=True)


def factors(code: str) -> list[float]:
    """The factors of the peak rate that exported code has for each step."""
    made: dict[str, Any] = {}
    exec(code, made)
    return [made["factor"](step) for step in range(made["STEPS"])]


def seq(job: str) -> int:
    (found,) = rows("jobs", id=ANSWERS[job]["job"]["id"])
    return int(found["seq"])


def old_runs(job: str) -> list[list[dict[str, Any]]]:
    """The rows that were trials of a job, those of one run together."""
    pieces: dict[str, list[dict[str, Any]]] = {}
    for row in rows("trials", job=seq(job)):
        pieces.setdefault(run(row), []).append(row)
    return list(pieces.values())


def load(url: str) -> None:
    """Fill the empty tables of a database as they were before 0009."""
    engine, metadata = create_engine(url), MetaData()
    metadata.reflect(engine)
    with engine.begin() as connection:
        for name in OLD["tables"]:
            table, found = metadata.tables[name], rows(name)
            times = [column.name for column in table.columns if column.type.python_type is datetime]
            for row in found:
                row |= {time: datetime.fromisoformat(row[time]) for time in times if row[time] is not None}
            if found:
                connection.execute(insert(table), found)
        if engine.dialect.name == "postgresql":  # which counts by itself, but not what was given a number
            for name, column in (("jobs", "seq"), ("trials", "id")):
                last = f"(select max({column}) from {name})"
                connection.execute(text(f"select setval(pg_get_serial_sequence('{name}', '{column}'), {last})"))
    engine.dispose()


def dump(url: str) -> Tables:
    """All that a database holds."""
    engine, metadata = create_engine(url), MetaData()
    metadata.reflect(engine)
    with engine.connect() as connection:
        found = {
            table.name: [dict(row) for row in connection.execute(select(table).order_by(*table.primary_key)).mappings()]
            for table in metadata.sorted_tables
        }
    engine.dispose()
    return found


def by_decision(tables: Tables, name: str, column: str) -> list[tuple[int, int, Any]]:
    """A column of the trials, or of what belongs to them, in the order in which the search decided."""
    place = {row["id"]: (row["job"], row["number"]) for row in tables["trials"]}
    found = [(*place[row["id" if name == "trials" else "trial"]], row[column]) for row in tables[name]]
    return sorted(found, key=lambda one: one[:2])


@pytest.fixture
def old_url(database_url: str) -> str:
    """A database that the code before 0009 has filled."""
    migrations.downgrade(database_url, "0008")
    load(database_url)
    return database_url


@pytest.fixture
def migrated(old_url: str) -> Iterator[Database]:
    migrations.upgrade(old_url)
    opened = Database(old_url)
    yield opened
    opened.dispose()


def read(database: Database, job: str) -> tuple[Job, list[Trial]]:
    with database.read() as tx:
        known = ANSWERS[job]["job"]["id"]
        return jobs.get(tx, known), trials.history(tx, known)


def test_the_migrated_schema_is_the_one_the_code_uses(old_url: str) -> None:
    migrations.upgrade(old_url)
    engine = create_engine(old_url)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts=VERSION | {"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []
        assert context.get_current_revision() == migrations.newest() == schema.REVISION
    engine.dispose()


def test_down_takes_every_table_away_and_up_brings_them_back(database_url: str) -> None:
    engine = create_engine(database_url)
    migrations.downgrade(database_url, "base")
    assert set(inspect(engine).get_table_names()) <= {schema.VERSION_TABLE}
    with engine.connect() as connection:
        assert MigrationContext.configure(connection, opts=VERSION).get_current_revision() is None
    migrations.upgrade(database_url)
    assert set(Base.metadata.tables) < set(inspect(engine).get_table_names())
    engine.dispose()


def test_what_the_trials_of_a_job_have_come_to_is_counted_anew_on_the_way_up(migrated: Database) -> None:
    before = {job: read(migrated, job)[0].progress for job in ANSWERS}
    migrations.downgrade(migrated.url, "0014")
    migrations.upgrade(migrated.url)
    for job, progress in before.items():
        found, history = read(migrated, job)
        assert found.progress.trials == progress.trials == Counter(trial.state for trial in history)
        assert found.progress.full_runs == progress.full_runs


def test_an_old_job_has_the_answer_that_it_had(migrated: Database) -> None:
    for job in ("finished", "plain"):
        (found, history), before = read(migrated, job), ANSWERS[job]
        best = found.best
        assert best is not None
        then = before["job"]["best"]
        baseline = then["baseline"] | {"own": False, "diverged": 0}  # nobody could say one's own then
        chosen = Configuration.model_validate(then["configuration"]).model_dump(mode="json")
        new = {"trial": best.trial, "range": [0.0, None], "baseline": baseline, "diverged": 0, "configuration": chosen}
        assert _without_intervals(best.model_dump(mode="json")) == _without_intervals(then | new)
        with migrated.read() as tx:
            exported = export(best, trials.get(tx, found.id, best.trial), "pytorch").text
            said = report(found.spec, best, history, audits.read(tx, found.id)).model_dump(mode="json")
        assert factors(exported) == factors(before["export"])
        _as_before(said["lift"], _without_intervals(before["report"]["lift"]))
        for name in SAME:
            _as_before(said[name], before["report"][name])
        for now, old in zip(said["families"], before["report"]["families"], strict=True):
            assert {name: now[name] for name in COUNTED} == {name: old[name] for name in COUNTED}
        assert said["cost"]["total"] == before["report"]["cost"]["total"]
        assert found.state == before["job"]["state"]
        assert found.progress.full_runs == before["job"]["progress"]["full_runs"]


def _without_intervals(best: dict[str, Any]) -> dict[str, Any]:
    """An answer, or a lift, without what rests on the noise, which is estimated otherwise than it was."""
    known = {name: value for name, value in best.items() if name not in ("interval", "noise")}
    if known.get("baseline"):
        known["baseline"] = _without_intervals(known["baseline"])
    return known


def _as_before(now: Any, before: Any) -> None:
    """What was said then is said now, in whatever words, beside what is new since."""
    if isinstance(before, dict):
        for name in before.keys() - {"words"}:
            _as_before(now[name], before[name])
    elif isinstance(before, list):
        for one, other in zip(now, before, strict=True):
            _as_before(one, other)
    else:
        assert now == (pytest.approx(before) if isinstance(before, float) else before)


def test_pieces_of_a_run_are_one_trial_with_the_first_ones_number(migrated: Database) -> None:
    for job in ANSWERS:
        pieces, history = old_runs(job), read(migrated, job)[1]
        assert [trial.number for trial in history] == [found[0]["number"] for found in pieces]
        for trial, found in zip(history, pieces, strict=True):
            asked = trial.configuration.model_copy(update={"old_warmup": False})
            assert run(trial.model_copy(update={"configuration": asked}).model_dump(mode="json")) == run(found[0])
            assert (trial.why, trial.decision) == (found[0]["why"], found[-1]["number"])
            assert trial.step - trial.reused == sum(piece["step"] - piece["credited"] for piece in found)
            steps = {one["step"] for piece in found for one in rows("reports", trial=piece["id"])}
            assert [one.step for one in trial.reports] == sorted(steps)
            attempts = [one["token"] for piece in found for one in rows("attempts", trial=piece["id"])]
            assert len(trial.stages) == len(attempts)
            assert sum(stage.cost for stage in trial.stages) == trial.step - trial.reused
            reached = [(stage.decision, stage.until) for stage in trial.stages if stage.outcome == "paused"]
            assert reached == [(one["number"], one["step"]) for one in found if one["step"] == one["until"]]


def test_an_old_trial_is_drawn_as_it_was_trained(migrated: Database) -> None:
    marked = 0
    for job in ANSWERS:
        for trial in read(migrated, job)[1]:
            if isinstance(trial.configuration.schedule, Plateau):
                continue
            rates = trial.configuration.learning_rates(trial.horizon)
            assert [one.learning_rate for one in trial.reports] == [
                rates[max(one.step - 1, 0)] for one in trial.reports
            ]
            marked += trial.configuration.old_warmup
    assert marked


def test_every_line_of_the_log_is_there_and_names_a_trial(migrated: Database) -> None:
    for job in ANSWERS:
        first = {piece["number"]: found[0]["number"] for found in old_runs(job) for piece in found}
        with migrated.read() as tx:
            log = events.page(tx, ANSWERS[job]["job"]["id"], after=0, limit=10_000).items
        old = rows("events", job=seq(job))
        lines = [(line["number"], line["kind"], line["message"], first.get(line["trial"])) for line in old]
        assert [(line.id, line.kind, line.message, line.trial) for line in log] == lines


def test_what_was_looked_at_is_paused_while_the_search_goes_on_and_stopped_after_it(migrated: Database) -> None:
    history = {job: read(migrated, job)[1] for job in ANSWERS}
    for job, state, reason in (
        ("in_flight", "paused", "trained until step {0.step} of {0.horizon}, as planned"),
        ("finished", "stopped", "the search ended with it paused at step {0.step} of {0.horizon}"),
    ):
        looks = [trial for trial in history[job] if trial.until == trial.step]
        assert looks
        for trial in looks:
            assert (trial.state, trial.reason) == (state, reason.format(trial))
            assert (trial.stages[-1].outcome, trial.start) == ("paused", trial.step)
    reasons = {row["number"]: row["reason"] for row in rows("trials", job=seq("plain"), state="stopped")}
    assert reasons
    assert reasons == {trial.number: trial.reason for trial in history["plain"] if trial.state == "stopped"}


def test_a_search_that_was_in_flight_goes_on(migrated: Database) -> None:
    found, history = read(migrated, "in_flight")
    assert Counter(trial.state for trial in history) >= Counter({"running": 2, "waiting": 1, "paused": 2})
    step = search.advance(found.spec, history, steps=found.steps or 0, seconds=1.0)
    with migrated.write() as tx:
        known = jobs.outline(tx, found.id).row.decisions
        assert known == len(rows("trials", job=seq("in_flight")))
        assert step.proposal is not None
        assert trials.propose(tx, found.id, step.proposal, known=known)
        later = clock(tx) + timedelta(days=9999)
        taken = leases.claim(tx, "another worker", ttl=timedelta(minutes=1), job_id=found.id, now=later)
        assert taken is not None
        assert taken.trial.step == taken.trial.start
        assert max((one.step for one in taken.trial.reports), default=0) <= taken.trial.start


def test_down_again_there_is_a_row_of_each_decision(old_url: str) -> None:
    before = dump(old_url)
    migrations.upgrade(old_url)
    migrations.downgrade(old_url, "0008")
    after = dump(old_url)
    same = ("role", "why", "state", "configuration", "seed", "horizon", "until", "step", "credited", "value")
    for column in (*same, "attempt", "token", "worker", "behind_step", "started_at", "finished_at"):
        assert by_decision(after, "trials", column) == by_decision(before, "trials", column), column
    for column in ("step", "learning_rate", "metrics", "credited"):
        assert by_decision(after, "reports", column) == by_decision(before, "reports", column), column
    for column in ("token", "number", "worker", "started_at", "ended_at", "outcome"):
        assert by_decision(after, "attempts", column) == by_decision(before, "attempts", column), column


def test_down_and_up_again_is_as_after_the_first_time(old_url: str) -> None:
    migrations.upgrade(old_url)
    first = dump(old_url)
    migrations.downgrade(old_url, "0008")
    migrations.upgrade(old_url)
    assert dump(old_url) == first


def test_a_job_of_now_goes_down_to_one_row_a_decision_and_up_to_what_it_was(database_url: str) -> None:
    new_job(database_url)
    before = dump(database_url)
    migrations.downgrade(database_url, "0008")
    down = sorted(dump(database_url)["trials"], key=lambda row: row["number"])
    seen = [(row["number"], row["state"], row["until"], row["step"], row["credited"], row["value"]) for row in down]
    assert seen == [
        (0, "complete", None, 40, 0, 0.1),
        (1, "stopped", 10, 10, 0, 0.5),
        (2, "waiting", None, 0, 0, None),
        (3, "stopped", 20, 20, 10, 0.4),
    ]
    numbers = {row["id"]: row["number"] for row in down}
    reports = [(numbers[row["trial"]], row["step"], row["credited"]) for row in dump(database_url)["reports"]]
    assert sorted(reports) == [(0, 40, False), (1, 10, False), (3, 10, True), (3, 20, False)]
    assert [numbers[row["behind"]] for row in down if row["behind"]] == [3]
    migrations.upgrade(database_url)
    assert understood(dump(database_url)) == understood(before)


def understood(tables: Tables) -> Tables:
    """The tables with each job's specification as it is read: what it leaves out may be written down or not.

    Without who did what and by which release, which 0016 has no place for, and what only helps to see whose turn it is.
    """
    anew = {"served": None, "pace": None, "charged": None, "release": None}
    jobs = [row | anew | {"spec": AdmittedJob.model_validate(row["spec"])} for row in tables["jobs"]]
    return tables | {"jobs": jobs, "attempts": [row | anew for row in tables["attempts"]], "shares": [], "audit": []}


def test_trials_that_were_imported_are_not_joined(database_url: str) -> None:
    plain = Configuration(optimizer=Adamw(), learning_rate=1e-3, schedule=Cosine())
    pruned = [
        ImportedTrial(
            configuration=plain, state="stopped", horizon=40, step=20,
            reports=[ImportedReport(step=20, metrics={"val_loss": value})],
        )
        for value in (0.5, 0.4)
    ]  # fmt: skip
    spec = AdmittedJob(
        task="digits", metric=Objective(name="val_loss", goal="minimize", range=(0.0, None)), horizon=Horizon(steps=40)
    )
    database = Database(database_url)
    with database.write() as tx:
        imports.create(tx, spec, ImportedJob(job=spec, trials=pruned))
    database.dispose()
    before = dump(database_url)
    migrations.downgrade(database_url, "0008")
    migrations.upgrade(database_url)
    assert understood(dump(database_url)) == understood(before)


def test_a_paused_trial_that_nobody_is_known_to_have_trained_goes_down(database_url: str) -> None:
    new_job(database_url)
    engine = create_engine(database_url)
    with engine.begin() as connection:
        connection.execute(text("delete from attempts"))
    engine.dispose()
    migrations.downgrade(database_url, "0008")
    assert [(row["state"], row["step"]) for row in dump(database_url)["trials"]] == [
        ("complete", 40), ("stopped", 20), ("waiting", 0),
    ]  # fmt: skip


def new_job(url: str) -> None:
    """A job with a complete trial, one that is paused for the second time, and one that waits for that one."""
    database, ttl = Database(url), timedelta(minutes=1)
    spec = AdmittedJob(
        task="digits", metric=Objective(name="val_loss", goal="minimize", range=(0.0, None)), horizon=Horizon(steps=40)
    )
    plain = Configuration(optimizer=Adamw(), learning_rate=1e-3, schedule=Cosine())
    with database.write() as tx:
        job = jobs.create(tx, spec)[0].id

        def propose(known: int, number: int, **changes: Any) -> None:
            proposal = Proposal(configuration=plain, role="search", seed=number, horizon=40, reason="a draw", **changes)
            assert trials.propose(tx, job, proposal, known=known)

        def train(step: int, value: float) -> leases.Lease:
            lease = leases.claim(tx, "a worker", ttl=ttl)
            assert lease is not None
            leases.report(tx, lease, [Report(step=step, learning_rate=1e-3, metrics={"val_loss": value})], ttl=ttl)
            return lease

        propose(0, 0)
        leases.finish(tx, train(40, 0.1), TrialState.COMPLETE, value=0.1, step=40)
        propose(1, 1, until=10)
        paused = train(10, 0.5)
        leases.pause(tx, paused, value=0.5, step=10, reason="trained until step 10 of 40, as planned")
        propose(2, 2)
        given_back = leases.claim(tx, "a worker", ttl=ttl)
        assert given_back is not None
        leases.release(tx, given_back, reason="trial 1 trains what both begin with", blocked_by=(paused.id, 20))
        propose(3, 1, until=20, resume=1)
        leases.pause(tx, train(20, 0.4), value=0.4, step=20, reason="trained until step 20 of 40, as planned")
    database.dispose()
