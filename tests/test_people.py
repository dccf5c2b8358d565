"""Several people at one service: whose what is, who sees it, who changes it, what each may use, and who did what."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from lrtune.store import Database, workers
from tests.external import JOB as EXTERNAL
from tests.external import report, submit, take
from tests.people import LESS, client, job, made, someone, upload
from tests.serving import finished, served, slug, trained

VERBS = ("cancel", "pause", "resume")


@pytest.fixture
def service(database_url: str, tmp_path: Path) -> Iterator[httpx.Client]:
    with served(database_url, data_dir=tmp_path / "data") as found:
        yield found


@pytest.fixture
def apart(database_url: str, tmp_path: Path) -> Iterator[httpx.Client]:
    """A service where nobody sees what is others'."""
    with served(database_url, data_dir=tmp_path / "data", shared=False) as found:
        yield found


def ids(answer: httpx.Response) -> list[str]:
    assert answer.status_code == 200, answer.text
    return [one["id"] for one in answer.json()["items"]]


# Whose it is ----------------------------------------------------------------------------------------------------------


def test_a_job_and_a_dataset_say_whose_they_are_and_lists_find_them_by_it(service: httpx.Client) -> None:
    with someone(service, "ada") as ada, someone(service, "bob") as bob:
        hers, his = job(ada), job(bob)
        assert upload(ada).json()["owner"] == "ada"
        assert upload(bob, "another.csv").status_code == 201
        for path, mine in (
            ("/v1/jobs", [hers]),
            ("/v1/datasets", ids(ada.get("/v1/datasets", params={"owner": "ada"}))),
        ):
            assert len(ids(bob.get(path))) == 2
            assert ids(bob.get(path, params={"owner": "ada"})) == mine
            assert ids(bob.get(path, params={"owner": "nobody"})) == []
        assert bob.get(f"/v1/jobs/{hers}").json()["owner"] == "ada"
        assert {one["owner"] for one in bob.get("/v1/jobs").json()["items"]} == {"ada", "bob"}
        assert ids(ada.get("/v1/jobs", params={"owner": "bob", "limit": 1})) == [his]


def test_nobody_changes_what_is_anothers_but_an_admin(service: httpx.Client) -> None:
    with someone(service, "ada") as ada, someone(service, "bob") as bob:
        hers, data = job(ada), upload(ada).json()["id"]
        loop = submit(ada)
        calls: list[tuple[str, str, Any]] = [("POST", f"/v1/jobs/{hers}/{verb}", None) for verb in VERBS]
        calls += [
            ("POST", f"/v1/jobs/{hers}/extend", {"budget": {"full_runs": 90}}),
            ("DELETE", f"/v1/jobs/{hers}", None),
            ("DELETE", f"/v1/datasets/{data}", None),
            ("POST", f"/v1/jobs/{loop}/trials", {}),
            ("POST", f"/v1/jobs/{loop}/trials/0/reports", {"token": "x"}),
            ("POST", f"/v1/jobs/{loop}/trials/0/finish", {"token": "x", "state": "complete"}),
        ]
        for method, path, body in calls:
            answer = bob.request(method, path, json=body)
            assert (answer.status_code, slug(answer)) == (403, "not-yours"), path
            assert "ada" in answer.json()["detail"]
        assert ada.get(f"/v1/jobs/{hers}").json()["state"] == "queued"
        assert bob.post("/v1/jobs/job-0/cancel").status_code == 404
        assert ada.post(f"/v1/jobs/{hers}/pause").status_code == 202
        assert service.post(f"/v1/jobs/{hers}/cancel").status_code == 202
        assert service.delete(f"/v1/datasets/{data}").status_code == 204


def test_a_host_of_the_operators_trains_everybodys_jobs_and_changes_none(apart: httpx.Client) -> None:
    with someone(apart, "ada") as ada, someone(apart, "admin", "read", "work") as host:
        loop = submit(ada)
        held = take(host, loop)
        assert report(host, loop, held, 4, 0.5)["decision"] == "continue"
        assert slug(host.post(f"/v1/jobs/{loop}/cancel")) == "missing-scope"
        with someone(apart, "bob") as bob:
            assert bob.post(f"/v1/jobs/{loop}/trials", json={}).status_code == 404


