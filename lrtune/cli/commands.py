"""The command line: one command a call of the client, shown by `terminal.py`. A new command is one function here.

Exit codes: 0 done; 1 the job failed or was cancelled; 2 the request was refused or badly put; 3 no server answers.
"""

from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from lrtune import __doc__ as about
from lrtune import __version__, errors
from lrtune.cli import datasets, options, out, people
from lrtune.cli.answers import commands as answers
from lrtune.cli.lazy import client as clients
from lrtune.cli.lazy import lazily, terminal
from lrtune.cli.moving import commands as moving
from lrtune.cli.operations import commands as operations
from lrtune.cli.service import app as service

if TYPE_CHECKING:
    from lrtune import runner as running
    from lrtune.cli import watch as watching
    from lrtune.client import Client
    from lrtune.wire.external import Checkpoints
    from lrtune.wire.results import Job
else:
    running, watching = lazily("lrtune.runner"), lazily("lrtune.cli.watch")

FAILED, REFUSED, UNREACHABLE, INTERRUPTED = 1, 2, 3, 130


class _InWords(TyperGroup):
    """What goes wrong becomes a sentence on stderr and an exit code, never a traceback."""

    def invoke(self, ctx: Any) -> Any:  # a click Context, which typer's versions keep in different places
        out.never_fail()
        try:
            return super().invoke(ctx)
        except errors.LrtuneError as error:
            out.say(f"lrtune: {error}", err=True)
            raise typer.Exit(UNREACHABLE if isinstance(error, errors.Unavailable) else REFUSED) from None


app = typer.Typer(cls=_InWords, no_args_is_help=True, pretty_exceptions_enable=False, help=about)
app.add_typer(service)
app.add_typer(moving)
app.add_typer(answers)
app.add_typer(operations)
app.add_typer(people.others)
for name, part in (("datasets", datasets.commands), ("keys", people.keys), ("people", people.people)):
    app.add_typer(part, name=name)


def _version(asked: bool) -> None:
    if asked:
        out.say(f"lrtune {__version__}")
        raise typer.Exit


@app.callback()
def _any(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_version, help="Say which version this is.")
    ] = False,
) -> None:
    pass


