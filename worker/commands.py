"""Tasks that are commands: programs of the operator's, named in the file of `LRTUNE_COMMANDS`, run as by `lrtune run`.

A job names one as any other task, so that no code arrives over HTTP. Its parameters reach the command as the words that
name them (`{width}`) and, all of them, as JSON in `LRTUNE_PARAMS`; its script finds the trial with `lrtune.trial()` and
reports over HTTP. So the worker asks the server for these trials too, at `LRTUNE_URL`, as any loop does.
"""

import json
import logging
import math
import re
import threading
import time
import tomllib
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError
from pydantic import BeforeValidator, Field, TypeAdapter, ValidationError, ValidationInfo, model_validator
from pydantic_core import PydanticCustomError
from sqlalchemy.orm import Session

from lrtune.client import Client
from lrtune.command import Launch, launched
from lrtune.errors import JobFinished, LeaseLost, LrtuneError, TaskError, UnknownJob
from lrtune.loop import forget
from lrtune.runner import Options, Runner, installed
from lrtune.store import holds, jobs, leases, workers
from lrtune.wire.configuration import Strict
from lrtune.wire.external import Checkpoints, Handout
from lrtune.wire.job import EXTERNAL, MetricRange
from lrtune.wire.results import OVER, TaskSummary
from lrtune.wire.tasks import BUILT_IN
from worker.parallel import Died
from worker.teams import Here

PLACE = re.compile(r"(?<!\$)\{([A-Za-z_][\w-]*)\}")  # where a parameter stands in a word; ${HOME} is a shell's own
NO_OPTION = r"^(?!-)"  # for a text that may begin a word: what begins with - would be read as an option
BEAT_SECONDS = 10.0  # how often a worker is seen while its command trains
AGAIN_SECONDS = 10.0  # before a server is asked again that could not be asked
log = logging.getLogger("lrtune.worker")
Write = Callable[[Callable[[Session], Any]], Any]  # does a verb of the store in a transaction of its own


def _below(path: object, info: ValidationInfo) -> object:
    """A path of the file, which is relative to the file's own folder."""
    return Path((info.context or {})["folder"], path) if isinstance(path, str | Path) else path


def _open(ends: object) -> object:
    """A range of TOML, which has no null: an infinite end is none."""
    return [None if end in (math.inf, -math.inf) else end for end in ends] if isinstance(ends, list) else ends


Seconds = Annotated[float, Field(strict=False, gt=0)]
BelowFile = Annotated[Path, BeforeValidator(_below), Field(validate_default=True)]