def test_the_same_bytes_and_names_of_two_people_are_two_datasets_of_one_file(
    service: httpx.Client, tmp_path: Path
) -> None:
    with someone(service, "ada") as ada, someone(service, "bob") as bob:
        hers, his = upload(ada), upload(bob)
        assert (hers.status_code, his.status_code) == (201, 201)
        assert upload(bob).status_code == 200
        found = bob.get("/v1/datasets/wine.csv").json()
        assert (found["owner"], found["file"]) == ("bob", hers.json()["file"])
        task = {"name": "tabular", "params": {"dataset": "wine.csv", "target": "y"}}
        needs = job(bob, task=task)
        assert ada.delete("/v1/datasets/wine.csv").status_code == 204
        assert (tmp_path / "data" / found["file"]).exists()
        refused = bob.delete("/v1/datasets/wine.csv")
        assert (refused.status_code, slug(refused)) == (409, "dataset-in-use")
        bob.post(f"/v1/jobs/{needs}/cancel")
        assert bob.delete("/v1/datasets/wine.csv").status_code == 204
        assert not (tmp_path / "data" / found["file"]).exists()


# Who sees it ----------------------------------------------------------------------------------------------------------


def test_what_is_anothers_is_not_there_where_nothing_is_shared(apart: httpx.Client, database_url: str) -> None:
    with someone(apart, "ada") as ada, someone(apart, "bob") as bob:
        hers = finished(ada, database_url)
        data = upload(ada).json()
        missing = bob.get("/v1/jobs/job-0123456789abcdef").json()["detail"].replace("job-0123456789abcdef", hers)
        paths = ["", "/trials", "/trials/0", "/trials/0/rates", "/best", "/report", "/best/export", "/curves"]
        for path in [*paths, "/landscape", "/events"]:
            assert ada.get(f"/v1/jobs/{hers}{path}").status_code == 200, path
            answer = bob.get(
                f"/v1/jobs/{hers}{path}", headers={"Accept": "text/event-stream"} if "events" in path else {}
            )
            assert (answer.status_code, slug(answer)) == (404, "unknown-job"), path
            assert answer.json()["detail"] == missing
        for verb in VERBS:
            assert bob.post(f"/v1/jobs/{hers}/{verb}").status_code == 404
        for odd in ("%00", "%F0%9F%98%80", "1" * 3000):
            assert slug(bob.post(f"/v1/jobs/{odd}/cancel")) == slug(bob.get(f"/v1/jobs/{odd}")) == "unknown-job"
        for path in ("trials?limit=few", "trials/x", "events?after=-1", "best/export?format=none", "best?misspelt=1"):
            answers = [bob.get(f"/v1/jobs/{one}/{path}") for one in (hers, "job-0123456789abcdef")]
            assert [slug(one) for one in answers] == ["unknown-job"] * 2, path
        assert bob.delete(f"/v1/jobs/{hers}").status_code == 404
        assert ids(bob.get("/v1/jobs")) == ids(bob.get("/v1/jobs", params={"owner": "ada"})) == []
        assert ids(bob.get("/v1/datasets")) == []
        for name in (data["id"], "wine.csv"):
            assert bob.get(f"/v1/datasets/{name}").status_code == 404
            assert bob.delete(f"/v1/datasets/{name}").status_code == 404
        assert ids(ada.get("/v1/jobs")) == ids(apart.get("/v1/jobs")) == [hers]
        assert apart.get(f"/v1/datasets/{data['id']}").status_code == 200


def test_no_job_is_made_from_what_is_anothers_where_nothing_is_shared(apart: httpx.Client, database_url: str) -> None:
    with someone(apart, "ada") as ada, someone(apart, "bob") as bob:
        hers = finished(ada, database_url)
        for params in ({}, {"validate_only": "true"}):
            body = LESS | {"warm_start": [hers]}
            assert ada.post("/v1/jobs", json=body, params=params).is_success
            answer = bob.post("/v1/jobs", json=body, params=params)
            assert answer.status_code == 422
            assert "is no job here" in answer.json()["errors"][0]["detail"]
        assert ada.get(f"/v1/jobs/{job(ada, warm_start=True)}").json()["spec"]["warm_start"] == [hers]
        assert bob.get(f"/v1/jobs/{job(bob, warm_start=True)}").json()["spec"]["warm_start"] == []
        data = upload(ada).json()
        for named in (data["id"], "wine.csv", data["file"], f"./{data['file']}", f"uploads/../{data['file']}"):
            task = {"name": "tabular", "params": {"dataset": named, "target": "y"}}
            answer = bob.post("/v1/jobs", json=LESS | {"task": task})
            assert answer.status_code == 422, named
            assert answer.json()["errors"][0]["pointer"] == "/task/params/dataset"
            taken = ada.post("/v1/jobs", json=LESS | {"task": task}).status_code
            assert taken == (422 if ".." in named else 201), named
        for folder in ("uploads", "."):
            task = {"name": "huggingface", "params": {"dataset": folder, "model": "uploads"}}
            answer = bob.post("/v1/jobs", json=LESS | {"task": task})
            assert (answer.status_code, slug(answer)) == (422, "invalid"), folder


