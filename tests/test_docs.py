"""The documentation cannot lie: settings, families, endpoints, commands, paths and code blocks are held to the code."""

import json
import re
import shlex
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import httpx
import pytest
import uvicorn
from typer.main import get_command

import app.settings
import worker.loop
import worker.settings
from app.main import create_app
from lrtune.cli.commands import app as cli
from lrtune.client import Client
from lrtune.export import FORMATS
from lrtune.optimizers import OPTIMIZERS
from lrtune.schedules import FAMILIES
from lrtune.space import knobs
from lrtune.task import Task
from lrtune.wire.job import JobSpec, Training
from lrtune.wire.results import Report, TrialState
from lrtune.wire.strategies import Pruners, Samplers
from lrtune.wire.tasks import BUILT_IN
from worker.loop import Worker
from worker.trainer import Outcome

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
KEY = "a-key-for-the-docs"
CODE = [
    path
    for folder in ("app", "worker", "lrtune", "tests", "migrations")
    for path in (ROOT / folder).rglob("*.py")
    if path != Path(__file__)
]


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def rows(page: str) -> dict[str, str]:
    """The table rows of a page by the first thing in backticks."""
    text = (ROOT / page).read_text()
    return {row[1]: row[0] for row in re.finditer(r"^\| `([^`]+)`.*$", text, re.MULTILINE)}


def spans(text: str) -> set[str]:
    return set(re.findall(r"`([^`\n]+)`", text))


@pytest.mark.parametrize("registry", [FAMILIES, OPTIMIZERS], ids=["families", "optimizers"])
def test_every_family_and_optimizer_has_a_row_with_its_knobs(registry):
    listed = rows("docs/schedules.md")
    for name, cls in registry.items():
        cells = spans(listed[name].split("|")[2])
        assert cells == set(knobs(cls)), name


def test_usual_rates_in_the_docs_are_the_ones_in_the_code():
    for name, row in rows("docs/schedules.md").items():
        if name in OPTIMIZERS:
            usual, searched = (cell.strip() for cell in row.split("|")[3:5])
            assert float(usual) == OPTIMIZERS[name].usual
            assert tuple(float(end) for end in searched.split(" to ")) == OPTIMIZERS[name].rates


@pytest.mark.parametrize("settings", [app.settings.Settings, worker.settings.Settings], ids=["server", "worker"])
def test_every_setting_is_in_the_readme_with_its_default(settings):
    listed = rows("README.md")
    for name, field in settings.model_fields.items():
        default = listed[f"LRTUNE_{name.upper()}"].split("|")[3].strip(" `")
        assert default == ("none" if field.default is None else f"{field.default}".lower().removesuffix(".0")), name


def test_the_readme_names_no_setting_that_nothing_reads():
    code = "\n".join(path.read_text() for path in CODE)
    fields = {f"LRTUNE_{name.upper()}" for one in (app.settings, worker.settings) for name in one.Settings.model_fields}
    assert {name for name in re.findall(r"LRTUNE_[A-Z_]+", README) if name not in fields and name not in code} == set()


def test_every_parameter_of_every_task_is_in_the_readme():
    listed = rows("README.md")
    for name, task in BUILT_IN.items():
        assert spans(listed[name].split("|")[3]) == set(task.params.model_fields), name


def test_every_field_of_a_job_is_in_the_readme():
    named = {name for row in rows("README.md").values() for name in spans(row.split("|")[1])}
    assert {field.alias or name for name, field in JobSpec.model_fields.items()} - {"name"} <= named


def test_every_sampler_and_pruner_is_in_the_readme():
    names = {option.model_fields["name"].default for union in (Samplers, Pruners) for option in get_args(union)}
    assert names <= spans(rows("README.md")["search"])


def test_every_endpoint_is_in_the_readme_and_no_other():
    documented = {
        re.sub(r"\{\w+\}", "{}", span.split()[-1].partition("?")[0])
        for row in rows("README.md").values()
        for span in spans(row.split("|")[1])
        if re.match(r"(GET |POST |PUT |DELETE )?/", span)
    }
    served = {re.sub(r"\{\w+\}", "{}", path) for path in create_app().openapi()["paths"]}
    assert {path for path in served if not any(path.endswith(one) for one in documented)} == set()
    assert {one for one in documented if not any(path.endswith(one) for path in served)} == set()


def test_every_command_is_in_the_readme_and_no_other():
    commands = set(get_command(cli).commands)
    cells = [row.split("|")[1] for name, row in rows("README.md").items() if name.startswith("lrtune ")]
    written = {span.removeprefix("lrtune ").split()[0] for cell in cells for span in spans(cell)}
    assert written == commands


def test_every_method_of_the_client_is_in_the_readme():
    public = {name for name in vars(Client) if not name.startswith("_")} - {"close"}
    assert {name for name in public if f"`{name}`" not in README and f"client.{name}(" not in README} == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
class TestEveryPage:
    def test_its_links_lead_somewhere(self, page):
        targets = [link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text())]
        local = [target for target in targets if target and not target.startswith("http")]
        assert [target for target in local if not (page.parent / target).exists()] == []

    def test_the_make_targets_it_names_exist(self, page):
        targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
        assert set(re.findall(r"(?:`|^)make ([a-z]+)", page.read_text(), re.MULTILINE)) <= targets