class CommandTask(Strict):
    """One table of the file: how a trial is trained, and what a job may say of it."""

    command: Annotated[list[str], Field(min_length=1)]
    metrics: Annotated[dict[str, Literal["minimize", "maximize"]], Field(min_length=1)]
    steps: Annotated[int, Field(ge=2)]
    summary: str = ""
    params: dict[str, dict[str, Any]] = {}
    ranges: dict[str, Annotated[MetricRange, BeforeValidator(_open)]] = {}
    directory: BelowFile = Path()
    checkpoints: Checkpoints = "none"
    deterministic: bool = False
    folder: BelowFile = Path("checkpoints")
    silence: Seconds | None = None
    grace: Seconds = 30.0
    tries: Annotated[int, Field(ge=1)] = 3
    nodes: Annotated[int, Field(ge=1, le=64)] = 1
    processes: Annotated[int, Field(ge=1, le=64)] = 1  # at each of them

    @model_validator(mode="after")
    def _go_together(self) -> Self:
        for name in (name for word in self.command for name in PLACE.findall(word)):
            if name not in self.params:
                accepted = f"accepted are those of params: {', '.join(self.params) or 'none'}"
                raise PydanticCustomError(
                    "place", "found {name} in the command; {accepted}", _words(f"{{{name}}}", accepted)
                )
        for name in self.ranges:
            if name not in self.metrics:
                accepted = f"accepted are {', '.join(self.metrics)}"
                raise PydanticCustomError("range", "found the range of {name}; {accepted}", _words(name, accepted))
        if self.nodes > 1 and self.checkpoints == "own":
            raise PydanticCustomError(
                "nodes",
                "found checkpoints own over several nodes; accepted are shared, a folder that all see, and none",
            )
        if self.deterministic and self.checkpoints == "none":
            raise PydanticCustomError("kept", "found deterministic without checkpoints; accepted beside own or shared")
        try:
            Draft202012Validator.check_schema(self.schema_of_params())
        except SchemaError as error:
            where = ".".join(map(str, error.absolute_path)).removeprefix("properties.")
            raise PydanticCustomError("schema", "params.{name}: {accepted}", _words(where, error.message)) from None
        return self

    def schema_of_params(self) -> dict[str, Any]:
        """The JSON Schema of all parameters: those without a default are needed, others than these refused."""
        leading = {name for word in self.command if PLACE.match(word) for name in PLACE.findall(word)}
        found = {name: _no_option(one) if name in leading else one for name, one in self.params.items()}
        needed = [name for name, one in found.items() if "default" not in one]
        return {"type": "object", "properties": found, "required": needed, "additionalProperties": False}

    def wrong(self, params: Mapping[str, Any]) -> str:
        """Why a job's parameters do not fit, if they do not: it may be older than the file."""
        found = next(Draft202012Validator(self.schema_of_params()).iter_errors(dict(params)), None)
        missing = ", ".join(name for name in self.params if name not in params)
        if found is None:
            return f"its params have no {missing}" if missing else ""
        return f"params{''.join(f'.{part}' for part in found.absolute_path)}: {found.message[:400]}"

    def with_params(self, params: Mapping[str, Any]) -> list[str]:
        """The words of the command for a job."""
        return [PLACE.sub(lambda place: _word(params[place[1]]), word) for word in self.command]

    def options(self, params: Mapping[str, Any]) -> Options:
        """How it is run for a job."""
        return Options(
            checkpoints=self.checkpoints,
            folder=self.folder,
            silence=self.silence,
            grace=self.grace,
            tries=self.tries,
            deterministic=self.deterministic,
            directory=self.directory,
            environment={"LRTUNE_PARAMS": json.dumps(params)},
        )

    def announced(self, name: str) -> TaskSummary:
        """What the worker says of it when it signs in."""
        return TaskSummary(
            name=name,
            summary=self.summary or " ".join(self.command),
            params=self.schema_of_params(),
            metrics=self.metrics,
            ranges=self.ranges,
            steps=self.steps,
            command=True,
        )


def _lost(tx: Session, job: str, held: Handout, reason: str) -> None:
    """Give up an attempt, a place of which is gone, where it has not been given back by what it had started."""
    with suppress(LeaseLost):
        leases.lose(tx, holds.held(tx, holds.Shown(job, held.trial.number, held.token)).lease, reason=reason)


def _words(name: str, accepted: str) -> dict[str, Any]:
    return {"name": name, "accepted": accepted}