@app.command()
def submit(
    job: Annotated[str, typer.Argument(metavar="JOB", help="A task's name, a .json file, or - for JSON on stdin.")],
    dataset: Annotated[
        str | None,
        typer.Option(help="The task's data: an uploaded dataset's name, or a file below the workers' data folder."),
    ] = None,
    param: Annotated[list[str] | None, typer.Option(metavar="K=V", help="A parameter of the task.")] = None,
    steps: Annotated[int | None, typer.Option(help="How many steps the real run takes.")] = None,
    epochs: Annotated[float | None, typer.Option(help="The same in epochs.")] = None,
    full_runs: Annotated[float | None, typer.Option(help="What the search may cost, in real runs.")] = None,
    confirm_top: Annotated[
        int | None, typer.Option(help="How many at most run again over fresh seeds; 0: none.")
    ] = None,
    confirm_seeds: Annotated[int | None, typer.Option(help="Over how many fresh seeds at most; 0: none.")] = None,
    priority: Annotated[int | None, typer.Option(help="From -100 to 100: of your jobs the highest is first.")] = None,
    device: Annotated[str | None, typer.Option(help="The kind of device a worker must have, such as cuda.")] = None,
    memory_gb: Annotated[float | None, typer.Option(help="How much memory of it, in GB.")] = None,
    schedule: Annotated[list[str] | None, typer.Option(help="A family to try; may come again.")] = None,
    optimizer: Annotated[list[str] | None, typer.Option(help="An optimizer to try; may come again.")] = None,
    baseline: Annotated[
        list[str] | None,
        typer.Option(
            metavar="K=V", help="Your script as it is, to compare with: learning_rate=3e-4; then schedule=linear, ..."
        ),
    ] = None,
    try_: Annotated[
        list[str] | None,
        typer.Option("--try", metavar="K=V,...", help="What to run first, such as learning_rate=1e-3; may come again."),
    ] = None,
    name: Annotated[str | None, typer.Option(help="A name for the job.")] = None,
    tag: Annotated[list[str] | None, typer.Option(metavar="K=V", help="A tag; may come again.")] = None,
    webhook: Annotated[str | None, typer.Option(metavar="URL", help="Who is told of the job's end.")] = None,
    idempotency_key: Annotated[
        str | None,
        typer.Option(metavar="KEY", help="The same job with the same key is one job: for a CI that runs twice."),
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Follow the job until it is over.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what the job would do and cost.")] = False,
    as_json: options.AsJson = False,
) -> None:
    """Queue a tuning job."""
    params = options.pairs(param) | ({} if dataset is None else {"dataset": dataset})
    asked = options.job(job, params)
    options.put(asked, schedules=schedule, optimizers=optimizer, name=name, priority=priority, webhook=webhook)
    if steps is not None or epochs is not None:
        asked["horizon"] = options.put({}, steps=steps, epochs=epochs)
    options.add(asked, "budget", options.put({}, full_runs=full_runs))
    options.add(asked, "confirm", options.put({}, top=confirm_top, seeds=confirm_seeds))
    options.add(asked, "resources", options.put({}, device=device, memory_gb=memory_gb))
    options.add(asked, "tags", options.pairs(tag, plain=True))
    options.add(asked, "baseline", options.pairs(baseline))
    options.put(asked, **{"try": [options.part(one) for one in try_ or []] or None})
    with clients.Client() as client:
        if dry_run:
            return out.show(plan := client.plan(asked), as_json, lambda: terminal.plan(plan))
        queued = client.submit(asked, idempotency_key=idempotency_key)
        if alone := queued.spec.budget.baseline_alone:
            out.say(f"note: {alone}; `lrtune extend {queued.id} --full-runs N` gives it more", err=True)
        if not (watch and as_json):
            how = f"; `lrtune run {queued.id} -- python train.py` trains it" if queued.spec.external else ""
            out.show(
                queued, as_json, lambda: f"{queued.id} is {queued.state}; `lrtune watch {queued.id}` shows it{how}"
            )
        if watch:
            _follow(client, queued.id, as_json)
    return None


@app.command()
def watch(job: options.JobId, as_json: options.AsJson = False) -> None:
    """Follow a job until it is over, and show its answer. With --json: its events, one to a line, then the job."""
    with clients.Client() as client:
        _follow(client, job, as_json)


@app.command()
def run(
    job: options.JobId,
    command: Annotated[
        list[str], typer.Argument(metavar="COMMAND", help="What trains a trial: -- python train.py ...")
    ],
    checkpoints: Annotated[
        Path, typer.Option(help="The folder for checkpoints, with which trials are trained in stages.")
    ] = Path("checkpoints"),
    shared: Annotated[bool, typer.Option("--shared", help="Every host that runs the job sees this folder.")] = False,
    whole: Annotated[bool, typer.Option("--whole", help="No checkpoints: trials are trained in one piece.")] = False,
    deterministic: Annotated[bool, typer.Option("--deterministic", help="Same seed and rates, same run.")] = False,
    silence: Annotated[
        float | None, typer.Option(min=1, help="Stop a command that neither prints nor reports for so many seconds.")
    ] = None,
    grace: Annotated[float, typer.Option(min=0, help="The seconds a command has to end after SIGTERM.")] = 30.0,
    tries: Annotated[int, typer.Option(min=1, help="How often a trial's command may die.")] = 3,
) -> None:
    """Train a job's trials with a command of your own, one after another; start it as often as you have devices.

    The script finds its trial with `lrtune.trial()`. SIGTERM pauses the trial in hand, and ends.
    """
    kind: Checkpoints = "none" if whole else "shared" if shared else "own"
    asked = running.Options(kind, checkpoints, silence=silence, grace=grace, tries=tries, deterministic=deterministic)
    with clients.Client() as client:
        running.Runner(client, job, command, asked).work()
        found = client.get(job)
    out.say(f"{job} is {found.state}" + (f"; `lrtune best {job}` shows its answer" if found.best else ""))
    if found.state in ("failed", "cancelled"):
        raise typer.Exit(FAILED)


@app.command("jobs", hidden=True)  # what a newcomer types
@app.command("list")
def list_(
    search: Annotated[
        str | None,
        typer.Option("--search", "-s", help="Words that all stand in the name, the id, the task, the owner or a tag."),
    ] = None,
    state: Annotated[str | None, typer.Option(help="Only queued, running, paused, succeeded, ... jobs.")] = None,
    task: Annotated[str | None, typer.Option(help="Only jobs of this task.")] = None,
    tag: Annotated[str | None, typer.Option(help="Only jobs with this tag: KEY or KEY:VALUE.")] = None,
    owner: Annotated[str | None, typer.Option(help="Only this person's jobs.")] = None,
    sort: Annotated[
        str, typer.Option(help="newest, oldest, finished (the last to finish first), name, task, owner or state.")
    ] = "newest",
    limit: Annotated[int, typer.Option(min=1, help="How many at most.")] = 20,
    as_json: options.AsJson = False,
) -> None:
    """The jobs, newest first unless sorted."""
    asked = {"state": state, "task": task, "tag": tag, "owner": owner, "search": search, "sort": sort}
    with clients.Client() as client:
        found = tuple(islice(client.list(**asked), limit + 1))  # type: ignore[arg-type]
    out.show(shown := found[:limit], as_json, lambda: terminal.jobs(shown))
    if len(found) > limit:
        out.say("there are more; --limit says how many are shown", err=True)


@app.command()
def show(job: options.JobId, as_json: options.AsJson = False) -> None:
    """A job and its trials."""
    with clients.Client() as client:
        found = client.get(job)
        if as_json:
            return out.show(found, as_json, lambda: "")
        trials = tuple(client.trials(job))
    screen = out.screen()
    screen.print(terminal.jobs([found]))
    screen.print(terminal.status(found))
    if why := found.reason or found.waiting_for:
        out.say(why)
    return screen.print(terminal.trials(trials))


@app.command()
def compare(
    jobs: Annotated[list[str], typer.Argument(metavar="JOB JOB...", help="The ids or names of two or more jobs.")],
    as_json: options.AsJson = False,
) -> None:
    """Some jobs beside each other: their answers, and what differs in what they ask for."""
    asked = dict.fromkeys(map(options.job_id, jobs))
    if len(asked) < 2:
        raise errors.Invalid(f"found {len(asked)} job; accepted are two or more to compare")
    with clients.Client() as client:
        found = tuple(client.get(job) for job in asked)
        out.show(found, as_json, lambda: terminal.compared(found, client.datasets()))


@app.command()
def cancel(job: options.JobId, as_json: options.AsJson = False) -> None:
    """Stop a job for good; what it has found so far stays."""
    _ask(lambda client: client.cancel(job), as_json)


@app.command()
def stop(job: options.JobId, as_json: options.AsJson = False) -> None:
    """End a job's search before its budget is spent, and confirm its answer; what is trained now is trained on."""
    with clients.Client() as client:
        found = client.stop(job)
    left = max(0.0, (found.progress.planned_full_runs or 0.0) - found.progress.full_runs)
    to_come = "" if found.finished_at else f"; at most {left:g} full runs to come"
    out.show(found, as_json, lambda: f"{_state(found)}{to_come}")


@app.command()
def pause(job: options.JobId, as_json: options.AsJson = False) -> None:
    """Stop a job for now."""
    _ask(lambda client: client.pause(job), as_json)


@app.command()
def resume(job: options.JobId, as_json: options.AsJson = False) -> None:
    """Let a paused job go on."""
    _ask(lambda client: client.resume(job), as_json)


@app.command()
def extend(
    job: options.JobId,
    full_runs: Annotated[float | None, typer.Option(help="The new budget, in real runs.")] = None,
    trials: Annotated[int | None, typer.Option(help="The new budget, in trials.")] = None,
    seconds: Annotated[float | None, typer.Option(help="The new budget, in seconds.")] = None,
    as_json: options.AsJson = False,
) -> None:
    """Give a job a new budget, and it goes on where it ended; without one, what was stopped or failed with its own."""
    budget = {"full_runs": full_runs, "trials": trials, "seconds": seconds}
    given = any(bound is not None for bound in budget.values())
    _ask(lambda client: client.extend(job, budget if given else None), as_json)


@app.command()
def delete(job: options.JobId) -> None:
    """Forget a finished job."""
    with clients.Client() as client:
        client.delete(job)
    out.say(f"{job} is forgotten")


@app.command()
def tasks(as_json: options.AsJson = False) -> None:
    """What can be tuned here."""
    with clients.Client() as client:
        found = client.tasks()
    out.show(found, as_json, lambda: terminal.listed(found, "name", "summary", "metrics", "steps"))


@app.command()
def workers(as_json: options.AsJson = False) -> None:
    """Who is working, and on what."""
    with clients.Client() as client:
        found = tuple(client.workers())
    out.show(found, as_json, lambda: terminal.workers(found))


@app.command()
def schedules(as_json: options.AsJson = False) -> None:
    """Every schedule family with its knobs and its formula."""
    with clients.Client() as client:
        found = client.schedules()
    out.show(found, as_json, lambda: terminal.listed(found, "family", "sentence", "formula"))


@app.command()
def preview(
    family: Annotated[str, typer.Argument(help="A schedule family.")],
    knob: Annotated[list[str] | None, typer.Option(metavar="K=V", help="A knob of the family.")] = None,
    steps: Annotated[int, typer.Option(help="Of the run.")] = 1000,
    learning_rate: Annotated[float, typer.Option(help="The peak.")] = 1.0,
    warmup: Annotated[float, typer.Option(help="The share of the run that warms up.")] = 0.0,
    floor: Annotated[float, typer.Option(help="The factor below which it never falls.")] = 0.0,
    as_json: options.AsJson = False,
) -> None:
    """Draw the curve of a schedule."""
    asked = {"family": family, **options.pairs(knob)}
    with clients.Client() as client:
        found = client.preview(asked, steps=steps, learning_rate=learning_rate, warmup=warmup, floor=floor)
    out.show({"curve": found}, as_json, lambda: terminal.curve(found, steps))


def _ask(verb: "Callable[[Client], Job]", as_json: bool) -> None:
    with clients.Client() as client:
        job = verb(client)
    out.show(job, as_json, lambda: _state(job))


def _state(job: "Job") -> str:
    return f"{job.id} is {job.state}" + (f": {job.reason}" if job.reason else "")


def _follow(client: "Client", job_id: str, as_json: bool) -> None:
    """Show a job until it is over; the exit code says how it ended."""
    screen = out.screen()
    try:
        job = _events(client, job_id) if as_json else watching.follow(client, job_id, screen)
    except KeyboardInterrupt:
        again = f"`lrtune watch {job_id}` follows it again, `lrtune stop {job_id}` ends its search and confirms"
        again += f", `lrtune cancel {job_id}` ends it now"
        out.say(f"\nthe job goes on without you: {again}", err=as_json)
        raise typer.Exit(INTERRUPTED) from None
    if job.state != "succeeded":
        raise typer.Exit(FAILED)
    if as_json:
        return
    found = client.best(job_id)
    screen.print(terminal.answer(found, client.trial(job_id, found.trial)))


def _events(client: "Client", job_id: str) -> "Job":
    """Print a job's events as they come, and the job in the end, as JSON, one to a line."""
    for event in client.watch(job_id):
        out.as_json(event)
    job = client.get(job_id)
    out.as_json(job)
    return job
