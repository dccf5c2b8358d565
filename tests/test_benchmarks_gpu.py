"""The script for a GPU, in miniature on a CPU: each part runs, and one that fails costs only its rows."""

import json
import sys
from pathlib import Path

import pytest

from benchmarks import gpu


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["gpu", *arguments])
    return gpu.main()


def test_what_it_cannot_do_is_said_in_words(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    assert run(monkeypatch, "--device", "cpu", "--only", "a,x") == 2
    assert "--only: found x; accepted are a, b, c, d, e, f, g" in capsys.readouterr().err
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert run(monkeypatch) == 2
    assert "--device: found cuda; torch finds no GPU here, accepted is cpu" in capsys.readouterr().err


def test_its_parts_fit_into_six_minutes():
    assert sum(gpu.SECONDS.values()) <= 360
    assert gpu.SECONDS.keys() == gpu.PARTS.keys()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_all_of_it_runs_in_miniature(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert run(monkeypatch, "--device", "cpu", "--small", "--json", str(tmp_path / "found.json")) == 0
    found = json.loads((tmp_path / "found.json").read_text())
    assert {row["part"] for row in found["rows"]} == set(gpu.PARTS)
    assert [row for row in found["rows"] if row["what"] == "the part" or row["fine"] is False] == []
    assert len([row for row in found["rows"] if row["part"] == "a"]) == 8


@pytest.mark.slow
def test_a_part_that_fails_or_takes_too_long_costs_only_its_rows(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setitem(gpu.SECONDS, "f", 0.1)
    into = tmp_path / "found.json"
    assert run(monkeypatch, "--device", "cpu", "--small", "--only", "f,g", "--json", str(into)) == 1
    first, *rest = json.loads(into.read_text())["rows"]
    assert (first["part"], first["fine"]) == ("f", False)
    assert first["found"].startswith("was stopped after its 1 s")
    assert {row["part"] for row in rest} == {"g"}
