"""Keys and sessions: which key will do, and when a session is over."""

from pathlib import Path

import httpx
import pytest
from fastapi.testclient import TestClient

from app.main import create_app
from app.settings import Settings
from lrtune.errors import Unauthorized
from tests.serving import KEY, served
from tests.test_web import token


def test_a_session_that_was_signed_out_of_is_over_for_whoever_has_its_cookie_also_after_a_restart(
    sqlite_url: str, tmp_path: Path
) -> None:
    settings = {"credentials": tmp_path / "credentials"}
    with served(sqlite_url, **settings) as service:
        stolen, others = (httpx.post(f"{service.base_url}/sign-in", data={"key": KEY}).cookies for _ in range(2))
        with httpx.Client(base_url=service.base_url, cookies=stolen) as browser:
            assert browser.get("/v1/jobs").status_code == 200
            assert browser.post("/sign-out", data={"token": token(browser)}).status_code == 303
        for cookies, status in ((stolen, 401), (others, 200)):
            assert httpx.get(f"{service.base_url}/v1/jobs", cookies=cookies).status_code == status
    kept = tmp_path / "signed-out"
    assert kept.stat().st_mode & 0o777 == 0o600
    assert next(iter(stolen.values())) not in kept.read_text()
    with served(sqlite_url, **settings) as service:
        for cookies, status in ((stolen, 401), (others, 200)):
            assert httpx.get(f"{service.base_url}/v1/jobs", cookies=cookies).status_code == status


def test_those_who_signed_out_are_forgotten_once_their_time_is_over(sqlite_url: str, tmp_path: Path) -> None:
    (tmp_path / "signed-out").write_text(f"1000 {'0' * 64}\nnonsense\n99999999999 {'1' * 64}\n")
    with served(sqlite_url, credentials=tmp_path / "credentials") as service:
        assert service.get("/healthz").status_code == 200
        assert (tmp_path / "signed-out").read_text() == f"99999999999 {'1' * 64}\n"


@pytest.mark.parametrize("key", ["x", "fifteen-letters"])
def test_a_short_key_ends_the_server_at_its_start_in_words(
    key: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LRTUNE_API_KEY", key)
    with pytest.raises(SystemExit) as ended:
        create_app()
    said = capsys.readouterr().err
    assert ended.value.code == 2
    assert said.startswith(f"LRTUNE_API_KEY: found {len(key)} characters; accepted are 16 or more: python -c")
    assert f"'{key}'" not in said


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        (
            "DATABASE_URL",
            "sqlite:///{0}/file/lrtune.db",
            "found {0}/file/lrtune.db, and nothing can be written in {0}",
        ),
        ("CREDENTIALS", "{0}/file/credentials", "found {0}/file/credentials, and nothing can be written in {0}"),
        ("DATABASE_URL", "nonsense", "accepted is an address such as sqlite:///.lrtune/lrtune.db or postgresql"),
        ("DATABASE_URL", "postgres://ada:pw@host/db", "accepted is an address such as sqlite:///.lrtune/lrtune.db or"),
        ("DATABASE_URL", "mysql://host/db", "accepted is an address such as sqlite:///.lrtune/lrtune.db or postgresql"),
    ],
)
def test_a_server_that_cannot_write_where_it_must_ends_at_its_start_in_words(
    variable: str,
    value: str,
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(f"LRTUNE_{variable}", value.format(tmp_path))
    with pytest.raises(SystemExit) as ended:
        create_app()
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith(f"LRTUNE_{variable}: {words.format(tmp_path)}")
    assert [one.name for one in tmp_path.iterdir()] == ["file"], "nothing is made before it starts"


def test_a_key_of_sixteen_characters_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LRTUNE_API_KEY", "sixteen--letters")
    assert Settings().api_key is not None


def test_a_short_key_in_the_credentials_file_is_refused_too(sqlite_url: str, tmp_path: Path) -> None:
    (tmp_path / "credentials").write_text("short\n")
    app = create_app(Settings(database_url=sqlite_url, credentials=tmp_path / "credentials"))
    with pytest.raises(Unauthorized, match="has a key of 5 characters; accepted are 16 or more"), TestClient(app):
        pass