def test_every_place_on_the_map_exists():
    named = {span for span in spans((ROOT / "docs/map.md").read_text()) if re.fullmatch(r"[\w/]+(\.py|/|\.md)", span)}
    places = {span for span in named if "/" in span and not span.startswith("decisions")}
    assert len(places) > 15
    assert {place for place in places if not any((ROOT / up / place).exists() for up in ("", "lrtune"))} == set()


@pytest.mark.parametrize("block", blocks("json"))
def test_every_job_of_the_readme_is_one(block):
    job = JobSpec.model_validate_json(block)
    assert JobSpec.model_validate_json(job.model_dump_json()) == job


def trained_at_once(task, trial, *, metric, on_report, **_) -> Outcome:
    """In place of training: a loss that is lowest at a rate of 0.01."""
    value = abs(trial.configuration.learning_rate - 0.01) + 0.001 * (trial.seed % 7)
    on_report(Report(step=trial.horizon, learning_rate=0.0, metrics={metric.name: value}))
    return Outcome(state=TrialState.COMPLETE, value=value, reason="", step=trial.horizon)


@pytest.fixture(scope="module")
def served(tmp_path_factory, sqlite_template) -> Iterator[str]:
    """The URL of a real server with a worker that trains at once."""
    path = tmp_path_factory.mktemp("docs") / "lrtune.db"
    path.write_bytes(sqlite_template.read_bytes())
    url = f"sqlite:///{path}"
    settings = app.settings.Settings(database_url=url, api_key=KEY)
    server = uvicorn.Server(uvicorn.Config(create_app(settings), log_config=None))
    stop = threading.Event()
    with pytest.MonkeyPatch.context() as patch, socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        patch.setattr(worker.loop, "train", trained_at_once)
        working = Worker(
            worker.settings.Settings(database_url=url, poll_seconds=0.01, state_dir=f"{path}.states"), stop
        )
        threads = [threading.Thread(target=server.run, args=([door],)), threading.Thread(target=working.work)]
        for thread in threads:
            thread.start()
        address = f"http://127.0.0.1:{door.getsockname()[1]}"
        wait_for(address)
        yield address
        stop.set()
        server.should_exit = True
        for thread in threads:
            thread.join(timeout=30)


def wait_for(address: str) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            if httpx.get(f"{address}/readyz", trust_env=False).is_success:
                return
        except httpx.TransportError:
            pass
        threading.Event().wait(0.05)
    raise AssertionError("the server did not come up")


def test_the_python_of_the_readme_runs(served, monkeypatch, capsys):
    monkeypatch.setenv("LRTUNE_URL", served)
    monkeypatch.setenv("LRTUNE_API_KEY", KEY)
    names: dict[str, object] = {}
    for block in blocks("python"):
        exec(compile(block, "README.md", "exec"), names)
    assert "0.0" in capsys.readouterr().out


def test_the_curl_of_the_readme_submits_a_job(served):
    (block,) = [block for block in blocks("sh") if block.startswith("curl")]
    written = block.replace("$(cat .lrtune/credentials)", KEY).replace("http://127.0.0.1:8000", served)
    command, silent, url, *options = shlex.split(written.replace("\\\n", " "))
    assert (command, silent) == ("curl", "-s")
    given = list(zip(options[::2], options[1::2], strict=True))
    headers = dict(value.split(": ", 1) for option, value in given if option == "-H")
    (body,) = [value for option, value in given if option == "-d"]
    answer = httpx.post(url, content=body, headers=headers, trust_env=False)
    assert answer.status_code == 201
    assert json.loads(body) == {"task": answer.json()["spec"]["task"]["name"]}


def test_nothing_is_listed_as_missing_that_exists():
    missing = (ROOT / "docs/schedules.md").read_text().partition("## Not there")[2]
    exist = {*FAMILIES, *OPTIMIZERS, *BUILT_IN, *FORMATS, *Training.model_fields}
    exist |= {field.alias or name for name, field in JobSpec.model_fields.items()}
    exist |= {knob for cls in (*FAMILIES.values(), *OPTIMIZERS.values()) for knob in knobs(cls)}
    named = {name for row in missing.splitlines() for name in spans(row.split("|")[1] if "|" in row else "")}
    assert {"lion", "cycle_momentum"} <= named
    assert named & exist == set()


def test_what_schedules_md_says_is_elsewhere_is_there():
    there = (ROOT / "docs/schedules.md").read_text().partition("elsewhere\n")[2].partition("## Not there")[0]
    named = spans(there)
    fields = {field.alias or name for name, field in JobSpec.model_fields.items()}
    commands = {name for name in named if name.startswith("lrtune ")}
    assert named - commands <= fields | {*BUILT_IN, *Training.model_fields, "groups"}
    assert callable(Task.groups)
    known = get_command(cli).commands  # type: ignore[attr-defined]
    for words in map(str.split, commands):
        options = {option for param in known[words[1]].params for option in param.opts}
        assert {word for word in words if word.startswith("-")} <= options
