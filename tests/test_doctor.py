"""`lrtune doctor`: what is wrong is said in words, with what to do, and with an exit code."""

import json
from pathlib import Path

import pytest
from sqlalchemy import text
from typer.testing import CliRunner

import app.doctor
import migrations
import worker.process
from app.doctor import Finding, findings
from app.settings import settings
from lrtune.cli.commands import app as cli
from lrtune.errors import Invalid, Unavailable
from lrtune.store import Database, workers
from tests.serving import KEY, served


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LRTUNE_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("LRTUNE_API_KEY", KEY)
    monkeypatch.setenv("LRTUNE_URL", "http://127.0.0.1:9")
    monkeypatch.setattr(app.doctor, "GPU", "raise ModuleNotFoundError(\"No module named 'torch'\")")


def found(monkeypatch: pytest.MonkeyPatch, url: str) -> dict[str, list[Finding]]:
    monkeypatch.setenv("LRTUNE_DATABASE_URL", url)
    by = dict[str, list[Finding]]()
    for one in findings():
        by.setdefault(one.about, []).append(one)
    return by


def test_a_service_that_is_well_has_nothing_wrong(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with served(database_url) as service:
        monkeypatch.setenv("LRTUNE_URL", str(service.base_url))
        seen = found(monkeypatch, database_url)
    assert {one.is_ for about in seen.values() for one in about} <= {"well", "to note"}
    assert [one.is_ for one in seen["server"] + seen["migrations"] + seen["clock"]] == ["well"] * 3
    assert "lrtune worker" in seen["workers"][0].words


def test_a_job_that_no_worker_can_train_is_named(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with served(database_url) as service:
        job = service.post("/v1/jobs", json={"task": "digits"}).json()["id"]
    database = Database(database_url)
    with database.write() as tx:
        workers.sign_in(tx, "w", host="gpu-1", pid=1, device="cuda:0", tasks=["vision"])
    database.dispose()
    (one,) = found(monkeypatch, database_url)["jobs"]
    assert one.is_ == "wrong"
    assert job in one.words
    assert "has the task digits" in one.words


@pytest.mark.parametrize(("revision", "words"), [("0015", "lrtune migrate"), ("base", "lrtune migrate")])
def test_an_old_schema_is_said_with_what_brings_it_up(
    database_url: str, revision: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    migrations.downgrade(database_url, revision)
    (one,) = found(monkeypatch, database_url)["migrations"]
    assert (one.is_, words in one.words) == ("wrong", True)


@pytest.mark.parametrize(
    ("url", "state", "words"),
    [
        ("postgresql+psycopg://a:secret@127.0.0.1:9/x", "wrong", "does not answer"),
        ("postgresql:/x", "wrong", "accepted is sqlite:///"),
        ("sqlite:///not/there.db", "to note", "makes it as it starts"),
    ],
)
def test_a_database_that_is_away_is_said_without_its_password(
    url: str, state: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (one,) = found(monkeypatch, url)["database"]
    assert (one.is_, words in one.words, "secret" in one.words) == (state, True, False)


@pytest.mark.parametrize("url", ["mysql://here", "postgres://a:hidden@here/x", "nonsense"])
def test_an_address_of_no_database_of_ours_is_said_among_the_settings(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (one,) = found(monkeypatch, url)["settings"]
    assert (one.is_, "hidden" in one.words) == ("wrong", False)
    assert one.words.startswith("LRTUNE_DATABASE_URL: accepted is an address such as sqlite:///")


def test_a_damaged_file_is_found(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = Path(sqlite_url.removeprefix("sqlite:///"))
    path.write_bytes(path.read_bytes()[:4096] + b"\xff" * (path.stat().st_size - 4096))
    assert "wrong" in {one.is_ for one in found(monkeypatch, sqlite_url)["database"]}


def test_a_clock_that_is_off_is_found_on_sqlite(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    database = Database(sqlite_url)
    with database.write() as tx:
        workers.sign_in(tx, "w", host="there", pid=1, device="cpu", tasks=[])
        tx.execute(text("update workers set seen_at = datetime('now', '+1 hour')"))
    database.dispose()
    (one,) = found(monkeypatch, sqlite_url)["clock"]
    assert (one.is_, "3600 seconds behind" in one.words or "3599 seconds behind" in one.words) == ("wrong", True)


def test_a_full_disk_is_found(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app.doctor, "LITTLE", 2**60)
    assert {one.is_ for one in found(monkeypatch, sqlite_url)["disk"]} == {"wrong"}


def test_a_torch_that_does_not_start_is_found(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app.doctor, "GPU", "raise OSError('libcudart.so.12: cannot open shared object file')")
    (one,) = found(monkeypatch, sqlite_url)["gpu"]
    assert (one.is_, "libcudart" in one.words) == ("wrong", True)


def test_a_setting_that_cannot_be_is_named_with_what_was_found_and_a_secret_is_not_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LRTUNE_MAX_BODY_BYTES", "many")
    monkeypatch.setenv("LRTUNE_WEBHOOK_SECRET", "tooshort")
    monkeypatch.setenv("LRTUNE_SLOTS", "0")
    monkeypatch.setenv("LRTUNE_LOG", "xml")
    body, secret, log, slots = sorted(findings(), key=lambda one: one.words.startswith(("LRTUNE_LOG", "LRTUNE_SLOTS")))
    assert (body.is_, body.words[:22], body.words[-14:]) == ("wrong", "LRTUNE_MAX_BODY_BYTES:", "; found 'many'")
    assert secret.words.startswith("LRTUNE_WEBHOOK_SECRET:")
    assert "tooshort" not in secret.words
    assert (log.is_, log.words[:11]) == ("wrong", "LRTUNE_LOG:"), "once, though server and worker both read it"
    assert slots.words == "LRTUNE_SLOTS: Input should be auto, or a whole number from 1 to 64; found '0'"
    for program in (settings, worker.process.start):
        with pytest.raises(SystemExit) as ended:
            program()
        assert ended.value.code == 2, "as the README says of what is refused"
    said = capsys.readouterr().err
    assert said.count("found 'many'") == said.count("found '0'") == 1
    assert "tooshort" not in said


def test_a_server_that_does_not_answer_is_noted_with_what_to_do(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (one,) = found(monkeypatch, sqlite_url)["server"]
    assert (one.is_, "`lrtune serve`" in one.words) == ("to note", True)


def test_the_command_prints_it_and_ends_with_its_code(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LRTUNE_DATABASE_URL", sqlite_url)
    assert CliRunner().invoke(cli, ["doctor", "--json"]).exit_code == 0
    assert {"about": "migrations", "is": "well"}.items() <= json.loads(capfd.readouterr().out)[2].items()
    migrations.downgrade(sqlite_url, "0015")
    assert CliRunner().invoke(cli, ["doctor"]).exit_code == 1
    assert "wrong   migrations" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("url", "kind", "words"),
    [
        ("sqlite:////nowhere/at/all.db", Unavailable, "does not answer: unable to open database file; is it running"),
        ("postgresql+psycopg://ada:pw@127.0.0.1:1/db", Unavailable, "does not answer: connection failed: .*; is it"),
        ("postgres://ada:pw@host/db", Invalid, r"accepted is an address such as .* or postgresql\+psycopg://"),
        ("nonsense", Invalid, "accepted is an address such as"),
    ],
)
def test_a_schema_that_cannot_be_brought_up_to_date_is_said_in_words(
    url: str, kind: type[Exception], words: str
) -> None:
    with pytest.raises(kind, match=words) as refused:
        migrations.upgrade_by_hand(url)
    assert "pw" not in str(refused.value)
