"""The Python client: `with Client() as client: best = client.best(client.wait(client.submit("digits").id).id)`.

One method a call of the API; what comes back are the values of `lrtune.wire.results`, what goes wrong is raised as the
same class of `lrtune.errors` that the service raised. A new endpoint is one more method here.
"""

import logging
import os
import re
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, Self, TypeVar
from urllib.parse import quote

import httpx
from pydantic import BaseModel

from lrtune import errors
from lrtune.bodies import AnyJob, body, plain
from lrtune.found_key import found_key, unknown
from lrtune.loop import LEASE_SECONDS, LoopJob, joined
from lrtune.loop_trial import LoopTrial, settle
from lrtune.responses import URL, Catalogue, Preview, checked, host_of, messages, read
from lrtune.wire.charts import Curves, Terrain
from lrtune.wire.datasets import Dataset, DatasetSummary, fitting
from lrtune.wire.external import Batch, Checkpoints, Ending, Handout, Rates, Verdict, hold
from lrtune.wire.horizons import AtHorizon
from lrtune.wire.imports import ImportedJob
from lrtune.wire.job import Budget, JobOrder
from lrtune.wire.listing import JobPage
from lrtune.wire.people import Me
from lrtune.wire.report import Findings
from lrtune.wire.results import OVER, Best, Event, Job, JobState, Page, Plan, Trial, TrialDetail, Worker

PAUSES = (0.2, 0.8)  # seconds before a call is tried again when no answer came
DROPS = (0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 15.0)  # the same for a broken event stream: a server may restart meanwhile
UPLOADED_AT_ONCE = 1024 * 1024  # bytes
DESCRIBING = 1800.0  # seconds that a server may take to read a large upload through
STREAM, LATEST = "text/event-stream", 10**9 - 1  # the number of no line of a log
QUIET = 60.0  # seconds without even a comment after which an event stream counts as broken

log = logging.getLogger("lrtune.client")
Answer = TypeVar("Answer", bound=BaseModel)
Verb = Literal["cancel", "stop", "pause", "resume", "extend"]


