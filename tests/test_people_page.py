"""What people with keys of their own see and may do at the page, and when their sessions end."""

import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

import app.keys
from tests.people import client, job, made, someone, upload
from tests.serving import KEY, served, signed_in
from tests.test_web import token

PAGES = ("/", "/datasets", "/workers", "/submit")


@pytest.fixture
def service(sqlite_url: str, tmp_path: Path) -> Iterator[httpx.Client]:
    with served(sqlite_url, data_dir=tmp_path / "data") as found:
        yield found


def test_a_session_is_somebodys_and_may_what_their_key_may(service: httpx.Client) -> None:
    with someone(service, "ada") as ada, signed_in(service, made(service, "bob", ["read"])["key"]) as bob:
        hers = job(ada)
        shown = bob.get(f"/jobs/{hers}").text
        assert "by ada" in shown
        assert "Cancel…" not in shown
        for path, words in ((f"/jobs/{hers}/cancel", "submit"), ("/submit", "submit"), ("/keys", "admin")):
            answer = bob.post(path, data={"token": token(bob)})
            assert answer.status_code == 403
            assert words in answer.text
        assert bob.get("/keys").status_code == 403
        assert 'href="/keys"' not in bob.get("/").text
        assert bob.post("/sign-out", data={"token": token(bob)}).status_code == 303


def test_a_form_makes_a_job_of_who_sent_it_and_verbs_are_for_its_owner(service: httpx.Client) -> None:
    with signed_in(service, made(service, "ada")["key"]) as ada, signed_in(service, made(service, "bob")["key"]) as bob:
        fields = {"/task/name": "digits", "/schedules/cosine": "on", "/optimizers/adamw": "on"}
        hers = ada.post("/submit", data={"token": token(ada)} | fields).headers["location"]
        assert service.get(f"/v1{hers}").json()["owner"] == "ada"
        assert bob.post(f"{hers}/cancel", data={"token": token(bob)}).status_code == 403
        assert "Cancel…" in ada.get(hers).text
        assert "Cancel…" not in bob.get(hers).text
        assert ada.post(f"{hers}/cancel", data={"token": token(ada)}).status_code == 303
        assert service.get(f"/v1{hers}").json()["reason"] == "cancelled by ada"
        assert "ada</a>" in bob.get("/").text
        assert hers in bob.get("/", params={"owner": "ada"}).text
        assert hers not in bob.get("/", params={"owner": "bob"}).text


def test_a_revoked_key_ends_the_sessions_that_it_began_and_no_others(
    service: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, other = made(service, "ada"), made(service, "ada")
    with (
        signed_in(service, key["key"]) as gone,
        signed_in(service, other["key"]) as stays,
        signed_in(service, KEY) as admin,
    ):
        assert gone.get("/").status_code == 200
        service.delete(f"/v1/keys/{key['id']}")
        for path in PAGES:
            assert gone.get(path).headers["location"].startswith("/sign-in"), path
        assert gone.get("/v1/jobs", headers={"Accept": "application/json"}).status_code == 401
        assert gone.get("/sign-in").status_code == 200
        assert gone.post("/sign-in", data={"key": key["key"]}).status_code == 401
        assert (stays.get("/").status_code, admin.get("/").status_code) == (200, 200)


def test_pages_show_nothing_of_others_where_nothing_is_shared(sqlite_url: str, tmp_path: Path) -> None:
    with (
        served(sqlite_url, data_dir=tmp_path / "data", shared=False) as service,
        someone(service, "ada") as ada,
        signed_in(service, made(service, "bob")["key"]) as bob,
        signed_in(service, KEY) as admin,
    ):
        hers = job(ada, name="a secret name")
        data = upload(ada, "secret.csv").json()["id"]
        for path in (*PAGES, f"/jobs/{hers}", f"/jobs/{hers}/live", f"/datasets/{data}", "/datasets/secret.csv"):
            answer = bob.get(path)
            assert "secret" not in answer.text or "secret" in path, path
            assert answer.status_code == (200 if path in PAGES else 404), path
        for part in ("summary", "why", "table", "log", "export", "trials/0"):
            assert bob.get(f"/jobs/{hers}/{part}").status_code == 404
        assert bob.post(f"/jobs/{hers}/cancel", data={"token": token(bob)}).status_code == 404
        assert "a secret name" in admin.get("/").text
        assert "secret.csv" in admin.get("/datasets").text


def test_an_admin_makes_and_revokes_keys_at_the_page_and_sees_who_did_what(service: httpx.Client) -> None:
    with signed_in(service, KEY) as admin:
        assert "No key yet" in admin.get("/keys").text
        fields = {"person": "ada", "name": "<b>laptop", "scopes": ["read", "submit"], "token": token(admin)}
        answer = admin.post("/keys", data=fields)
        (key,) = re.findall(r'<code id="made">(lrt_[^<]+)</code>', answer.text)
        assert answer.headers["cache-control"] == "no-store"
        with client(service, key) as ada:
            assert ada.get("/v1/me").json()["scopes"] == ["read", "submit"]
            shown = admin.get("/keys").text
            assert key not in shown
            assert "&lt;b&gt;laptop" in shown
            (revoke,) = re.findall(r'action="(/keys/key-\w+/revoke)"', shown)
            known = service.get("/v1/keys").json()["items"][0]["id"]
            assert f"<code>{known}</code>" in shown, "as `lrtune keys revoke` and the audit log call it"
            assert admin.post(revoke).status_code == 403  # not from a page of ours
            assert admin.post(revoke, data={"token": token(admin)}).status_code == 303
            assert ada.get("/v1/me").status_code == 401
        assert "revoked" in admin.get("/keys").text
        wrong = admin.post("/keys", data={"person": "a b", "name": "kept", "token": token(admin)})
        assert wrong.status_code == 422
        assert all(words in wrong.text for words in ("letters, digits", "at least one", 'value="kept"'))
        log = admin.get("/keys/audit").text
        assert "key made" in log
        assert "key revoked" in log


def test_an_admin_removes_somebody_at_the_page_but_neither_themselves_nor_the_first_key(service: httpx.Client) -> None:
    with signed_in(service, KEY) as admin, signed_in(service, made(service, "ada.l@x+y")["key"]) as ada:
        service.put("/v1/people/admin", json={"weight": 2})
        shown = admin.get("/keys").text
        (path,) = re.findall(r'action="(/keys/people/[^"]+/remove)"', shown)
        (opens,) = re.findall(r'popovertarget="(remove-\d+)" aria-label="Remove ada', shown)
        assert f'<div popover id="{opens}"' in shown
        assert admin.post(path).status_code == 403  # not from a page of ours
        assert ada.post(path, data={"token": token(ada)}).status_code == 403
        assert admin.post(path, data={"token": token(admin)}).status_code == 303
        assert ada.get("/").status_code == 303
        assert "ada.l" not in admin.get("/keys").text
        refused = admin.post("/keys/people/admin/remove", data={"token": token(admin)})
        assert (refused.status_code, "that is you" in refused.text) == (409, True)


def test_the_session_of_a_key_that_another_server_revoked_ends_within_seconds(
    service: httpx.Client, sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = made(service, "ada")
    with served(sqlite_url) as elsewhere, signed_in(elsewhere, key["key"]) as ada:
        assert ada.get("/").status_code == 200
        service.delete(f"/v1/keys/{key['id']}")
        monkeypatch.setattr(app.keys, "FRESH", 0.0)  # as if these seconds had passed
        assert ada.get("/").status_code == 303
