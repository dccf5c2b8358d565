"""Keys of several people: made, listed, revoked; what each is good for; and how wrong ones fare."""

import asyncio
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import create_engine, text

import app.keys
from app import scopes
from app.tries import FREE, LONGEST, Tries
from lrtune.errors import TooManyTries
from lrtune.store import people
from lrtune.wire.people import SCOPES
from tests.people import client, job, made, someone
from tests.serving import KEY, served, slug
from tests.test_statements import counted


@pytest.fixture
def service(database_url: str, tmp_path: Path) -> Iterator[httpx.Client]:
    with served(database_url, data_dir=tmp_path / "data") as found:
        yield found


@pytest.fixture
def lite(sqlite_url: str, tmp_path: Path) -> Iterator[httpx.Client]:
    with served(sqlite_url, data_dir=tmp_path / "data") as found:
        yield found


def test_a_key_is_shown_once_and_kept_as_a_hash(service: httpx.Client, database_url: str) -> None:
    answer = service.post("/v1/keys", json={"person": "ada", "name": "laptop", "scopes": ["work", "read", "read"]})
    key = answer.json()
    assert (answer.status_code, answer.headers["Location"]) == (201, f"/v1/keys/{key['id']}")
    assert answer.headers["Cache-Control"] == "no-store"
    assert len(key["key"]) >= 40
    assert key["scopes"] == ["read", "work"]
    (listed,) = service.get("/v1/keys").json()["items"]
    assert listed == {name: value for name, value in key.items() if name != "key"}
    assert (listed["person"], listed["name"]) == ("ada", "laptop")
    assert key["key"].startswith(listed["beginning"])
    assert len(listed["beginning"]) < len(key["key"]) / 3
    engine = create_engine(database_url)
    with engine.connect() as connection:
        held = "".join(
            str(row) for name in ("api_keys", "audit") for row in connection.execute(text(f"select * from {name}"))
        )
    engine.dispose()
    assert key["key"] not in held
    assert people.digest(key["key"]) in held


