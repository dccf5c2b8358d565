"""Owners share the workers by their weights, and nobody starves: counted in trials, on a clock of the test's own."""

import json
from collections.abc import Iterator
from datetime import timedelta

import httpx
import pytest
from sqlalchemy import Engine, event, update

from app import expiring
from benchmarks.fairness import Shop, Wish
from lrtune.store import Database, budgets, census, events, jobs, serving, shares, thinking, workers
from lrtune.store.database import clock
from lrtune.store.tables import WorkerRow
from lrtune.wire.job import AdmittedJob
from lrtune.wire.results import JobState
from tests.leasing import NOON, SPEC
from tests.serving import KEY, served


@pytest.fixture
def service(database_url: str) -> Iterator[httpx.Client]:
    with served(database_url) as client:
        yield client


EVEN = {"ada": 1.0, "ben": 1.0, "cleo": 2.0}


def test_owners_share_by_weight_whatever_they_submit(sqlite_url: str) -> None:
    """Jobs of 3 to 1,000 full runs of 1 to 9 seconds, weights of 1, 1 and 2, eight workers: shares within a tenth."""
    wishes = [
        Wish("ada", 1000, 4.0),
        Wish("ada", 3, 4.0, at=10.0),
        Wish("ben", 30, 1.0),
        Wish("ben", 1000, 9.0),
        Wish("cleo", 1000, 2.0),
        Wish("cleo", 300, 5.0, at=20.0, priority=1),
    ]
    found = Shop(Database(sqlite_url), wishes, EVEN).run(8, 200)
    for owner, weight in EVEN.items():
        assert found.share(owner) == pytest.approx(weight / 4, rel=0.1)
    assert found.first[1] - found.came[1] <= 16, "the smallest job waits for two trials of each worker at most"
    assert found.end[1] - found.came[1] <= 60
    assert set(found.first) == set(range(len(wishes))), "every job has begun"


def test_an_owner_of_a_thousand_jobs_gets_no_more_than_one_of_a_single_job(database: Database) -> None:
    wishes = [*(Wish("ada", 50, 2.0) for _ in range(20)), Wish("ben", 500, 2.0)]
    found = Shop(database, wishes, {"ada": 1.0, "ben": 1.0}).run(4, 80)
    assert found.share("ben") == pytest.approx(0.5, rel=0.1)


@pytest.mark.slow
def test_who_comes_back_has_saved_nothing_up(sqlite_url: str) -> None:
    """One who was away while another trained alone is served as much as that one from then on, and not more."""
    wishes = [Wish("ada", 500, 20.0), Wish("ben", 500, 20.0, at=1000.0)]
    shop = Shop(Database(sqlite_url), wishes, {"ada": 1.0, "ben": 1.0})
    found = shop.run(2, 160)
    since = found.order[found.first[1] :]
    assert since.count(1) == pytest.approx(since.count(0), abs=(shares.SAVED + 40) / 20)


def test_a_job_of_higher_priority_comes_first_among_those_of_its_owner_alone(database: Database) -> None:
    wishes = [Wish("ada", 50, 2.0), Wish("ada", 50, 2.0, priority=5), Wish("ben", 50, 2.0)]
    found = Shop(database, wishes, {"ada": 1.0, "ben": 1.0}).run(1, 24)
    own = [place for place in found.order if place != 2]
    assert (own.count(0), own.count(1)) == (3, 9), "and each fourth is of the one that has waited longest"
    assert len(own) == 12, "which is no priority over others"


def test_the_shortest_way_to_a_first_answer_comes_first(database: Database) -> None:
    wishes = [Wish("ada", 5, 9.0, steps=10_000), Wish("ada", 5, 2.0, steps=1000), Wish("ada", 5, 2.0, steps=100)]
    found = Shop(database, wishes, {"ada": 1.0}).run(1, 3)
    assert found.order == [2, 1, 0]


