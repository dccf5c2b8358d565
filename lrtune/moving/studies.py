"""A job as an Optuna study, and an Optuna study as a finished job.

What a study has no word for travels in its attributes under `lrtune:`, so that an exported job comes back as it was.
"""

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from pydantic import ValidationError

from lrtune.analysis.prefixes import Course
from lrtune.errors import Invalid
from lrtune.moving import needed
from lrtune.moving.flat import configuration, flat
from lrtune.space import shown
from lrtune.wire.imports import MOST_REPORTS, Ended, ImportedReport, ImportedTrial
from lrtune.wire.job import usable
from lrtune.wire.results import OPEN, REPORTS, Job, Trial, TrialState

OURS = "lrtune:"
ROOM = 6000  # reports of all trials that fit into the largest body that a server accepts by default
STATES = {
    TrialState.COMPLETE: "COMPLETE",
    TrialState.STOPPED: "PRUNED",
    TrialState.DIVERGED: "FAIL",  # with its reason; a study has no word for it
    TrialState.FAILED: "FAIL",
    TrialState.CANCELLED: "FAIL",
}


def export(job: Job, trials: Iterable[Trial], *, storage: str, name: str | None = None) -> int:
    """Write a job as a study named after it; how many trials were written. Those that wait or run are left out.

    A paused trial is one that was pruned: a study has no word for one that may go on.
    """
    optuna = needed("optuna", package="optuna")
    pruned = {"state": TrialState.STOPPED}
    ended = [t.model_copy(update=pruned) if t.state is TrialState.PAUSED else t for t in trials if t.state not in OPEN]
    try:
        study = optuna.create_study(storage=storage, study_name=name or job.id, direction=job.spec.metric.goal)
    except optuna.exceptions.DuplicatedStudyError:
        raise Invalid(f"the storage has a study {name or job.id!r} already; accepted is another --name") from None
    except Exception as error:  # whatever the storage's own library raises
        raise _unreachable(storage, error) from None
    study.set_user_attr(f"{OURS}job", job.id)
    study.set_user_attr(f"{OURS}spec", job.spec.model_dump(mode="json"))
    study.set_user_attr(f"{OURS}steps", job.steps)
    distributions = _distributions(optuna.distributions, [flat(trial.configuration) for trial in ended])
    study.add_trials([_frozen(optuna.trial, trial, job, distributions) for trial in ended])
    return len(ended)


def _unreachable(storage: str, error: Exception) -> Invalid:
    sentence = next(iter(str(error).splitlines()), "") or type(error).__name__
    return Invalid(f"storage: found {shown(storage)} ({sentence[:200]}); accepted is a URL such as sqlite:///study.db")


def _frozen(optuna_trial: Any, trial: Trial, job: Job, distributions: Mapping[str, Any]) -> Any:
    params = {name: value for name, value in flat(trial.configuration).items() if name in distributions}
    made = optuna_trial.create_trial(
        state=optuna_trial.TrialState[STATES[trial.state]],
        value=trial.value if trial.state is TrialState.COMPLETE else None,
        params=params,
        distributions={name: distributions[name] for name in params},
        intermediate_values={step: value for step, value in trial.values(job.spec.metric.name) if value is not None},
        user_attrs={f"{OURS}{name}": value for name, value in _attributes(trial).items()},
    )
    made.datetime_start, made.datetime_complete = map(_local, (trial.started_at, trial.finished_at))
    return made


def _local(moment: datetime | None) -> datetime:
    """As Optuna keeps times: local, and without saying so."""
    return (moment.astimezone() if moment else datetime.now()).replace(tzinfo=None)


def _attributes(trial: Trial) -> dict[str, Any]:
    return {
        **trial.model_dump(
            mode="json", include={"number", "role", "why", "state", "reason", "seed", "horizon", "step", "value"}
        ),
        "configuration": trial.configuration.model_dump(mode="json"),
        "reports": [
            report.model_dump(mode="json", include=set(ImportedReport.model_fields)) for report in trial.reports
        ],
    }


