"""The commands that move jobs to other tools and back: `lrtune export-study` and `lrtune import-study`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lrtune.cli import options, out
from lrtune.cli.lazy import client as clients
from lrtune.cli.lazy import lazily
from lrtune.errors import Invalid

if TYPE_CHECKING:
    from lrtune.moving import boards, runs, studies
    from lrtune.wire import horizons
else:
    boards, runs, studies = map(lazily, ("lrtune.moving.boards", "lrtune.moving.runs", "lrtune.moving.studies"))
    horizons = lazily("lrtune.wire.horizons")

commands = typer.Typer()


@commands.command("export-study")
def export_study(
    job: options.JobId,
    storage: Annotated[
        str | None, typer.Option(metavar="URL", help="An Optuna storage, such as sqlite:///study.db.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="The study's name; the job's id when left out.")] = None,
    tensorboard: Annotated[
        Path | None, typer.Option(metavar="DIR", help="A folder for TensorBoard's event files.")
    ] = None,
    mlflow: Annotated[
        str | None, typer.Option(metavar="URI", help="An MLflow tracking URI, for a run a trial.")
    ] = None,
) -> None:
    """Write a job as an Optuna study, as TensorBoard event files, or as an MLflow run a trial."""
    if storage is None and tensorboard is None and mlflow is None:
        raise Invalid("found no target; accepted is --storage URL, --tensorboard DIR or --mlflow URI")
    with clients.Client() as client:
        found = client.get(job)
        trials = [client.trial(job, trial.number) for trial in client.trials(job)]
    if storage is not None:
        written = studies.export(found, trials, storage=storage, name=name)
        out.say(f"{written} trials are the study {name or job} in {storage}; `optuna-dashboard {storage}` shows it")
    if tensorboard is not None:
        boards.tensorboard(found, trials, tensorboard)
        out.say(f"{len(trials)} trials are in {tensorboard}; `tensorboard --logdir {tensorboard}` shows them")
    if mlflow is not None:
        boards.mlflow(found, trials, mlflow)
        out.say(f"{len(trials)} trials are runs of the experiment {job} in {mlflow}")


@commands.command("import-study")
def import_study(
    job: Annotated[
        str | None,
        typer.Argument(metavar="[JOB]", help="What was tuned: a task's name, or a .json file with the job."),
    ] = None,
    storage: Annotated[str, typer.Option(metavar="URL", help="An Optuna storage, such as sqlite:///study.db.")] = "",
    csv: Annotated[
        Path | None, typer.Option(metavar="FILE", exists=True, dir_okay=False, help="Or a CSV file with a run a row.")
    ] = None,
    value: Annotated[
        str, typer.Option(metavar="COLUMN", help="Its column with what was measured at the end of each run.")
    ] = "",
    study: Annotated[str | None, typer.Option(help="The study's name, where the storage has several.")] = None,
    steps: Annotated[int | None, typer.Option(help="How many steps each of its trials was to take.")] = None,
    map_: Annotated[
        list[str] | None,
        typer.Option(
            "--map", metavar="THEIRS=OURS", help="What a parameter or column is called here; - leaves it out."
        ),
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="OURS=VALUE", help="What all its trials had alike.")
    ] = None,
) -> None:
    """Bring an Optuna study or a CSV file of runs in as a finished job: to look at, export or begin another from."""
    if bool(storage) == bool(csv and value):
        either = "--storage with a URL such as sqlite:///study.db, or --csv FILE with --value COLUMN"
        raise Invalid(f"found {'both' if storage else 'neither'}; accepted is {either}")
    names, fixed = options.pairs(map_, plain=True), options.pairs(set_)
    left = ""
    if csv:
        spec = _spec(options.job(job or "external", {}), steps, csv.name, {"name": value})
        trials, out_of = runs.trials(csv, value, steps=spec["horizon"]["steps"], names=names, fixed=fixed)
        source = f"the runs in {csv.name}"
        left = f"; {out_of.total()} left out ({runs.counted(out_of)})" if out_of else ""
    else:
        found = studies.load(storage, study)
        asked = options.job(job, {}) if job else studies.spec(found)
        spec = _spec(asked, steps, found.study_name, {"name": "val_loss", "goal": studies.goal(found)})
        metric, horizon = str(spec["metric"].get("name")), spec["horizon"]["steps"]
        trials = list(studies.trials(found, metric=metric, steps=horizon, names=names, fixed=fixed))
        source = f"the Optuna study {found.study_name}"
        each, _ = studies.spacing(found, horizon) if studies.spec(found) is None else (1.0, 1)
        if each != 1:
            left = f"; its reports are taken as {each:g} steps apart, so that its complete runs end at {horizon}"
    body = {"job": spec, "trials": [trial.model_dump(mode="json") for trial in trials], "source": source}
    with clients.Client() as client:
        made = client.import_job(body)
    out.say(f"{made.id} is {made.state}: {made.reason}{left}; `lrtune best {made.id}` shows what it found")


def _spec(asked: dict[str, Any] | None, steps: int | None, source: str, metric: dict[str, str]) -> dict[str, Any]:
    """The job that runs elsewhere stand for: what was asked for, with what is known there of its metric."""
    if asked is None:
        raise Invalid("found no job in the study; accepted is the name of its task, or a .json file with the job")
    if steps is not None:
        asked["horizon"] = {"steps": steps}
    horizon = asked.get("horizon")
    length = horizon.get("steps") if isinstance(horizon, dict) else None
    if not isinstance(length, int):
        raise Invalid("found no horizon in steps; accepted is --steps with the steps of one run")
    if not 2 <= length <= horizons.MOST_STEPS:
        where = "--steps" if steps is not None else "/horizon/steps of the job"
        raise Invalid(f"{where}: found a run of {length}; accepted are 2 to {horizons.MOST_STEPS:,} steps")
    said = asked.get("metric") or {}
    asked["metric"] = metric | ({"name": said} if isinstance(said, str) else {k: v for k, v in said.items() if v})
    asked["tags"] = {**(asked.get("tags") or {}), "imported": source[:200]}
    return asked