def test_no_job_starves_behind_those_of_its_owner_that_keep_coming(database: Database) -> None:
    more = [Wish("ada", 2, 1.0, at=2.0 * number, priority=9, steps=10) for number in range(40)]
    found = Shop(database, [Wish("ada", 20, 1.0), *more], {"ada": 1.0}).run(1, 60)
    assert found.order.count(0) >= 60 // shares.LONGEST_FIRST // 3, "each fourth is of the one that has waited longest"


def test_one_thinks_for_a_job_and_the_others_serve_another(database: Database) -> None:
    with database.write() as tx:
        first, second = (jobs.create(tx, SPEC, now=NOON)[0].id for _ in range(2))
    thought = list[str]()
    for worker in "ab":
        with database.write() as tx:
            turn = shares.whose_turn(tx, shares.Able(["digits"]), now=NOON)
            assert turn is not None
            assert turn.undecided
            assert thinking.begin(tx, turn.id, worker, now=NOON)
            assert not thinking.begin(tx, turn.id, "c", now=NOON)
            thought.append(turn.id)
    assert thought == [first, second]
    with database.write() as tx:
        assert shares.whose_turn(tx, shares.Able(["digits"]), now=NOON) is None
        later = NOON + 2 * shares.THINKING  # a thinker that died
        assert shares.whose_turn(tx, shares.Able(["digits"]), now=later) is not None
        thinking.end(tx, first, "a", events=1)
        thinking.end(tx, second, "b")
        turn = shares.whose_turn(tx, shares.Able(["digits"]), now=NOON)
        assert turn is not None
        assert turn.id == second, "of the first there is nothing to decide until its log goes on"
        jobs.pause(tx, first, now=NOON)
        jobs.resume(tx, first, now=NOON)
        turn = shares.whose_turn(tx, shares.Able(["digits"]), now=NOON)
        assert turn is not None
        assert turn.id == first


@pytest.mark.parametrize(
    ("needs", "by"),
    [
        ({}, ["cpu", "small", "big"]),
        ({"device": "cuda"}, ["small", "big"]),
        ({"device": "cuda", "memory_gb": 40}, ["big"]),
        ({"memory_gb": 20}, ["small", "big"]),
        ({"device": "mps"}, []),
        ({"memory_gb": 1000}, []),
    ],
)
def test_only_workers_that_have_what_a_job_needs_serve_it(
    database: Database, needs: dict[str, object], by: list[str]
) -> None:
    have = {"cpu": ("cpu", 16.0), "small": ("cuda", 24.0), "big": ("cuda", 80.0)}
    spec = AdmittedJob.model_validate(SPEC.model_dump(mode="json") | {"resources": needs})
    with database.write() as tx:
        assert "no worker is alive" in jobs.create(tx, spec)[0].waiting_for
        for name, (kind, memory) in have.items():
            device = workers.Device(f"{kind}:0", kind, memory, 2)
            workers.sign_in(tx, name, host="h", pid=1, device=device, tasks=["digits"])
        job = jobs.create(tx, spec)[0]
        served = [
            name
            for name, (kind, memory) in have.items()
            if shares.whose_turn(tx, shares.Able(["digits"], kind=kind, memory_gb=memory), now=NOON)
        ]
    assert served == by
    assert bool(job.waiting_for) == (not by)
    if not by:
        assert "cpu with 16 GB, cuda with 24 GB, cuda with 80 GB" in job.waiting_for


