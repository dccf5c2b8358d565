"""A job's trials for the eye: TensorBoard event files, or an MLflow run each."""

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lrtune.errors import Invalid
from lrtune.moving import needed
from lrtune.moving.flat import flat
from lrtune.space import shown
from lrtune.wire.results import Job, Trial, TrialDetail, TrialState

KILLED = (TrialState.PAUSED, TrialState.STOPPED, TrialState.CANCELLED)
STATUS = {TrialState.COMPLETE: "FINISHED"} | dict.fromkeys(KILLED, "KILLED")
AT_ONCE = 1000  # metrics that MLflow takes in one call


def tensorboard(job: Job, trials: Iterable[TrialDetail], folder: Path) -> None:
    """Write event files into a folder for each trial, below the job's own. Raises Invalid."""
    writer = needed("tensorboard.summary.writer.event_file_writer", package="tensorboard").EventFileWriter
    event = needed("tensorboard.compat.proto.event_pb2", package="tensorboard").Event
    summary = needed("tensorboard.compat.proto.summary_pb2", package="tensorboard").Summary
    for trial in trials:
        below = folder / job.id / name(trial)
        if below.exists() and any(below.iterdir()):
            raise Invalid(f"tensorboard: {below} is there already; accepted is a folder without this job")
        try:
            opened = writer(str(below))
        except OSError as error:
            raise Invalid(f"tensorboard: {error}") from None
        for at, step, tag, value in points(trial):
            one = summary(value=[summary.Value(tag=tag, simple_value=value)])
            opened.add_event(event(wall_time=at.timestamp(), step=step, summary=one))
        opened.close()


def mlflow(job: Job, trials: Iterable[TrialDetail], uri: str) -> None:
    """Write a run for each trial into an experiment named after the job. Raises Invalid."""
    entities = needed("mlflow.entities", package="mlflow-skinny")
    tracking = needed("mlflow.tracking", package="mlflow-skinny")
    try:
        client = tracking.MlflowClient(uri)
        experiment = client.create_experiment(job.id, tags={"lrtune.task": job.spec.task.name})
        for trial in trials:
            _run(client, entities, experiment, trial)
    except Exception as error:  # whatever the store's own library raises
        sentence = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise Invalid(
            f"mlflow: found {shown(uri)} ({sentence[:200]}); accepted is a tracking URI such as sqlite:///mlflow.db "
            "in which there is no experiment of this job"
        ) from None


def _run(client: Any, entities: Any, experiment: str, trial: TrialDetail) -> None:
    run = client.create_run(experiment, start_time=_millis(trial.started_at), run_name=name(trial))
    metrics = [entities.Metric(tag, value, _millis(at), step) for at, step, tag, value in points(trial)]
    params = [entities.Param(key, str(value)[:500]) for key, value in flat(trial.configuration).items()]
    about = {"state": trial.state, "reason": trial.reason, "role": trial.role, "why": trial.why, "seed": trial.seed}
    tags = [entities.RunTag(f"lrtune.{key}", str(value)) for key, value in about.items()]
    client.log_batch(run.info.run_id, params=params, tags=tags)
    for first in range(0, len(metrics), AT_ONCE):
        client.log_batch(run.info.run_id, metrics=metrics[first : first + AT_ONCE])
    client.set_terminated(run.info.run_id, STATUS.get(trial.state, "FAILED"), _millis(trial.finished_at))


def name(trial: Trial) -> str:
    """What a trial is called there."""
    return f"trial-{trial.number:04d}"


def points(trial: TrialDetail) -> Iterator[tuple[datetime, int, str, float]]:
    """(time, step, name, value) of every metric that was finite and of the rate; times are spread over the trial's."""
    start = trial.started_at or trial.created_at or datetime.now(UTC)
    length = (trial.finished_at or start) - start
    for report in trial.reports:
        at = start + length * (report.step / max(1, trial.horizon))
        named = [("learning_rate", report.learning_rate), *report.metrics.items()]
        yield from ((at, report.step, tag, value) for tag, value in named if value is not None)


def _millis(moment: datetime | None) -> int:
    return int((moment or datetime.now(UTC)).timestamp() * 1000)