def _no_option(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema of a parameter whose texts begin no option, whatever else it asks of them."""
    if "pattern" not in schema:
        return {"pattern": NO_OPTION} | schema
    return schema | {"allOf": [*schema.get("allOf", ()), {"pattern": NO_OPTION}]}


def _word(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def find(path: Path | None) -> dict[str, CommandTask]:
    """The commands of a file, by their names. Raises TaskError."""
    if path is None:
        return {}
    try:
        tables = tomllib.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise TaskError(f"LRTUNE_COMMANDS: {path}: {error}") from None
    folder = path.absolute().parent
    try:
        found = TypeAdapter(dict[str, CommandTask]).validate_python(tables, context={"folder": folder})
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
        raise TaskError(f"LRTUNE_COMMANDS: {path}: {wrong}") from None
    for name, one in found.items():
        if name in (*BUILT_IN, EXTERNAL):
            raise TaskError(f"LRTUNE_COMMANDS: {path}: {name} is the name of a built-in task; accepted is another")
        if not installed(one.command[0], one.directory):
            raise TaskError(f"LRTUNE_COMMANDS: {path}: {name}.command: found {one.command[0]!r}, no program here")
    return found


def fitting(found: Mapping[str, CommandTask], nodes: int) -> dict[str, CommandTask]:
    """The commands that a worker of so many places can run; it says so of the others."""
    for name, one in found.items():
        if one.nodes > nodes:
            log.warning("the command %s is left to workers of a fleet with %d devices each", name, one.nodes)
    return {name: one for name, one in found.items() if one.nodes <= nodes}


class Commands:
    """What a worker does with its commands: ask the server for a trial, and run the command for it."""

    def __init__(
        self, found: Mapping[str, CommandTask], worker: str, stop: threading.Event, write: Write, teams: Here
    ) -> None:
        self._found, self._worker, self._stop, self._write, self._teams = found, worker, stop, write, teams
        self._client = Client() if found else None  # it looks for its key at the start of the worker
        self._runners: dict[str, Runner] = {}
        self._ask_at: dict[str, float] = {}  # of jobs of which no trial could be had
        self._cleared = False

    def close(self) -> None:
        """Close the connections to the server."""
        if self._client is not None:
            self._client.close()

    def tidy(self, active: Collection[str]) -> None:
        """Delete what is left of jobs that are over."""
        if self._client is not None and not (self._cleared and set(self._runners) <= set(active)):
            self._clear()

    def trained(self, job_id: str) -> bool:
        """Train one trial of a job with its command; False where there is none."""
        if time.monotonic() < self._ask_at.get(job_id, 0.0):
            return False
        try:
            return self._trained(job_id)
        except LrtuneError as error:
            log.warning("no trial of %s for a command: %s; asking again in %g s", job_id, error, AGAIN_SECONDS)
            self._ask_at[job_id] = time.monotonic() + AGAIN_SECONDS
            return False

    def _trained(self, job_id: str) -> bool:
        if (runner := self._runner(job_id)) is None:
            return False
        try:
            held = runner.take()
        except JobFinished:
            self._clear()
            return False
        if held is not None:
            self._train(runner, job_id, held)
        return held is not None

    def _runner(self, job_id: str) -> Runner | None:
        """What runs the command of a job; None where the job does not fit it any more, of which its log then tells."""
        if job_id not in self._runners:
            assert self._client is not None  # noqa: S101 - for mypy
            task = self._client.get(job_id).spec.task
            command = self._found[task.name]
            if wrong := command.wrong(task.params):
                said = f"left to other workers: the command {task.name} has changed since it was submitted: {wrong}"
                self._write(lambda tx: jobs.note(tx, job_id, "job-left", said))
                self._ask_at[job_id] = math.inf
                return None
            words, options = command.with_params(task.params), command.options(task.params)
            self._runners[job_id] = Runner(
                self._client,
                job_id,
                words,
                options,
                worker=self._worker,
                stop=self._stop,
                launch=self._launch(command),
            )
        return self._runners[job_id]

    def _launch(self, command: CommandTask) -> Launch:
        """How its processes are started: a single one as `lrtune run` does."""
        nodes, processes = command.nodes, command.processes
        return launched if nodes * processes == 1 else partial(self._teams.launched, nodes=nodes, processes=processes)

    def _train(self, runner: Runner, job_id: str, held: Handout) -> None:
        over = threading.Event()

        def seen() -> None:
            while not over.is_set():
                self._write(lambda tx: workers.seen(tx, self._worker, job=job_id, trial=held.trial.number))
                over.wait(BEAT_SECONDS)

        seeing = threading.Thread(target=seen, name="seen", daemon=True)
        seeing.start()
        try:
            runner.train(held)
        except Died as died:
            self._write(partial(_lost, job=job_id, held=held, reason=str(died)))
        finally:
            over.set()
            seeing.join()

    def _clear(self) -> None:
        """Delete the checkpoints of jobs that are over, also of those that ended while no worker was here."""
        self._runners, self._cleared = {}, True
        folders = {one.folder for one in self._found.values() if one.checkpoints != "none"}
        for kept in (kept for folder in folders for kept in folder.glob("job-*")):
            with suppress(UnknownJob):  # of another server, or deleted
                if self._write(partial(jobs.get, job_id=kept.name)).state in OVER:
                    forget(kept, None)
