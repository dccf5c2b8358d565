"""What a job says to an operator's command stays a word of it, and no job keeps a worker from the others."""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from lrtune.store import Database, tasks
from lrtune.wire.job import TaskSpec
from tests.serving import slug
from tests.test_command_tasks import FILE, door, submit, work
from worker.commands import find

__all__ = ["door"]

SCRIPT = """
import lrtune

trial = lrtune.trial()
for step in range(1, trial.until + 1):
    if trial.report(step, val_loss=1 / step):
        break
"""


@pytest.fixture(autouse=True)
def _without_torch(door: httpx.Client, tmp_path: Path) -> None:
    """What is trained here matters to no test, and to import torch takes longer than all else."""
    (tmp_path / "here" / "train.py").write_text(SCRIPT)


def rewrite(tmp_path: Path, old: str, new: str) -> None:
    text = FILE.replace(old, new)
    assert text != FILE
    (tmp_path / "here" / "commands.toml").write_text(text)


@pytest.mark.parametrize(
    ("word", "schema"),
    [
        ("{name}", 'type = "string", pattern = "^[a-z-]+$"'),
        ("{name}", 'type = "string", allOf = [{ minLength = 1 }]'),
        ("{name}.py", 'type = "string"'),
        ("{name}{width}", 'type = "string"'),
        ("{empty}{name}", 'type = "string"'),
    ],
)
def test_no_parameter_becomes_an_option_of_the_command(
    door: httpx.Client, sqlite_url: str, tmp_path: Path, word: str, schema: str
) -> None:
    empty = '}\nempty = { type = "string", default = "" }\n'
    text = FILE.replace('"{name}"', json.dumps(word)).replace('type = "string" }', schema + empty)
    (tmp_path / "here" / "commands.toml").write_text(text)
    work(sqlite_url, tmp_path)
    answer = submit(door, task={"name": "llama", "params": {"name": "--output"}})
    assert slug(answer) == "invalid"
    assert answer.json()["errors"][0]["pointer"] == "/task/params/name"
    assert submit(door, task={"name": "llama", "params": {"name": "output"}}).status_code == 201


@pytest.mark.parametrize("value", ["a\0b", "\ud800", float("nan"), ["a", {"\0": 1}]])
def test_what_no_database_keeps_and_no_answer_says_again_is_no_parameter(door: httpx.Client, value: object) -> None:
    body = {"task": {"name": "digits", "params": {"name": value}}}
    answer = door.post("/v1/jobs", content=json.dumps(body), headers={"content-type": "application/json"})
    assert slug(answer) == "invalid"
    assert answer.json()["errors"][0]["pointer"] == "/task/params/name"
    assert TaskSpec(name="llama", params={"name": "a \\u0000 of letters"})


def test_a_parameter_that_is_too_long_for_a_command_ends_in_a_sentence_and_keeps_no_worker_from_other_jobs(
    door: httpx.Client, sqlite_url: str, tmp_path: Path
) -> None:
    work(sqlite_url, tmp_path)
    answer = submit(door, task={"name": "llama", "params": {"name": "x" * 200_000}}, budget={"trials": 1})
    other = submit(door, budget={"trials": 1}).json()["id"]
    work(sqlite_url, tmp_path)
    assert door.get(f"/v1/jobs/{other}").json()["state"] == "succeeded", "the younger job does not wait for it"
    said = [one["message"] for one in door.get(f"/v1/jobs/{answer.json()['id']}/events").json()["items"]]
    assert any("the command cannot be started: " in one for one in said), said


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("name = {", 'data = { type = "string" }\nname = {', "data"),
        ("maximum = 64", "maximum = 3", "4 is greater than the maximum of 3"),
        ('"{name}"]', '"{other}"]\n[llama.params.other]\ntype = "string"\n[llama.old]', "other"),
    ],
)
def test_a_job_that_a_changed_command_no_longer_fits_waits_for_another_worker_and_says_so(
    door: httpx.Client, sqlite_url: str, tmp_path: Path, old: str, new: str, words: str
) -> None:
    work(sqlite_url, tmp_path)
    job = submit(door, budget={"trials": 1}).json()["id"]
    if "other" in new:
        other = FILE.replace('"{name}"', '"{other}"').replace("name = {", "other = {")
        (tmp_path / "here" / "commands.toml").write_text(other)
    else:
        rewrite(tmp_path, old, new)
    work(sqlite_url, tmp_path)
    work(sqlite_url, tmp_path)
    assert door.get(f"/v1/jobs/{job}").json()["state"] == "queued"
    said = [one["message"] for one in door.get(f"/v1/jobs/{job}/events").json()["items"] if one["kind"] == "job-left"]
    assert words in said[0]
    assert len(said) == 1, "it is said once"
    (tmp_path / "here" / "commands.toml").write_text(FILE)
    work(sqlite_url, tmp_path)
    assert door.get(f"/v1/jobs/{job}").json()["state"] == "succeeded"


def test_a_task_of_a_workers_own_of_the_same_name_is_no_commands(
    door: httpx.Client, sqlite_url: str, tmp_path: Path
) -> None:
    work(sqlite_url, tmp_path)
    database = Database(sqlite_url)
    command = find(tmp_path / "here" / "commands.toml")["llama"]
    with database.write() as tx:  # as a worker does that has a class of this name
        tasks.announce(tx, [command.announced("llama").model_copy(update={"command": False})])
    theirs = submit(door, budget={"trials": 1}).json()["id"]
    work(sqlite_url, tmp_path)  # which announces its command again
    mine = submit(door, budget={"trials": 1}).json()["id"]
    work(sqlite_url, tmp_path)
    found: list[Any] = [door.get(f"/v1/jobs/{job}").json()["state"] for job in (theirs, mine)]
    assert found == ["queued", "succeeded"], "the younger job is not kept from its worker"
    database.dispose()


@pytest.mark.parametrize("first", ["llama", "digits"])
def test_the_job_of_higher_priority_is_begun_first_whether_by_a_command_or_by_the_worker(
    door: httpx.Client, sqlite_url: str, tmp_path: Path, first: str
) -> None:
    work(sqlite_url, tmp_path)
    digits = {"task": "digits", "horizon": {"steps": 4}, "confirm": {"top": 0}}
    ids = {}
    for name in ("digits", "llama") if first == "llama" else ("llama", "digits"):
        few = {"budget": {"trials": 2}, "priority": int(name == first)}
        ids[name] = (submit(door, **few) if name == "llama" else door.post("/v1/jobs", json=digits | few)).json()["id"]
    work(sqlite_url, tmp_path)
    found = {name: door.get(f"/v1/jobs/{job}").json() for name, job in ids.items()}
    later, begun = (found[name] for name in ids)
    assert (later["state"], begun["state"]) == ("succeeded", "succeeded")
    assert begun["started_at"] <= later["started_at"]