def test_a_revoked_key_is_refused_at_once_here_and_within_seconds_elsewhere(
    database_url: str, service: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = made(service, "ada")
    with served(database_url) as elsewhere, client(elsewhere, key["key"]) as there, client(service, key["key"]) as here:
        assert (there.get("/v1/jobs").status_code, here.get("/v1/jobs").status_code) == (200, 200)
        for _ in range(2):
            assert service.delete(f"/v1/keys/{key['id']}").status_code == 204
        assert slug(here.get("/v1/jobs")) == "unauthorized"
        assert app.keys.FRESH <= 5
        monkeypatch.setattr(app.keys, "FRESH", 0.0)  # as if these seconds had passed
        assert slug(there.get("/v1/jobs")) == "unauthorized"
    (listed,) = service.get("/v1/keys").json()["items"]
    assert listed["revoked_at"]
    missing = service.delete("/v1/keys/key-0")
    assert (missing.status_code, slug(missing)) == (404, "unknown-key")


def test_who_is_removed_has_no_key_any_more_and_keeps_their_jobs(service: httpx.Client) -> None:
    with someone(service, "ada") as ada, someone(service, "ada") as hers, someone(service, "boss", "admin") as boss:
        mine = job(ada)
        service.put("/v1/people/ada", json={"weight": 3})
        assert service.delete("/v1/people/ada").status_code == 204
        assert (ada.get("/v1/me").status_code, hers.get("/v1/me").status_code) == (401, 401)
        assert [one["person"] for one in service.get("/v1/keys").json()["items"]] == ["boss"]
        assert [one["name"] for one in service.get("/v1/people").json()["items"]] == ["boss"]
        log = [(one["action"], one["subject"]) for one in service.get("/v1/audit").json()["items"]]
        assert log[0] == ("person-removed", "ada")
        assert [action for action, _ in log[1:3]] == ["key-revoked"] * 2
        assert service.get(f"/v1/jobs/{mine}").json()["owner"] == "ada"
        assert service.post(f"/v1/jobs/{mine}/cancel").status_code == 202
        again = service.delete("/v1/people/ada")
        assert (again.status_code, slug(again)) == (404, "unknown-person")
        for needed, words in (("boss", "that is you"), ("admin", "the first key")):
            answer = boss.delete(f"/v1/people/{needed}")
            assert (answer.status_code, slug(answer)) == (409, "still-needed")
            assert words in answer.json()["detail"]
    made(service, "ada")  # another one of the same name begins as everybody does
    (ada_now,) = (one for one in service.get("/v1/people").json()["items"] if one["name"] == "ada")
    assert ada_now["weight"] == 1.0


def test_a_key_costs_no_statement_however_often_it_comes(service: httpx.Client, database_url: str) -> None:
    with someone(service, "ada") as ada:
        ada.get("/v1/schedules")
        since = time.monotonic()
        with counted() as seen:
            for _ in range(20):
                assert ada.get("/v1/schedules").status_code == 200
        asked = [one for one in seen if "api_keys" in one]
        assert len(asked) <= 1 + (time.monotonic() - since) / app.keys.FRESH


def test_when_a_key_was_used_is_known(
    service: httpx.Client, monkeypatch: pytest.MonkeyPatch, database_url: str
) -> None:
    monkeypatch.setattr(app.keys, "NOTED", 0.01)
    with served(database_url) as another, someone(another, "ada") as ada:
        assert ada.get("/v1/jobs").status_code == 200
    (listed,) = service.get("/v1/keys").json()["items"]
    assert listed["used_at"] >= listed["created_at"][:19]


def test_every_route_has_a_scope_and_a_key_without_it_is_refused_with_its_name(lite: httpx.Client) -> None:
    described = lite.get("/openapi.json").json()["paths"]
    routes = {(method.upper(), path) for path, methods in described.items() for method in methods}
    assert set(scopes.NEEDED) == routes - {("GET", "/healthz"), ("GET", "/readyz")}
    others = {one: someone(lite, "eve", *(scope for scope in SCOPES if scope not in (one, "admin"))) for one in SCOPES}
    for (method, path), needed in scopes.NEEDED.items():
        assert described[path][method.lower()]["x-scope"] == needed
        answer = others[needed].request(method, re.sub(r"{\w+}", "1", path), json={})
        assert (answer.status_code, slug(answer)) == (403, "missing-scope"), (method, path)
        assert f"`{needed}`" in answer.json()["detail"]
        assert "403" in described[path][method.lower()]["responses"]
    for one in others.values():
        one.close()


@pytest.mark.parametrize("scope", SCOPES)
def test_a_key_with_its_scope_gets_past(lite: httpx.Client, scope: str) -> None:
    with someone(lite, "eve", scope) as eve:
        for (method, path), needed in scopes.NEEDED.items():
            if needed == scope or scope == "admin":
                answer = eve.request(method, re.sub(r"{\w+}", "1", path), json={})
                assert answer.status_code not in (401, 403), (method, path)


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"person": "ada lovelace"}, "/person"),
        ({"person": "ada", "scopes": ["write"]}, "/scopes/0"),
        ({"person": "ada", "scopes": []}, "/scopes"),
        ({"person": "ada", "name": "\u001b[2J"}, "/name"),
        ({"person": "ada", "until": "tomorrow"}, "/until"),
    ],
)
def test_a_key_that_cannot_be_is_refused_in_words(lite: httpx.Client, body: dict[str, Any], pointer: str) -> None:
    answer = lite.post("/v1/keys", json=body)
    assert (answer.status_code, slug(answer)) == (422, "invalid")
    assert answer.json()["errors"][0]["pointer"] == pointer


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/keys", {"person": "Ada Lovelace"}),
        ("/v1/keys", {"person": "ada", "name": "a\nb"}),
        ("/v1/jobs", {"task": "digits", "resources": {"device": "GPU:0"}}),
        ("/v1/jobs", {"task": "digits", "tags": {"a:b": "c"}}),
        ("/v1/jobs", {"task": "digits", "name": "a\0b"}),
    ],
)
def test_what_no_text_of_a_field_may_be_is_said_without_a_regular_expression(
    lite: httpx.Client, path: str, body: dict[str, Any]
) -> None:
    (error,) = lite.post(path, json=body).json()["errors"]
    assert "accepted" in error["detail"]
    assert "^" not in error["detail"]


def test_the_key_of_the_settings_is_an_admins(service: httpx.Client) -> None:
    mine = job(service)
    assert service.get(f"/v1/jobs/{mine}").json()["owner"] == "admin"
    with someone(service, "ada", "admin") as ada:  # includes all others
        assert ada.post(f"/v1/jobs/{mine}/cancel").status_code == 202
        assert ada.get("/v1/audit").status_code == 200


# Wrong keys -----------------------------------------------------------------------------------------------------------


class Time:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds


async def nobodys() -> str | None:
    return None


async def somebodys() -> str | None:
    return "ada"


def test_wrong_keys_of_an_address_are_slowed_to_one_a_second_and_those_of_others_are_not() -> None:
    clock = Time()
    tries = Tries(clock, clock.sleep)
    for number in range(FREE):
        asyncio.run(tries.look("here", f"wrong-{number}", nobodys))
    assert clock.now == 100.0
    for number in range(60):
        asyncio.run(tries.look("here", f"wrong too-{number}", nobodys))
    assert clock.now == pytest.approx(160.0, abs=1.5)
    asyncio.run(tries.look("there", "wrong", nobodys))
    assert clock.now == pytest.approx(160.0, abs=1.5)


