"""Jobs are found by words and sorted, a page at a time, on both databases; and so they are over HTTP."""

import base64
import json
from collections.abc import Sequence

import pytest

from lrtune.errors import Invalid
from lrtune.store import Database, jobs, listing
from lrtune.store.listing import Wanted
from lrtune.wire.job import AdmittedJob, JobOrder
from tests.serving import served, slug

PLAIN = {"task": "digits", "metric": {"name": "val_loss", "goal": "minimize"}, "horizon": {"steps": 40}}


def made(database: Database, name: str = "", *, owner: str = "admin", task: str = "digits", **tags: str) -> str:
    with database.write() as tx:
        return jobs.create(
            tx, AdmittedJob.model_validate(PLAIN | {"name": name, "task": task, "tags": tags}), owner=owner
        )[0].id


def found(database: Database, search: str, order: JobOrder = "newest") -> list[str]:
    with database.read() as tx:
        return [
            job.spec.name for job in listing.page(tx, Wanted(search=search), order=order, limit=50, cursor=None).items
        ]


def test_a_job_is_found_by_any_words_of_its_name_task_owner_tags_or_id(database: Database) -> None:
    wide = made(database, "Adult, wide MLP", team="risk", model="wide")
    made(database, "adult 100%_sure", owner="ada", team="ads")
    made(database, "digits\\once", task="images")
    assert found(database, "adult") == ["adult 100%_sure", "Adult, wide MLP"]
    assert found(database, "WIDE adult") == ["Adult, wide MLP"]
    assert found(database, "team:risk") == found(database, "risk") == found(database, wide[-9:]) == ["Adult, wide MLP"]
    assert found(database, "ada") == found(database, "%") == found(database, "100%_") == ["adult 100%_sure"]
    assert found(database, "images") == found(database, "\\") == ["digits\\once"]
    assert found(database, "'; drop table jobs; --") == found(database, "adult images") == []
    assert len(found(database, "  ")) == 3


@pytest.mark.parametrize("order", ["newest", "oldest", *listing.ORDERS])
def test_every_order_is_paged_whole_although_jobs_arrive_meanwhile(database: Database, order: JobOrder) -> None:
    for number, name in enumerate(["b", "A", "", "a" * 150, "ü", "b", "C"]):
        job = made(database, name, owner=f"person{number % 3}", task=("digits", "images")[number % 2])
        if number % 3 == 1:
            with database.write() as tx:
                jobs.cancel(tx, job)
    with database.read() as tx:
        whole = [job.id for job in listing.page(tx, order=order, limit=50, cursor=None).items]
    seen: list[str] = []
    cursor: str | None = None
    while True:
        with database.read() as tx:
            page = listing.page(tx, order=order, limit=2, cursor=cursor)
        seen += [job.id for job in page.items]
        made(database, "zz", owner="zz")
        if (cursor := page.next) is None or len(seen) > 50:
            break
    assert [one for one in seen if one in whole] == whole
    assert len(set(seen)) == len(seen)


def test_orders_are_what_they_are_called(database: Database) -> None:
    for name in ("b", "A", "c"):
        made(database, name)
    second = made(database, "")
    with database.write() as tx:
        jobs.cancel(tx, second)
    assert found(database, "", "name") == ["A", "b", "c", ""], "one without a name is called as its task"
    assert found(database, "", "finished")[0] == ""
    assert found(database, "", "state")[0] == ""
    assert found(database, "", "oldest") == ["b", "A", "c", ""]


def forged(*parts: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(parts).encode()).decode().rstrip("=")


BAD: Sequence[str] = (
    "x", "é", "a" * 500, forged("task", "a", 1), forged("name", 3, 1), forged("name", "a", -1),
    forged("name", "a\0", 1), forged("name", "a", 1e400), forged("name", "a"), "W10", forged("name", "a", "1" * 50),
)  # fmt: skip


@pytest.mark.parametrize("cursor", BAD)
def test_a_cursor_of_another_order_or_made_up_is_refused_in_words(database: Database, cursor: str) -> None:
    made(database)
    with pytest.raises(Invalid, match="an earlier page"), database.read() as tx:
        listing.page(tx, order="name", limit=3, cursor=cursor)


def test_the_api_searches_sorts_and_refuses_in_words(sqlite_url: str) -> None:
    with served(sqlite_url) as service:
        for name in ("wide", "narrow", "Ärger"):
            service.post("/v1/jobs", json={"task": "digits", "name": name})

        def names(query: str) -> list[str]:
            return [job["spec"]["name"] for job in service.get(f"/v1/jobs?{query}").json()["items"]]

        assert names("search=w&sort=name") == ["narrow", "wide"]
        assert names("search=ärger") == ["Ärger"]
        assert names("task=images") == []
        first = service.get("/v1/jobs?sort=name&limit=2").json()
        assert names(f"sort=name&limit=2&cursor={first['next']}") == ["Ärger"]
        for query in ("sort=best", "search=" + "a+" * 11, f"sort=task&cursor={first['next']}", "serach=wide"):
            answer = service.get(f"/v1/jobs?{query}")
            assert (answer.status_code, slug(answer)) == (422, "invalid"), query
