"""Signing in with an OpenID Connect provider: whose session begins, and whose does not."""

import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from joserfc.jwk import RSAKey

from tests.openid_provider import Provider, provider
from tests.people import made
from tests.serving import KEY, served

GRACE = "grace@example.org"


@pytest.fixture(scope="module")
def running() -> Iterator[Provider]:
    with provider() as found:
        yield found


@pytest.fixture
def there(running: Provider) -> Provider:
    running.claims, running.changed, running.refuse = {"email": "ada@example.org"}, {}, ""
    running.signing = running.key
    return running


def settings(there: Provider, **more: Any) -> dict[str, Any]:
    usual = {"oidc_issuer": there.issuer, "oidc_client_secret": "a secret of the two", "oidc_name": "Example"}
    return usual | {"oidc_admins": (GRACE,)} | more


@pytest.fixture
def service(there: Provider, database_url: str) -> Iterator[httpx.Client]:
    with served(database_url, **settings(there)) as found:
        yield found


@pytest.fixture
def lite(there: Provider, sqlite_url: str) -> Iterator[httpx.Client]:
    with served(sqlite_url, **settings(there)) as found:
        yield found


def browser(service: httpx.Client) -> httpx.Client:
    """Somebody without a key, whose browser goes where it is sent."""
    page = {"accept": "text/html"}
    return httpx.Client(base_url=service.base_url, headers=page, follow_redirects=True, timeout=60, trust_env=False)


def sign_in(who: httpx.Client, target: str = "/") -> httpx.Response:
    return who.get("/sign-in/openid", params={"next": target})


def test_who_signs_in_at_the_provider_has_a_session_as_that_person(service: httpx.Client) -> None:
    with browser(service) as ada:
        assert "Sign in with Example" in ada.get("/").text
        answer = sign_in(ada, "/submit?task=digits")
        assert answer.status_code == 200
        assert 'content="0; url=/submit?task=digits"' in answer.text
        me = ada.get("/v1/me").json()
        assert (me["person"], me["scopes"]) == ("ada@example.org", ["read", "submit", "work"])
        assert ada.get("/submit").status_code == 200
        assert ada.get("/keys").status_code == 403
        sign_in(ada)
    (key,) = service.get("/v1/keys").json()["items"]
    assert (key["person"], key["name"], key["beginning"]) == ("ada@example.org", "sign-in with Example", "(sign-in)")
    actors = [entry["actor"] for entry in service.get("/v1/audit").json()["items"]]
    assert actors == ["ada@example.org"]


def test_sessions_end_when_their_key_is_revoked_and_signing_in_makes_another(lite: httpx.Client) -> None:
    with browser(lite) as ada:
        sign_in(ada)
        (key,) = lite.get("/v1/keys").json()["items"]
        assert lite.delete(f"/v1/keys/{key['id']}").status_code == 204
        assert ada.get("/v1/me").status_code == 401
        sign_in(ada)
        assert ada.get("/v1/me").status_code == 200


def test_a_key_that_somebody_made_is_no_session_of_the_provider(lite: httpx.Client) -> None:
    made(lite, "ada@example.org", ("admin",))
    with browser(lite) as ada:
        sign_in(ada)
        assert "admin" not in ada.get("/v1/me").json()["scopes"]


def test_those_whom_the_settings_name_are_admins(there: Provider, lite: httpx.Client) -> None:
    there.claims = {"email": GRACE, "email_verified": True}
    with browser(lite) as grace:
        sign_in(grace)
        assert grace.get("/keys").status_code == 200


def test_who_is_no_admin_any_more_loses_what_an_admins_session_could(there: Provider, sqlite_url: str) -> None:
    there.claims = {"email": GRACE}
    for admins, is_one in (((GRACE,), True), ((), False)):
        with served(sqlite_url, **settings(there, oidc_admins=admins)) as service, browser(service) as grace:
            sign_in(grace)
            assert ("admin" in grace.get("/v1/me").json()["scopes"]) is is_one
    with served(sqlite_url) as service:
        revoked = {tuple(key["scopes"]): key["revoked_at"] for key in service.get("/v1/keys").json()["items"]}
    assert revoked[("admin",)] is not None