def test_who_tries_many_at_once_is_told_to_come_again() -> None:
    tries = Tries(lambda: 100.0, lambda _: asyncio.sleep(0))
    assert 0 < tried_out(tries).retry_after <= LONGEST + 2


def tried_out(tries: Tries) -> TooManyTries:
    """What one hears who tries one key after the other, after as few as may be."""
    for number in range(FREE + round(LONGEST) + 2):
        try:
            asyncio.run(tries.look("here", f"wrong-{number}", nobodys))
        except TooManyTries as error:
            return error
    raise AssertionError("nobody was told to wait")


def test_a_key_that_was_good_from_an_address_waits_for_nothing_and_memory_is_bounded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("app.tries.MOST", 50)
    tries = Tries(lambda: 100.0, lambda _: asyncio.sleep(0))
    for number in range(200):
        asyncio.run(tries.look(f"10.0.0.{number}", "wrong", nobodys))
        asyncio.run(tries.look(f"10.0.1.{number}", "another", somebodys))
    assert max(len(tries._booked), len(tries._good), len(tries._locks)) <= 51
    assert asyncio.run(tries.look("here", "right", somebodys)) == "ada"
    tried_out(tries)
    assert asyncio.run(tries.look("here", "right", somebodys)) == "ada"
    assert asyncio.run(tries.look("here", "right", nobodys)) is None  # revoked
    with pytest.raises(TooManyTries):
        asyncio.run(tries.look("here", "right", somebodys))


def test_many_people_who_come_at_once_from_one_address_do_not_wait() -> None:
    clock = Time()
    tries = Tries(clock, clock.sleep)

    async def all_at_once() -> list[str | None]:
        return await asyncio.gather(*(tries.look("proxy", f"key-{number}", slowly) for number in range(100)))

    async def slowly() -> str | None:
        await asyncio.sleep(0)
        return "somebody"

    assert asyncio.run(all_at_once()) == ["somebody"] * 100
    assert clock.now == 100.0


def test_wrong_keys_over_http_are_told_to_wait_and_right_ones_are_not_locked_out(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, waited = Time(), list[float]()

    async def sleep(seconds: float) -> None:
        waited.append(seconds)

    monkeypatch.setattr("app.main.Tries", lambda: Tries(clock, sleep))
    with served(sqlite_url) as lite:
        key = made(lite, "ada")["key"]
        wrong = ({"Authorization": f"Bearer {KEY}-{number}"} for number in range(30))
        found = [lite.get("/v1/jobs", headers=one) for one in wrong]
        assert {answer.status_code for answer in found} == {401, 429}
        late = found[-1]
        assert slug(late) == "too-many-tries"
        assert int(late.headers["Retry-After"]) >= 1
        assert len(waited) >= LONGEST
        door = {"url": f"{lite.base_url}/sign-in", "trust_env": False}
        assert httpx.post(data={"key": "guessed"}, **door).status_code == 429
        assert lite.get("/v1/jobs").status_code == 200  # it has been good from here
        with client(lite, key) as ada:
            clock.now += float(late.headers["Retry-After"])
            assert ada.get("/v1/jobs").status_code == 200  # for the first time, in its turn
            assert httpx.post(data={"key": key}, **door).status_code == 303


def test_a_right_key_that_comes_many_times_at_once_is_one_try(lite: httpx.Client) -> None:
    with someone(lite, "ada") as ada, ThreadPoolExecutor(40) as pool:
        found = list(pool.map(lambda _: ada.get("/v1/tasks").status_code, range(80)))
    assert set(found) == {200}


def test_behind_a_proxy_each_address_has_its_own_turns(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Time()
    monkeypatch.setattr("app.main.Tries", lambda: Tries(clock, lambda _: asyncio.sleep(0)))
    with served(sqlite_url) as lite:
        wrong = {"Authorization": "Bearer wrong"}
        for _ in range(30):
            last = lite.get("/v1/jobs", headers=wrong | {"X-Forwarded-For": "2001:db8::1"})
        assert last.status_code == 429
        beside = lite.get("/v1/jobs", headers=wrong | {"X-Forwarded-For": "2001:db8::2"})
        assert beside.status_code == 429  # the same network
        assert lite.get("/v1/jobs", headers=wrong | {"X-Forwarded-For": "192.0.2.1"}).status_code == 401


def test_a_stream_ends_with_its_key(lite: httpx.Client) -> None:
    key = made(lite, "ada")
    stream = {"Accept": "text/event-stream"}
    with client(lite, key["key"]) as ada:
        mine = job(ada)
        with ada.stream("GET", f"/v1/jobs/{mine}/events", headers=stream) as told:
            lines = told.iter_lines()
            assert any("job-submitted" in line for line in lines)
            lite.delete(f"/v1/keys/{key['id']}")
            lite.post(f"/v1/jobs/{mine}/pause")
            assert "job-paused" not in "".join(lines)
