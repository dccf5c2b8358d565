"""The tutorial for a task of one's own does what it says, block by block, as a reader would do it."""

import json
import re
import shlex
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lrtune.cli.commands import app
from tests import processes
from tests.serving import served

pytestmark = pytest.mark.timeout(300)
ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs/tutorials/your-task.md").read_text()


def block(opening: str) -> list[str]:
    return re.findall(rf"^```{re.escape(opening)}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def test_the_tutorial_from_the_file_to_the_answer(
    tmp_path: Path, sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_tasks.py").write_text(block("python file=my_tasks.py")[0])
    checking, working = block("sh")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    assert CliRunner().invoke(app, shlex.split(checking)[1:]).exit_code == 0

    tasks, program, module = shlex.split(working)
    assert program == "lrtune"
    env = {"LRTUNE_DATABASE_URL": sqlite_url, "LRTUNE_POLL_SECONDS": "0.05"}
    env |= dict([tasks.split("=", 1)])
    with served(sqlite_url) as http:
        worker = processes.start(module, environment=env, log=tmp_path / "worker.log", cwd=tmp_path)
        try:
            until(lambda: http.get("/v1/workers").json()["items"])
            assert "my_tasks:Moons" in {one["name"] for one in http.get("/v1/tasks").json()["items"]}
            made = http.post("/v1/jobs", json=json.loads(block("json")[0]))
            assert made.status_code == 201, made.text
            read = f"/v1/jobs/{made.json()['id']}"
            job = until(lambda: (found := http.get(read).json())["finished_at"] and found)
        finally:
            worker.terminate()
            worker.join()
    assert (job["state"], job["reason"]) == ("succeeded", "")
    assert job["best"]["value"] < 0.6


def until(found):
    end = time.monotonic() + 120
    while not (answer := found()):
        assert time.monotonic() < end
        time.sleep(0.1)
    return answer