def test_a_job_that_nobody_can_train_says_so_at_once_and_in_its_log(service: httpx.Client, database_url: str) -> None:
    asked = {"task": "digits", "resources": {"device": "cuda", "memory_gb": 40}, "priority": 3}
    job = service.post("/v1/jobs", json=asked).json()
    assert job["waiting_for"] == "no worker is alive: start one with `lrtune worker`"
    database = Database(database_url)
    with database.write() as tx:
        has = workers.Device("cuda:0", "cuda", 24.0, 1)
        workers.sign_in(tx, "w", host="h", pid=1, device=has, tasks=["digits"])
    database.dispose()
    said = "no worker that lives has the device cuda with 40 GB; those that have the task digits: cuda with 24 GB"
    job = service.post("/v1/jobs", json=asked).json()
    assert job["waiting_for"] == said
    assert (job["spec"]["priority"], job["spec"]["resources"]) == (3, {"device": "cuda", "memory_gb": 40})
    assert said in service.get(f"/v1/jobs/{job['id']}/events").json()["items"][0]["message"]
    with httpx.Client(base_url=service.base_url, timeout=60, trust_env=False) as browser:
        browser.post("/sign-in", data={"key": KEY})
        assert said in browser.get(f"/jobs/{job['id']}").text
        assert "cuda:0, 24 GB" in browser.get("/workers").text
    (worker,) = service.get("/v1/workers").json()["items"]
    assert (worker["kind"], worker["memory_gb"], worker["count"]) == ("cuda", 24.0, 1)
    external = {"task": "external", "metric": {"name": "loss", "goal": "minimize"}, "horizon": {"steps": 9}}
    assert service.post("/v1/jobs", json=external).json()["waiting_for"] == ""
    for needs, pointer in (({"device": "GPU!"}, "device"), ({"memory_gb": 0}, "memory_gb"), ({"cores": 4}, "cores")):
        problem = service.post("/v1/jobs", json={"task": "digits", "resources": needs})
        assert problem.status_code == 422
        assert problem.json()["errors"][0]["pointer"] == f"/resources/{pointer}"


def test_a_job_says_when_the_last_worker_that_could_train_it_goes_and_when_one_is_there_again(
    service: httpx.Client, database_url: str
) -> None:
    """By the server, which looks; however the worker goes: it stops in good order, or is not heard of any longer."""
    database = Database(database_url)

    def sign_in(name: str, kind: str) -> None:
        device = workers.Device(f"{kind}:0", kind, 24.0, 1)
        with database.write() as tx:  # an hour ahead: a machine that stands still meanwhile makes nobody silent
            ahead = clock(tx) + timedelta(hours=1)
            workers.sign_in(tx, name, host="h", pid=1, device=device, tasks=["digits"], now=ahead)

    def newest(job: str, kind: str) -> str:
        with service.stream("GET", f"/v1/jobs/{job}/events", headers={"Accept": "text/event-stream"}) as stream:
            lines = (json.loads(line[6:]) for line in stream.iter_lines() if line.startswith("data: "))
            return next(str(line["message"]) for line in lines if line.get("kind") == kind and line["id"] > seen[job])

    def log(job: str) -> list[str]:
        return [line["kind"] for line in service.get(f"/v1/jobs/{job}/events").json()["items"]]

    sign_in("small", "cpu")
    sign_in("big", "cuda")
    asked = {"cuda": {"task": "digits", "resources": {"device": "cuda"}}, "any": {"task": "digits"}}
    job, other = (service.post("/v1/jobs", json=asked[name]).json()["id"] for name in ("cuda", "any"))
    seen = {job: 0, other: 0}
    with database.write() as tx:
        workers.sign_out(tx, "big")
    said = "no worker that lives has the device cuda; those that have the task digits: cpu with 24 GB"
    assert newest(job, "job-unserved") == f"the last worker that could train it has gone; {said}"
    assert service.get(f"/v1/jobs/{job}").json()["waiting_for"] == said
    assert log(other) == ["job-submitted"], "the other worker serves it"
    sign_in("big", "cuda")
    assert newest(job, "job-served") == "a worker that can train it is there"
    with database.write() as tx:
        tx.execute(update(WorkerRow).values(seen_at=clock(tx) - timedelta(minutes=3)))
    seen[job] = 3
    assert newest(job, "job-unserved").endswith("no worker is alive: start one with `lrtune worker`")
    assert newest(other, "job-unserved").startswith("the last worker that could train it has gone; no worker is alive")
    assert log(job) == ["job-submitted", "job-unserved", "job-served", "job-unserved"]
    database.dispose()