class Client:
    """A connection to an lrtune server, with the key found where the server put it."""

    def __init__(
        self, url: str | None = None, key: str | None = None, *, transport: httpx.BaseTransport | None = None
    ) -> None:
        self.url = (url or os.environ.get("LRTUNE_URL") or URL).rstrip("/")
        host = host_of(self.url)
        self.key, self._source = (key, "the key= of Client") if key else found_key()
        if not re.fullmatch(r"[\x21-\x7e]+", self.key):
            raise errors.Unauthorized("the key holds what no header can: accepted is visible ASCII without spaces")
        self._http = httpx.Client(
            base_url=self.url,
            headers={"Authorization": f"Bearer {self.key}"},
            timeout=30.0,
            transport=transport,
            trust_env=host not in ("127.0.0.1", "localhost", "::1"),  # no proxy to oneself
            verify=not self.url.startswith("http://"),  # reading certificates takes 50 ms, and there is no TLS
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        settle()
        self._http.close()

    def submit(self, job: AnyJob, *, idempotency_key: str | None = None) -> LoopJob:
        """Queue a job: a task's name, a `.json` file, a mapping or a JobSpec. Sent again, it is still one job."""
        headers = {"Idempotency-Key": idempotency_key or uuid.uuid4().hex}
        return joined(read(LoopJob, self._send("POST", "/v1/jobs", json=body(job), headers=headers)), self)

    def open(self, job: AnyJob | Job) -> LoopJob:
        """A job to go on with: the one of an id, or one that is not over, of the same name, that asks for the same.

        Where there is none it is submitted; one without a name always is.
        """
        if isinstance(job, Job) or (isinstance(job, str) and re.fullmatch(r"job-[0-9a-f]{16}", job)):
            return self.get(job if isinstance(job, str) else job.id)
        if isinstance(asked := body(job), dict) and asked.get("name"):
            wanted, me = self.plan(asked).spec, self.me().person
            states = (JobState.RUNNING, JobState.QUEUED, JobState.PAUSED, JobState.SUCCEEDED)
            mine = (one for state in states for one in self.named(wanted.name, state=state, owner=me))
            found = next((one for one in mine if one.spec.model_dump() == wanted.model_dump()), None)
            if found and found.state not in OVER:
                log.warning("going on with %s, which is %s and has this name: %r", found.id, found.state, wanted.name)
                return self.get(found.id)
            if found:
                over = "%s has this name and asks for the same; its answer is client.best(%r); another is trained anew"
                log.warning(over, found.id, found.id)
        return self.submit(asked)

    def plan(self, job: AnyJob) -> Plan:
        """What a job would do and cost; nothing is stored."""
        return read(Plan, self._send("POST", "/v1/jobs", json=body(job), params={"validate_only": "true"}))

    def get(self, job_id: str) -> LoopJob:
        """A job as it stands."""
        return joined(read(LoopJob, self._send("GET", _path(job_id))), self)

    def list(
        self,
        *,
        state: JobState | str | None = None,
        tag: str | None = None,
        owner: str | None = None,
        task: str | None = None,
        search: str | None = None,
        sort: JobOrder = "newest",
    ) -> Iterator[Job]:
        """All jobs that you may see; `tag` is a key, or "key:value", and `search` words that all stand somewhere."""
        asked = {"state": state, "tag": tag, "owner": owner, "task": task, "search": search}
        asked["sort"] = None if sort == "newest" else sort
        return self._items(JobPage, "/v1/jobs", asked)

    def named(self, name: str, *, state: JobState | None = None, owner: str | None = None) -> Iterator[Job]:
        """All jobs that you may see of just this name."""
        words = name.encode("utf-8", "replace").decode()[:200].split()[:10]  # as many as the server searches for
        listed = self.list(state=state, owner=owner, search=" ".join(words)) if words else ()
        return (one for one in listed if one.spec.name == name)

    def watch(self, job_id: str, *, after: int = 0) -> Iterator[Event]:
        """The job's events as they happen, each once and in order, until the job is over."""
        drops = iter(DROPS)
        while True:
            try:
                for event in (read(Event, data) for data in self._stream(job_id, after)):
                    if event.id > after:
                        after, drops = event.id, iter(DROPS)
                        yield event
                if self.get(job_id).state in OVER:
                    yield from self.events(job_id, after=after)
                    return
                pause = DROPS[0]
            except errors.Unavailable:
                pause = next(drops, 0.0)
                if not pause:
                    raise
            time.sleep(pause)

    def beats(self, job_id: str) -> Iterator[None]:
        """Whenever the job has changed or its trials get on, until it is over or the server away (Unavailable)."""
        yield from (None for _ in self._stream(job_id, LATEST, beats="true"))

    def wait(self, job_id: str) -> Job:
        """The job, once it is over."""
        for _ in self.watch(job_id):
            pass
        return self.get(job_id)

    def trials(self, job_id: str) -> Iterator[Trial]:
        """All trials of a job by number, without their reports."""
        return self._items(Page[Trial], _path(job_id, "trials"), {})

    def trial(self, job_id: str, number: int) -> TrialDetail:
        """One trial with its reports and its learning-rate curve."""
        return read(TrialDetail, self._send("GET", _path(job_id, "trials", str(number))))

    def optimize(
        self,
        job: AnyJob | Job,
        objective: Callable[[LoopTrial], float | None],
        *,
        checkpoints: Path | str | None = None,
        deterministic: bool = False,
    ) -> Best:
        """Train every trial of an `external` job with `objective`, and answer with the best.

        A job that this was broken off for is gone on with: see `open`. `objective` answers with the metric at the end,
        or with nothing where it has reported it. With a folder for `checkpoints` trials are trained in stages: it calls
        `trial.restore`, reports, and answers with nothing; `deterministic` is as in `LoopJob.trials`. Raises TaskError
        when the job fails.
        """
        found = self.open(job)
        for trial in found.trials(checkpoints=checkpoints, deterministic=deterministic):
            with trial:
                trial.finish(objective(trial))
        found = self.get(found.id)
        if found.state is JobState.FAILED:
            raise errors.TaskError(found.reason)
        return self.best(found.id)

    def take(
        self,
        job_id: str,
        *,
        worker: str = "your loop",
        lease_seconds: float = LEASE_SECONDS,
        checkpoints: Checkpoints = "none",
        host: str | None = None,
        deterministic: bool = False,
    ) -> Handout | None:
        """A trial of an `external` job; None while others train all there is. Raises JobFinished at the end.

        With `checkpoints`, `own` ones on the disk of this `host` or `shared` ones, trials are trained in stages; a loop
        that is `deterministic` begins them at the checkpoints of others. Raises Invalid.
        """
        said = {"worker": worker, "lease_seconds": lease_seconds, "checkpoints": checkpoints, "host": host}
        asked = hold(**said, deterministic=deterministic)
        answer = self._send("POST", _path(job_id, "trials"), json=plain(asked))
        return None if answer.status_code == httpx.codes.NO_CONTENT else read(Handout, answer)

    def tell(self, job_id: str, number: int, batch: Batch) -> Verdict:
        """Reports of a trial that is held, or a sign of life; the answer says whether to go on. Raises LeaseLost."""
        return read(Verdict, self._send("POST", _path(job_id, "trials", str(number), "reports"), json=plain(batch)))

    def finish(self, job_id: str, number: int, ending: Ending) -> Trial:
        """The end of a trial that is held. Raises LeaseLost."""
        return read(Trial, self._send("POST", _path(job_id, "trials", str(number), "finish"), json=plain(ending)))

    def rates(self, job_id: str, number: int) -> Iterator[float]:
        """The learning rate of every step of a trial, as its reports leave it."""
        start, path = 0, _path(job_id, "trials", str(number), "rates")
        while found := read(Rates, self._send("GET", path, params={"start": start})).learning_rates:
            yield from found
            start += len(found)

    def best(self, job_id: str) -> Best:
        """The answer; `best.schedule.over(steps)` gives the factor of the peak rate at each step."""
        return read(Best, self._send("GET", _path(job_id, "best")))

    def best_at(self, job_id: str, steps: int) -> AtHorizon:
        """What the best peak rate and schedule would be over other `steps`, and how that is known."""
        return read(AtHorizon, self._send("GET", _path(job_id, "best"), params={"steps": steps}))

    def report(self, job_id: str) -> Findings:
        """Where good rates lie, what happens above and below, what it cost, and how sure the answer is."""
        return read(Findings, self._send("GET", _path(job_id, "report")))

    def curves(self, job_id: str) -> Curves:
        """The curves of the trials that tell most, thinned, to draw: small whatever the size of the job."""
        return read(Curves, self._send("GET", _path(job_id, "curves")))

    def landscape(self, job_id: str) -> Terrain:
        """The value over the peak rate, family by family, to draw; with the report that explains it."""
        return read(Terrain, self._send("GET", _path(job_id, "landscape")))

    def export(self, job_id: str, format: str = "pytorch", *, steps: int | None = None) -> str:
        """The answer, also carried over to other `steps`, as a file's text: one of `lrtune.export.FORMATS`."""
        params = {"format": format} | ({} if steps is None else {"steps": str(steps)})
        return self._send("GET", _path(job_id, "best", "export"), params=params).text

    def import_job(self, job: ImportedJob | Mapping[str, Any], *, idempotency_key: str | None = None) -> Job:
        """Store a job that was done elsewhere with its trials; it is over at once."""
        headers = {"Idempotency-Key": idempotency_key or uuid.uuid4().hex}
        return read(Job, self._send("POST", "/v1/imports", json=plain(job), headers=headers))

    def cancel(self, job_id: str) -> Job:
        """Stop a job for good; what it has found so far stays."""
        return self._ask(job_id, "cancel")

    def stop(self, job_id: str) -> Job:
        """End a job's search before its budget is spent; what trains now is trained on, then its answer confirmed."""
        return self._ask(job_id, "stop")

    def pause(self, job_id: str) -> Job:
        """Stop a job for now; its running trials go back to the queue."""
        return self._ask(job_id, "pause")

    def resume(self, job_id: str) -> Job:
        """Let a paused job go on."""
        return self._ask(job_id, "resume")

    def extend(self, job_id: str, budget: Budget | Mapping[str, Any] | None = None) -> Job:
        """Give a job a larger budget, and it goes on where it ended; what was stopped or failed, also with its own."""
        return self._ask(job_id, "extend", json={"budget": plain(budget or self.get(job_id).spec.budget)})

    def delete(self, job_id: str) -> None:
        """Forget a finished job."""
        self._send("DELETE", _path(job_id))

    def events(self, job_id: str, *, after: int = 0) -> Iterator[Event]:
        """The job's log so far, from the event behind `after` on."""
        while True:
            page = read(Page[Event], self._send("GET", _path(job_id, "events"), params={"after": after}))
            yield from page.items
            if not page.items or page.next is None:
                return
            after = page.items[-1].id

    def tasks(self) -> tuple[dict[str, Any], ...]:
        """What can be tuned here."""
        return read(Catalogue, self._send("GET", "/v1/tasks")).items

    def schedules(self) -> tuple[dict[str, Any], ...]:
        """Every schedule family with its knobs, ranges and formula."""
        return read(Catalogue, self._send("GET", "/v1/schedules")).items

    def preview(self, schedule: Mapping[str, Any] | str, **around: Any) -> tuple[tuple[int, float], ...]:
        """(step, learning rate) of a schedule; `around`: `steps`, `learning_rate`, `warmup`, `floor`, `points`."""
        body = {"schedule": schedule, **around}
        return read(Preview, self._send("POST", "/v1/schedules/preview", json=body)).curve

    def add_dataset(self, file: Path | str, *, name: str | None = None) -> Dataset:
        """Upload a file, a part at a time; the same bytes come out as the dataset they are already."""
        path = Path(file)
        try:
            with path.open("rb") as content:  # no second try: it is read once
                parts = iter(lambda: content.read(UPLOADED_AT_ONCE), b"")
                params, length = {"name": name or fitting(path.name)}, {"Content-Length": str(path.stat().st_size)}
                wait = httpx.Timeout(30.0, read=DESCRIBING)
                answer = self._http.post("/v1/datasets", params=params, content=parts, headers=length, timeout=wait)
        except httpx.TransportError as error:
            raise self._away(error) from error
        except OSError as error:
            raise errors.Invalid(f"{path}: {error.strerror}") from None
        return read(Dataset, self._checked(answer))

    def datasets(self) -> Iterator[DatasetSummary]:
        """All uploaded datasets, newest first, in short."""
        return self._items(Page[DatasetSummary], "/v1/datasets", {})

    def dataset(self, dataset: str) -> Dataset:
        """What is in a dataset, by its id or its name."""
        return read(Dataset, self._send("GET", _path(dataset, noun="datasets")))

    def remove_dataset(self, dataset: str) -> None:
        """Forget a dataset and its bytes."""
        self._send("DELETE", _path(dataset, noun="datasets"))

    def me(self) -> Me:
        """Whose key this is, what it is good for, and what they may use."""
        return read(Me, self._send("GET", "/v1/me"))

    def workers(self) -> Iterator[Worker]:
        """Who is working, and on what."""
        return self._items(Page[Worker], "/v1/workers", {})

    def _ask(self, job_id: str, verb: Verb, **content: Any) -> Job:
        return read(Job, self._send("POST", _path(job_id, verb), **content))

    def _items(self, kind: type[Page[Answer]], path: str, params: Mapping[str, Any]) -> Iterator[Answer]:
        asked = {name: value for name, value in params.items() if value is not None}
        while True:
            page = read(kind, self._send("GET", path, params=asked))
            for one in getattr(page, "unreadable", ()):
                log.warning("%s", one.words)
            yield from page.items
            if page.next is None:
                return
            asked["cursor"] = page.next

    def _send(self, method: str, path: str, **content: Any) -> httpx.Response:
        """One call, tried again when no answer came: all but a deletion may safely come twice."""
        settle()  # so that what is asked for is as the loops in this process have left it
        for pause in (*(PAUSES if method != "DELETE" else ()), None):
            try:
                return self._checked(self._http.request(method, path, **content))
            except httpx.TransportError as error:
                if pause is None:
                    raise self._away(error) from error
                time.sleep(pause)
            except errors.Later as error:
                if pause is None or not error.passing:
                    raise
                time.sleep(error.retry_after)
            except (ValueError, TypeError) as error:
                raise errors.Invalid(f"the request cannot be written as JSON: {error}") from None
        raise AssertionError

    def _checked(self, response: httpx.Response) -> httpx.Response:
        """A good response. Raises what it tells of; of a key that is not known, which it is and where it is from."""
        try:
            return checked(response)
        except errors.Unauthorized:
            if response.status_code != httpx.codes.UNAUTHORIZED:
                raise
            raise unknown(self.key, self._source, self.url) from None

    def _stream(self, job_id: str, after: int, **query: str) -> Iterator[str]:
        """What one connection brings; it ends when the server ends it, and `Unavailable` says that it broke."""
        wait, headers = httpx.Timeout(30.0, read=QUIET), {"Accept": STREAM, "Last-Event-ID": str(after)}
        try:
            path = _path(job_id, "events")
            with self._http.stream("GET", path, params=query, headers=headers, timeout=wait) as response:
                if not response.is_success:
                    response.read()
                yield from messages(self._checked(response).iter_lines())
        except httpx.TransportError as error:
            raise self._away(error) from error

    def _away(self, error: httpx.TransportError) -> errors.Unavailable:
        start = "start one with `lrtune serve`, or name another in LRTUNE_URL"
        return errors.Unavailable(f"no lrtune server answers at {self.url} ({error}); {start}")


def _path(*parts: str, noun: str = "jobs") -> str:
    return "/".join((f"/v1/{noun}", *(quote(part, safe="", errors="replace") for part in parts)))
