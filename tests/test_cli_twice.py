"""A script of the command line that runs twice, as those of a CI do."""

import json

import pytest
from typer.testing import CliRunner

from lrtune.cli.commands import app
from tests.serving import KEY, served


def test_what_is_submitted_twice_with_one_idempotency_key_is_one_job(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with served(sqlite_url) as service:
        monkeypatch.setenv("LRTUNE_URL", str(service.base_url))
        monkeypatch.setenv("LRTUNE_API_KEY", KEY)
        asked = ["submit", "digits", "--name", "nightly", "--idempotency-key", "commit-1", "--json"]
        first, again = (json.loads(CliRunner().invoke(app, asked).stdout)["id"] for _ in range(2))
        other = CliRunner().invoke(app, [*asked, "--steps", "40"])
        assert first == again
        assert other.exit_code == 2
        assert "came before with another body" in other.output
        assert json.loads(CliRunner().invoke(app, ["show", "nightly", "--json"]).stdout)["id"] == first