def _distributions(kinds: Any, tables: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One distribution a name, wide enough for all its values; a list of numbers stays with the configuration."""
    values: dict[str, list[Any]] = {}
    for table in tables:
        for name, value in table.items():
            values.setdefault(name, []).append(value)
    return {name: _distribution(kinds, name, seen) for name, seen in values.items() if not isinstance(seen[0], list)}


def _distribution(kinds: Any, name: str, seen: Sequence[Any]) -> Any:
    if any(isinstance(value, str | bool) for value in seen):
        return kinds.CategoricalDistribution(sorted(set(seen), key=str))
    if all(isinstance(value, int) for value in seen):
        return kinds.IntDistribution(min(seen), max(seen))
    wide = min(seen) > 0 and (name == "learning_rate" or max(seen) > 10 * min(seen))
    return kinds.FloatDistribution(float(min(seen)), float(max(seen)), log=wide)


# The way in ----------------------------------------------------------------------------------------------------------


def load(storage: str, name: str | None) -> Any:
    """A study; the only one of a storage needs no name. Raises Invalid."""
    optuna = needed("optuna", package="optuna")
    try:
        names = optuna.get_all_study_names(storage)
    except Exception as error:  # whatever the storage's own library raises
        raise _unreachable(storage, error) from None
    chosen = name or (names[0] if len(names) == 1 else None)
    if chosen not in names:
        found = f"found no study {name!r}" if name else f"found {len(names)} studies"
        raise Invalid(f"{found}; accepted is --study with one of {', '.join(names[:20]) or 'none, for there is none'}")
    study = optuna.load_study(study_name=chosen, storage=storage)
    if len(study.directions) > 1:
        raise Invalid(f"the study {chosen} has {len(study.directions)} objectives; accepted is a study with one")
    return study


def spec(study: Any) -> dict[str, Any] | None:
    """The job that a study was exported from; None for a study of other origin."""
    found = study.user_attrs.get(f"{OURS}spec")
    return dict(found) if isinstance(found, dict) else None


def goal(study: Any) -> str:
    """Which way is better."""
    return str(study.direction.name).lower()


def trials(
    study: Any, *, metric: str, steps: int, names: Mapping[str, str], fixed: Mapping[str, Any]
) -> Iterator[ImportedTrial]:
    """The ended trials of a study, each over `steps`; of their reports as many as a server takes, evenly spaced.

    Of a study of other origin that counts its reports in epochs, each is at the step where its epoch ends.
    Raises Invalid, naming the trial whose parameters do not fit.
    """
    ended = [trial for trial in study.get_trials(deepcopy=False) if trial.state.is_finished()]
    most = min(MOST_REPORTS, max(REPORTS, ROOM // max(1, len(ended))))
    unit = spacing(study, steps)
    for trial in ended:
        try:
            yield _own(trial, most) or _theirs(trial, most, unit, metric=metric, steps=steps, names=names, fixed=fixed)
        except Invalid as error:
            raise Invalid(f"trial {trial.number} of the study: {error}") from None


def spacing(study: Any, steps: int) -> tuple[float, int]:
    """How many steps lie between two numbers of reports in a study of other origin, and the first number: 0 or 1.

    A complete trial was trained to the end, so where even the last report of all such is in the first quarter of a
    run, reports are counted in something longer, epochs most likely, the last of which is where the run ends.
    """
    ended = [one for one in study.get_trials(deepcopy=False) if one.state.is_finished() and one.intermediate_values]
    last = max((max(one.intermediate_values) for one in ended if one.state.name == "COMPLETE"), default=0)
    if not 1 <= last <= steps / 4:
        return 1.0, 1
    first = 0 if any(0 in one.intermediate_values for one in ended) else 1
    return steps / (last + 1 - first), first


def _few(reports: Sequence[Any], most: int) -> list[Any]:
    """No more than so many of some reports, evenly spaced, the last among them."""
    return list(reports[:: -math.ceil(len(reports) / most)][::-1]) if reports else []


def _own(trial: Any, most: int) -> ImportedTrial | None:
    """A trial that was exported from a job, as it was."""
    kept = {name.removeprefix(OURS): value for name, value in trial.user_attrs.items() if name.startswith(OURS)}
    if "configuration" not in kept or "state" not in kept:
        return None
    fields = {name: kept[name] for name in ImportedTrial.model_fields if name in kept}
    if isinstance(reports := fields.get("reports"), list):
        fields["reports"] = _few(reports, most)
    try:
        return ImportedTrial.model_validate_json(json.dumps(fields))
    except ValidationError as error:
        raise Invalid(f"its attributes are no trial of lrtune: {error.errors()[0]['msg']}") from None


def _theirs(
    trial: Any,
    most: int,
    unit: tuple[float, int],
    *,
    metric: str,
    steps: int,
    names: Mapping[str, str],
    fixed: Mapping[str, Any],
) -> ImportedTrial:
    """A trial of a study of other origin."""
    each, first = unit
    seen = [(round((number + 1 - first) * each), value) for number, value in sorted(trial.intermediate_values.items())]
    values = [(step, value) for step, value in seen if usable(value)]
    last = max((step for step, _ in values), default=0)
    if last > steps:
        raise Invalid(f"its last report is at {last}, and a run has {steps} steps; accepted is a horizon that holds it")
    chosen, (state, reason) = configuration(trial.params, names, fixed, steps=steps), _state(trial)
    course = Course(chosen, steps)
    ended = state is TrialState.COMPLETE or (state is TrialState.DIVERGED and not last)
    return ImportedTrial(
        configuration=chosen,
        state=state,
        reason=reason,
        value=trial.value if state is TrialState.COMPLETE else None,
        horizon=steps,
        step=steps if ended else last,
        reports=[
            ImportedReport(step=step, learning_rate=course.rate(step - 1), metrics={metric: value})
            for step, value in _few([one for one in values if one[0] > 0], most)
        ],
    )


def _state(trial: Any) -> tuple[Ended, str]:
    name = trial.state.name
    if name == "COMPLETE" and trial.value is not None and usable(trial.value):
        return TrialState.COMPLETE, ""
    if name == "COMPLETE":
        return TrialState.DIVERGED, f"its value in the study was {trial.value}"
    return (
        (TrialState.STOPPED, "pruned in the study") if name == "PRUNED" else (TrialState.FAILED, "failed in the study")
    )
