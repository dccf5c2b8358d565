"""`python -m worker` answers before it trains anything, and begins in a folder that is read-only."""

import os
import subprocess
import sys
from pathlib import Path

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


def test_a_worker_that_cannot_keep_compiled_code_where_it_was_told_trains_and_says_so(tmp_path: Path) -> None:
    """In a container with a read-only root every trial failed: torch makes that folder whether it compiles or not."""
    (tmp_path / "file").write_text("in the way")
    environment = {name: value for name, value in os.environ.items() if name != "TORCHINDUCTOR_CACHE_DIR"}
    begin = "from worker.process import start; start(); import torch; torch.use_deterministic_algorithms(True)"
    done = subprocess.run(
        [sys.executable, "-c", begin],
        env=environment | {"LRTUNE_COMPILE_DIR": str(tmp_path / "file" / "compiled"), "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, "LRTUNE_COMPILE_DIR: nothing can be written there" in done.stderr) == (0, True), (
        done.stderr
    )
