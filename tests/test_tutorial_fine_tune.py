"""The tutorial about fine-tuning does what it says: its model, its texts and its job, by a real server and worker."""

import re
import shlex
import threading
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from lrtune.cli import commands
from lrtune.client import Client
from lrtune.wire.results import JobState
from lrtune.wire.tasks import HuggingfaceParams
from tests.serving import KEY, served
from worker.loop import Worker
from worker.settings import Settings

TUTORIAL = (Path(__file__).parent.parent / "docs/tutorials/fine-tune.md").read_text()


def test_the_tutorial_does_what_it_says(sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for block in blocks("python"):
        exec(compile(block, "fine-tune.md", "exec"), names)
    (job,) = blocks("json")
    Path("fine-tune.json").write_text(job)
    data_dir, stop = Path(".lrtune/data").resolve(), threading.Event()
    with served(sqlite_url, data_dir=data_dir) as http:
        monkeypatch.setenv("LRTUNE_URL", str(http.base_url))
        monkeypatch.setenv("LRTUNE_API_KEY", KEY)
        settings = Settings(database_url=sqlite_url, data_dir=data_dir, device="cpu", poll_seconds=0.01)
        working = threading.Thread(target=Worker(settings, stop).work)
        working.start()
        try:
            (command,) = blocks("sh")
            program, *arguments = shlex.split(command)
            said = CliRunner().invoke(commands.app, arguments)
        finally:
            stop.set()
            working.join()
        assert (program, said.exit_code) == ("lrtune", 0), said.output
        with Client() as client:
            (done,) = client.list()
            best = client.best(done.id)
    assert done.state is JobState.SUCCEEDED, done.reason
    assert best.confirmed
    assert best.value < 0.5, "the films are told apart: chance is 0.69"


def test_every_parameter_is_explained_with_its_default() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| `?(.*?)`? \|", TUTORIAL, re.MULTILINE))
    fields = HuggingfaceParams.model_fields.items()
    defaults = {name: "none" if one.default is None else one.default for name, one in fields}
    assert rows == {
        name: "needed" if one.is_required() else f"{defaults[name]:g}" if name == "layer_decay" else str(defaults[name])
        for name, one in fields
    }


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", TUTORIAL, re.MULTILINE | re.DOTALL)