def test_a_session_of_who_is_no_admin_any_more_ends_at_the_servers_next_start(there: Provider, sqlite_url: str) -> None:
    people, cookies = (GRACE, "ada@example.org"), []
    with served(sqlite_url, **settings(there)) as service:
        for person in people:
            there.claims = {"email": person}
            with browser(service) as one:
                sign_in(one)
                cookies.append(one.cookies)
    for admins, codes in (((GRACE,), [200, 200]), ((), [401, 200])):
        with served(sqlite_url, **settings(there, oidc_admins=admins)) as service:
            found = [httpx.get(f"{service.base_url}/v1/me", cookies=one, trust_env=False) for one in cookies]
            assert [answer.status_code for answer in found] == codes


@pytest.mark.parametrize(
    ("claims", "changed", "said"),
    [
        ({"email": "ada@example.org", "email_verified": False}, {}, "has not verified the address"),
        ({"email": "Ada Lovelace"}, {}, "accepted are letters, digits"),
        ({"email": "admin"}, {}, "which is who has this server"),
        ({}, {}, "accepted are letters, digits"),
        ({"email": "ada@example.org"}, {"aud": "another"}, "did not sign you in"),
        ({"email": "ada@example.org"}, {"iss": "https://elsewhere.example"}, "did not sign you in"),
        ({"email": "ada@example.org"}, {"exp": 1}, "did not sign you in"),
        ({"email": "ada@example.org"}, {"nonce": "of another time"}, "did not sign you in"),
    ],
)
def test_a_token_that_does_not_say_who_this_is_begins_no_session(
    there: Provider, lite: httpx.Client, claims: dict[str, Any], changed: dict[str, Any], said: str
) -> None:
    there.claims, there.changed = claims, changed
    refused(lite, said)


def refused(lite: httpx.Client, said: str) -> None:
    with browser(lite) as nobody:
        answer = sign_in(nobody)
        assert answer.status_code == 401
        (alert,) = re.findall(r'role="alert">([^<]*)', answer.text)
        assert said in alert
        assert nobody.get("/v1/me").status_code == 401
    assert lite.get("/v1/keys").json()["items"] == []


def test_a_token_that_another_signed_begins_no_session(there: Provider, lite: httpx.Client) -> None:
    there.signing = RSAKey.generate_key(2048, parameters={"kid": "one"})
    refused(lite, "did not sign you in")


def test_who_is_refused_by_the_provider_hears_why(there: Provider, lite: httpx.Client) -> None:
    there.refuse = "not in the <b>team</b>"
    refused(lite, "Example did not sign you in: not in the &lt;b&gt;team&lt;/b&gt;")


def test_an_answer_that_nobody_asked_for_begins_no_session(lite: httpx.Client) -> None:
    """Of another's browser: what they began there does not sign anybody in here."""
    with browser(lite) as ada, browser(lite) as eve:
        ada.follow_redirects = False
        at_provider = ada.get("/sign-in/openid").headers["location"]
        back = httpx.get(at_provider, trust_env=False).headers["location"]
        assert eve.get(back).status_code == 401
        assert eve.get("/v1/me").status_code == 401
        assert ada.get(back).status_code == 200
        assert ada.get(back).status_code == 401, "a code is good once"


def test_nobody_is_sent_elsewhere_after_it(lite: httpx.Client) -> None:
    with browser(lite) as ada:
        assert 'content="0; url=/"' in sign_in(ada, "//elsewhere.example/").text


def test_a_provider_that_is_away_is_said_and_keys_go_on(sqlite_url: str, there: Provider) -> None:
    with served(sqlite_url, **settings(there, oidc_issuer="http://127.0.0.1:9")) as service, browser(service) as ada:
        answer = sign_in(ada)
        assert answer.status_code == 502
        assert "Example cannot be reached" in answer.text
        ada.post("/sign-in", data={"key": KEY})
        assert ada.get("/v1/me").status_code == 200


def test_without_a_provider_there_is_nothing_of_it(sqlite_url: str) -> None:
    with served(sqlite_url) as service, browser(service) as nobody:
        assert "Sign in with" not in nobody.get("/sign-in").text
        for path in ("/sign-in/openid", "/sign-in/openid/return"):
            assert nobody.get(path).status_code == 404