def test_a_worker_that_was_there_between_two_looks_leaves_no_job_that_says_it_is_served(database: Database) -> None:
    device = workers.Device("cpu", "cpu", 24.0, 1)
    before = expiring.look(database)
    with database.write() as tx:
        workers.sign_in(tx, "w", host="h", pid=1, device=device, tasks=["digits"])
        job = jobs.create(tx, SPEC)[0].id
        workers.sign_out(tx, "w")
    assert expiring.look(database) != before, "so the logs are looked at"
    with database.read() as tx:
        assert serving.outdated(tx) == [job]


def test_a_log_says_what_workers_a_job_lacks_also_while_it_is_paused_and_one_that_is_deleted_hinders_no_other(
    database: Database,
) -> None:
    device = workers.Device("cpu", "cpu", 24.0, 1)
    with database.write() as tx:
        workers.sign_in(tx, "w", host="h", pid=1, device=device, tasks=["digits"])
        gone, held, going = (jobs.create(tx, SPEC)[0].id for _ in range(3))
        jobs.pause(tx, held)
    with database.write() as tx:
        workers.sign_out(tx, "w")
    with database.read() as tx:
        outdated = serving.outdated(tx)
    with database.write() as tx:
        jobs.cancel(tx, gone)
        jobs.delete(tx, gone)
    with database.write() as tx:
        serving.tell(tx, outdated)
    with database.read() as tx:
        logs = [[line.kind for line in events.page(tx, job, after=0, limit=9).items] for job in (held, going)]
        assert logs == [["job-submitted", "job-paused", "job-unserved"], ["job-submitted", "job-unserved"]]
        assert not serving.outdated(tx)


def test_a_job_that_is_extended_once_its_workers_have_gone_says_so_in_its_log(database: Database) -> None:
    device = workers.Device("cpu", "cpu", 24.0, 1)
    with database.write() as tx:
        workers.sign_in(tx, "w", host="h", pid=1, device=device, tasks=["digits"])
        job = jobs.create(tx, SPEC)[0].id
        jobs.end(tx, job, JobState.SUCCEEDED, reason="")
        workers.sign_out(tx, "w")
        budgets.extend(tx, job, SPEC.budget.model_copy(update={"full_runs": 99.0}))
    with database.read() as tx:
        log = events.page(tx, job, after=0, limit=9).items
        assert [line.kind for line in log] == ["job-submitted", "job-succeeded", "job-extended", "job-unserved"]
        assert not serving.outdated(tx)


def test_many_jobs_that_nobody_can_train_are_counted_by_what_they_need(database: Database) -> None:
    with database.write() as tx:
        spec = SPEC.model_dump(mode="json")
        for memory in (10.0, 40.0, 40.0):
            jobs.create(tx, AdmittedJob.model_validate(spec | {"resources": {"memory_gb": memory}}))
        device = workers.Device("cuda:0", "cuda", 24.0, 1)
        workers.sign_in(tx, "w", host="h", pid=1, device=device, tasks=["digits"])
        assert census.census(tx).unserved == len(list(census.unserved(tx))) == 2


def test_whose_turn_it_is_is_found_by_an_index(sqlite_url: str) -> None:
    """However many jobs an owner has: those that are over are not looked at, the others are in order already."""
    database, seen = Database(sqlite_url), list[tuple[str, object]]()

    def note(_connection: object, _cursor: object, statement: str, parameters: object, *_: object) -> None:
        seen.append((statement, parameters))

    event.listen(Engine, "before_cursor_execute", note)
    try:
        with database.read() as tx:
            shares.whose_turn(tx, shares.Able(["digits"], ["mine"], ["prodigy"], "cuda", 24.0), now=NOON)
            statement, parameters = seen[-1]
            rows = tx.connection().exec_driver_sql(f"explain query plan {statement}", parameters).all()  # type: ignore[arg-type]
    finally:
        event.remove(Engine, "before_cursor_execute", note)
        database.dispose()
    plan = [str(row[-1]) for row in rows]
    assert any("INDEX ix_jobs_next" in line for line in plan)
    assert any("INDEX ix_jobs_unserved" in line for line in plan)
    assert not [line for line in plan if line.startswith(("SCAN jobs", "SCAN trials"))]
    assert sum("TEMP B-TREE" in line for line in plan) == 1, "owners alone are sorted"