def test_a_worker_at_anothers_job_is_just_busy_where_nothing_is_shared(apart: httpx.Client, database_url: str) -> None:
    with someone(apart, "ada") as ada, someone(apart, "bob") as bob:
        hers = job(ada)
        database = Database(database_url)
        with database.write() as tx:
            workers.sign_in(tx, "w", host="h", pid=1, device="cpu", tasks=["digits"])
            workers.seen(tx, "w", job=hers, trial=3)
        database.dispose()
        seen = {who: who.get("/v1/workers").json()["items"][0] for who in (ada, bob, apart)}
        assert [seen[who]["job"] == hers for who in (ada, bob, apart)] == [True, False, True]
        assert seen[bob]["job"]
        assert seen[bob]["trial"] is None


# What each may use ----------------------------------------------------------------------------------------------------


def set_(service: httpx.Client, person: str, **quotas: Any) -> dict[str, Any]:
    answer = service.put(f"/v1/people/{person}", json={"quotas": quotas})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def refused(answer: httpx.Response, quota: str) -> None:
    assert (answer.status_code, slug(answer)) == (429, "quota-reached")
    assert answer.json()["detail"].startswith(f"{quota}: ")
    assert int(answer.headers["Retry-After"]) >= 1


def test_so_many_jobs_may_wait(service: httpx.Client) -> None:
    with someone(service, "ada") as ada, someone(service, "bob") as bob:
        set_(service, "ada", queued_jobs=2)
        once = {"Idempotency-Key": "once"}
        first = ada.post("/v1/jobs", json=LESS, headers=once).json()["id"]
        ada.post(f"/v1/jobs/{job(ada)}/pause")
        refused(ada.post("/v1/jobs", json=LESS), "queued_jobs")
        assert ada.post("/v1/jobs", json=LESS, headers=once).json()["id"] == first  # it is one that is there
        assert ada.post("/v1/jobs", json=LESS, params={"validate_only": "true"}).status_code == 200
        job(bob)
        ada.post(f"/v1/jobs/{first}/cancel")
        job(ada)
        assert set_(service, "ada", queued_jobs=None)["quotas"]["queued_jobs"] is None
        job(ada)


def test_who_submits_many_jobs_at_once_has_no_more_than_may_wait(service: httpx.Client) -> None:
    with someone(service, "ada") as ada, ThreadPoolExecutor(8) as pool:
        set_(service, "ada", queued_jobs=3)
        answers = list(pool.map(lambda _: ada.post("/v1/jobs", json=LESS).status_code, range(16)))
        assert sorted(answers) == [201] * 3 + [429] * 13
        assert len(ids(ada.get("/v1/jobs"))) == 3


def test_so_many_full_runs_may_be_asked_for_within_a_day(service: httpx.Client) -> None:
    budget = {
        "budget": {"full_runs": 4},
        "confirm": {"top": 2, "seeds": 3},
    }  # thirteen in all, the baseline confirmed with them
    with someone(service, "ada") as ada:
        set_(service, "ada", full_runs_a_day=30)
        mine = job(ada, **budget)
        job(ada, **budget)
        refused(ada.post("/v1/jobs", json=LESS | budget), "full_runs_a_day")
        refused(ada.post(f"/v1/jobs/{mine}/extend", json={"budget": {"full_runs": 10}}), "full_runs_a_day")
        assert ada.post(f"/v1/jobs/{mine}/extend", json={"budget": {"full_runs": 8}}).status_code == 202
        refused(ada.post("/v1/jobs", json=LESS | {"budget": {"trials": 1}, "confirm": {"top": 0}}), "full_runs_a_day")
        answer = ada.post("/v1/jobs", json=LESS | {"budget": {"full_runs": None, "seconds": 9}})
        assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "/budget/full_runs")
        assert service.post(f"/v1/jobs/{mine}/extend", json={"budget": {"full_runs": 99}}).status_code == 202


