"""The tutorial for a task of one's own does what it says, block by block, as a reader would do it."""

import json
import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.serving import served

pytestmark = pytest.mark.timeout(300)
ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs/tutorials/your-task.md").read_text()


def block(opening: str) -> list[str]:
    return re.findall(rf"^```{re.escape(opening)}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def test_the_tutorial_from_the_file_to_the_answer(tmp_path: Path, sqlite_url: str) -> None:
    (tmp_path / "my_tasks.py").write_text(block("python file=my_tasks.py")[0])
    checking, working = block("sh")
    env = os.environ | {"PYTHONPATH": str(ROOT), "LRTUNE_DATABASE_URL": sqlite_url, "LRTUNE_POLL_SECONDS": "0.05"}

    _, *arguments = shlex.split(checking)
    command = [sys.executable, "-c", "from lrtune.cli.commands import app; app()", *arguments]
    checked = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr

    tasks, path, *_ = shlex.split(working.replace("/path/to/your/folder", str(tmp_path)))
    env |= dict(one.split("=", 1) for one in (tasks, path))
    with served(sqlite_url) as http:
        worker = subprocess.Popen(
            [sys.executable, "-m", "worker"], cwd=ROOT, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            until(lambda: http.get("/v1/workers").json()["items"])
            assert "my_tasks:Moons" in {one["name"] for one in http.get("/v1/tasks").json()["items"]}
            made = http.post("/v1/jobs", json=json.loads(block("json")[0]))
            assert made.status_code == 201, made.text
            read = f"/v1/jobs/{made.json()['id']}"
            job = until(lambda: (found := http.get(read).json())["finished_at"] and found)
        finally:
            worker.terminate()
            worker.wait(timeout=30)
    assert (job["state"], job["reason"]) == ("succeeded", "")
    assert job["best"]["value"] < 0.6


def until(found):
    end = time.monotonic() + 120
    while not (answer := found()):
        assert time.monotonic() < end
        time.sleep(0.1)
    return answer
