"""`python -m worker` answers on the command line before it trains anything."""

import sys

import pytest

from worker.__main__ import main


def test_the_worker_says_what_it_is_and_what_it_reads(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for argument, status, words in (("--help", 0, "LRTUNE_DATABASE_URL"), ("--devise", 2, "--devise")):
        monkeypatch.setattr(sys, "argv", ["worker", argument])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        assert (ended.value.code, words in said.out + said.err) == (status, True)