def test_so_many_bytes_may_be_uploaded(service: httpx.Client) -> None:
    content = b"x,y\n1,0\n2,1\n" * 9
    with someone(service, "ada") as ada, someone(service, "bob") as bob:
        set_(service, "ada", upload_bytes=len(content) + 10)
        assert upload(ada, content=content).status_code == 201
        refused(upload(ada, "more.csv", b"a,b\n1,2\n3,4\n"), "upload_bytes")
        refused(
            ada.post("/v1/datasets", params={"name": "m.csv"}, content=iter([b"a,b\n", b"1,2\n3,4\n"])), "upload_bytes"
        )
        assert upload(bob, "more.csv", b"a,b\n1,2\n3,4\n").status_code == 201
        ada.delete("/v1/datasets/wine.csv")
        assert upload(ada, "more.csv", b"a,b\n1,2\n3,4\n").status_code == 201


def test_so_many_requests_may_be_made_in_a_minute(service: httpx.Client) -> None:
    with someone(service, "ada") as ada, someone(service, "bob") as bob:
        set_(service, "ada", requests_a_minute=5)
        with client(service, made(service, "ada")["key"]) as too:  # all keys of a person count together
            found = [who.get("/v1/tasks") for who in (ada, too, ada, too, ada, too, ada)]
        assert [answer.status_code for answer in found] == [200] * 5 + [429] * 2
        refused(found[-1], "requests_a_minute")
        assert int(found[-1].headers["Retry-After"]) <= 60
        assert bob.get("/v1/tasks").status_code == 200
        assert ada.get("/healthz").status_code == 200


def test_quotas_of_the_settings_hold_for_whoever_has_none_of_their_own(sqlite_url: str) -> None:
    usual = {
        "quota_queued_jobs": 1,
        "quota_full_runs_a_day": 100,
        "quota_upload_bytes": 7,
        "quota_requests_a_minute": 9999,
    }
    with served(sqlite_url, **usual) as service, someone(service, "ada") as ada, someone(service, "bob") as bob:
        held = set_(service, "ada", queued_jobs=2)
        assert held["quotas"] == {
            "queued_jobs": 2, "full_runs_a_day": 100, "upload_bytes": 7, "requests_a_minute": 9999,
        }  # fmt: skip
        assert held["own"] == ["queued_jobs"]
        for who, most in ((ada, 2), (bob, 1), (service, 1)):
            for _ in range(most):
                job(who)
            refused(who.post("/v1/jobs", json=LESS), "queued_jobs")
        refused(upload(bob), "upload_bytes")


def test_a_weight_and_quotas_are_set_for_somebody_and_listed(service: httpx.Client) -> None:
    body = {"weight": 2, "quotas": {"queued_jobs": 3}}
    assert service.put("/v1/people/ada", json=body).status_code == 200
    made(service, "bob")
    found = {one["name"]: one for one in service.get("/v1/people").json()["items"]}
    assert (found["ada"]["weight"], found["ada"]["quotas"]["queued_jobs"], found["ada"]["own"]) == (
        2.0,
        3,
        ["queued_jobs"],
    )
    assert (found["bob"]["weight"], found["bob"]["own"]) == (1.0, [])
    for wrong, pointer in (
        ({"weight": 0}, "/weight"),
        ({"quotas": {"queued_jobs": -1}}, "/quotas/queued_jobs"),
        ({"quotas": {"jobs": 1}}, "/quotas/jobs"),
    ):
        answer = service.put("/v1/people/ada", json=wrong)
        assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, pointer)
    assert service.put("/v1/people/ada", json={}).json()["weight"] == 1.0


# Who did what ---------------------------------------------------------------------------------------------------------


def test_every_change_is_in_the_audit_log_once_with_who_made_it(service: httpx.Client, database_url: str) -> None:
    with someone(service, "ada") as ada:
        mine = job(ada, name="first")
        ada.get(f"/v1/jobs/{mine}")
        for _ in range(2):  # the second time nothing is changed
            ada.post(f"/v1/jobs/{mine}/pause")
        ada.post(f"/v1/jobs/{mine}/resume")
        for _ in range(2):
            ada.post(f"/v1/jobs/{mine}/extend", json={"budget": {"full_runs": 30}})
        for _ in range(2):
            service.post(f"/v1/jobs/{mine}/cancel")
        ada.delete(f"/v1/jobs/{mine}")
        data = upload(ada).json()["id"]
        upload(ada)
        ada.delete(f"/v1/datasets/{data}")
        ran = {"optimizer": "adamw", "learning_rate": 0.01, "schedule": "cosine"}
        trial = {"configuration": ran, "state": "complete", "horizon": 40, "step": 40, "value": 0.5}
        there = ada.post("/v1/imports", json={"job": EXTERNAL, "trials": [trial]})
    assert there.status_code == 201, there.text
    set_(service, "ada", queued_jobs=3)
    key = made(service, "bob")
    service.delete(f"/v1/keys/{key['id']}")
    log = service.get("/v1/audit").json()["items"]
    told = [(one["actor"], one["action"], one["subject"]) for one in reversed(log)][1:]
    assert told == [
        ("ada", "job-submitted", mine),
        ("ada", "job-paused", mine),
        ("ada", "job-resumed", mine),
        ("ada", "job-extended", mine),
        ("admin", "job-cancelled", mine),
        ("ada", "job-deleted", mine),
        ("ada", "dataset-uploaded", data),
        ("ada", "dataset-removed", data),
        ("ada", "job-imported", there.json()["id"]),
        ("admin", "person-set", "ada"),
        ("admin", "key-made", key["id"]),
        ("admin", "key-revoked", key["id"]),
    ]
    said = {one["action"]: one["details"] for one in log}
    assert said["job-submitted"]["name"] == "first"
    assert said["job-extended"]["budget"]["full_runs"] == 30
    assert said["person-set"]["quotas"] == {"queued_jobs": 3}
    assert key["key"] not in str(log)


def test_the_audit_log_is_paged_and_asked_by_actor_and_subject(service: httpx.Client) -> None:
    with someone(service, "ada") as ada, someone(service, "bob") as bob:
        hers, _ = job(ada), job(bob)
        ada.post(f"/v1/jobs/{hers}/cancel")
    whole = [one["id"] for one in service.get("/v1/audit").json()["items"]]
    seen, cursor = list[int](), None
    for _ in range(len(whole)):
        page = service.get("/v1/audit", params={"limit": 2} | ({"cursor": cursor} if cursor else {})).json()
        seen += [one["id"] for one in page["items"]]
        if (cursor := page["next"]) is None:
            break
    assert seen == whole == sorted(whole, reverse=True)
    assert [one["actor"] for one in service.get("/v1/audit", params={"actor": "ada"}).json()["items"]] == ["ada", "ada"]
    of = service.get("/v1/audit", params={"subject": hers}).json()["items"]
    assert [one["action"] for one in of] == ["job-cancelled", "job-submitted"]
    assert service.get("/v1/audit", params={"cursor": "?"}).status_code == 422


def test_a_jobs_log_names_who_did_it(service: httpx.Client) -> None:
    with someone(service, "ada") as ada:
        mine = job(ada)
        for verb in ("pause", "resume"):
            ada.post(f"/v1/jobs/{mine}/{verb}")
        ada.post(f"/v1/jobs/{mine}/extend", json={"budget": {"full_runs": 30}})
        assert service.post(f"/v1/jobs/{mine}/cancel").json()["reason"] == "cancelled by admin"
        log = ada.get(f"/v1/jobs/{mine}/events").json()["items"]
    by_people = [one for one in log if not one["kind"].endswith("served")]  # that no worker is there, nobody did
    assert [(one["message"].partition("; no worker")[0], one["data"]["by"]) for one in by_people] == [
        (f"job {mine} submitted by ada", "ada"),
        ("job paused: paused by ada", "ada"),
        ("job queued: resumed by ada", "ada"),
        ("new budget by ada: full_runs 30", "ada"),
        ("job cancelled: cancelled by admin", "admin"),
    ]


def test_what_the_search_ends_nobody_did(service: httpx.Client, database_url: str) -> None:
    mine = job(service)
    trained(database_url, mine, [0.5])
    assert [one["action"] for one in service.get("/v1/audit", params={"subject": mine}).json()["items"]] == [
        "job-submitted"
    ]
    assert service.get(f"/v1/jobs/{mine}/events").json()["items"][-1]["data"] == {}
