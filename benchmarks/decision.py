"""One decision of a job with its numbers, as `docs/search.md` shows it: `python -m benchmarks.decision [--decision N]`.

One worker in this process runs a job of 8 full runs on `digits`. Then `search.advance` is asked again for one of its
decisions, from the trials as they stood before it, and what passed through the engine on the way is printed. The
decision has to come out as it did in the job.
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from benchmarks.sharing import GIB, ended
from lrtune import search
from lrtune.search.curve import sampler
from lrtune.search.engine import decide
from lrtune.search.engine.gittins import gittins_index
from lrtune.search.engine.gp import make_prior
from lrtune.search.engine.law import NAMES
from lrtune.search.engine.model import EXTRA_SCALE, RATE_SCALES
from lrtune.search.engine.weighing import WeighedModel, improvement
from lrtune.wire.configuration import Configuration
from lrtune.wire.job import AdmittedJob
from lrtune.wire.results import Trial, TrialState

STEPS, SHOWN = 400, 6
JOB: dict[str, Any] = {
    "task": "digits",
    "metric": {"name": "val_loss", "goal": "minimize", "range": [0, None]},
    "horizon": {"steps": STEPS},
    "budget": {"full_runs": 8},
    "confirm": {"top": 0},  # what is confirmed decides nothing
}
FEATURES = ("log mean rate", "0 to 25 %", "50 to 75 %", "75 to 100 %", "95 to 100 %")
OTHERS = ("log steps", "drift", "shared variance", "own variance", "own length", "level variance", "noise variance")


def main() -> None:
    """Run the job and print the decision."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--decision", type=int, default=24)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    spec = AdmittedJob.model_validate(JOB | {"search": {"seed": asked.seed}})
    with tempfile.TemporaryDirectory() as folder:
        history = ended(spec, Path(folder), Path(folder), room=GIB)
    explain(spec, history, asked.decision)


def before(trial: Trial, decision: int) -> Trial | None:
    """A trial as it stood before a decision of the search; None where there was none yet."""
    stages = [stage for stage in trial.stages if stage.decision < decision]
    if not stages:
        return None
    last, state = stages[-1], trial.state
    if last.outcome == "paused":
        state = TrialState.PAUSED
    elif len(stages) < len(trial.stages):
        state = TrialState.STOPPED  # by the pruner, and resumed later
    changes: dict[str, Any] = {name: getattr(last, name) for name in ("start", "until", "step", "decision")}
    changes["state"] = state
    changes["reused"] = last.step - sum(stage.cost for stage in stages)
    changes["reports"] = [report for report in trial.reports if report.step <= last.step]
    return trial.model_copy(update=changes | {"stages": stages})


def explain(spec: AdmittedJob, history: Sequence[Trial], number: int) -> None:
    """Ask for a decision again, and print what it rests on."""

    def watched(owner: Any, name: str) -> Any:
        return patch.object(owner, name, autospec=True, side_effect=getattr(owner, name))

    past = [was for trial in history if (was := before(trial, number))]
    with (
        watched(sampler._Search, "decide") as one,
        watched(WeighedModel, "variance_explained") as explained,
        watched(decide, "gittins_index") as index,
    ):
        proposal = search.advance(spec, past, steps=STEPS, seconds=0.0).proposal
    stages = sorted(((s.decision, t, s) for t in history for s in t.stages), key=lambda one: one[0])
    later = [(trial, stage) for decision, trial, stage in stages if decision >= number]
    if proposal is None or not later or (proposal.run, proposal.reason) != (later[0][0].run, later[0][1].why):
        raise SystemExit(f"decision {number} is none of the search's, or did not come out as in the job")
    if not index.called:
        raise SystemExit(f"decision {number} weighed no stages: {proposal.reason}")
    model, rows, until, _ = explained.call_args.args
    left, seen = one.call_args.args[2], len(model.process.seen.steps)
    print(f"before decision {number}: {left:.4g} full runs left, {seen} observations")
    known(past, model)
    fitted(model)
    weighed(one.call_args.args[0].candidates, past, model, rows, until, index.call_args.args)
    print(f"\ntrial {later[0][0].number} until step {proposal.until or proposal.horizon}: {proposal.reason}")
    shown = [(t, s) for place, (t, s) in enumerate(later) if place < 2 or t is later[0][0]]
    ends = [dict(t.values("val_loss")).get(s.step) for t, s in shown]
    rows = [(s.decision, t.number, s.start, s.step, s.cost, end) for (t, s), end in zip(shown, ends, strict=True)]
    table("decision trial from to cost value", rows)
    best = min((t for t in history if t.completed(STEPS)), key=lambda t: t.value or 0.0)
    print(f"\nbest of the job: trial {best.number}, {' '.join(described(best.configuration))}, {best.value:.4g}")


def known(past: Sequence[Trial], model: WeighedModel) -> None:
    """The trials and what each showed last; a range test is no run of the engine's and has no score."""
    in_order = [t.number for t in sorted(past, key=lambda t: t.decision) if t.role != "range-test"]
    runs, rows = dict(zip(in_order, model.runs, strict=True)), []
    for trial in past:
        step, value = trial.values("val_loss")[-1]
        run = runs.get(trial.number)
        score = model.normaliser.score(*np.array(run.reports[-1:]).T)[0] if run else ""
        rows.append((trial.number, *described(trial.configuration), trial.state, step, value, score))
    table("trial family peak warm-up state step value score", rows)


def fitted(model: WeighedModel) -> None:
    """Where the normaliser puts the best and its scale, and the kernel's hyper-parameters beside their priors."""
    ends = {s: model.normaliser.value(s, np.array([0.0, np.log(2.0)])) for s in (20, 40, 80, 120, 200, STEPS)}
    table("step low scale", [(step, low, high - low) for step, (low, high) in ends.items()])
    knobs = model.pool.extras.shape[1]
    prior = make_prior(np.array([*RATE_SCALES, *(EXTRA_SCALE,) * knobs])).mean
    names = [*FEATURES, *(f"knob {knob}" for knob in range(knobs)), *OTHERS]
    pairs = zip(names, model.process.theta, prior, strict=True)
    rows = [(name, *(v if name == "drift" else np.exp(v) for v in values)) for name, *values in pairs]
    table("parameter fitted prior", [*rows, ("mean score", model.mean)])
    if model.law:
        values = [model.law.prior.mean, model.law.parameters, model.law.prior.std]
        table("parameter expected fitted std", list(zip(NAMES, *values, strict=True)))
        print(f"\nrest {model.law.rest}, unit {model.law.unit:.4g}, the law's share {model.share:.3f}")


def weighed(
    candidates: Sequence[Configuration], past: Sequence[Trial], model: WeighedModel, rows: Any, until: Any, given: Any
) -> None:
    """The ways to train the shortlist, the highest Gittins index first; `given` is what the index was computed from."""
    best, mean, std, explained, price = given
    index, gain = gittins_index(*given), improvement(best, mean, std)
    print(f"\n{len(candidates)} candidates, {len(mean)} ways weighed, best {best:.4f}")
    stages, found = np.stack([until.reshape(price.shape), price, explained], axis=2), []
    numbers = {trial.configuration: trial.number for trial in past}
    for i in np.argsort(-index, kind="stable")[:SHOWN]:
        configuration = candidates[model.pool.keys[rows.reshape(price.shape)[i, 0]]]
        weights = [f"{step:.0f}: {cost:.3f}, {share:.0%}" for step, cost, share in stages[i] if cost > 0]
        number = numbers.get(configuration, "new")
        end = rows.reshape(price.shape)[i, -1:]
        both = [one.forecast(end)[0][0] if one else "" for one in (model.law, model.process)]
        ends = (*both, mean[i], model.forecast(end).std[0], std[i], gain[i], index[i])
        found.append((number, *described(configuration), *ends, "; ".join(weights)))
    table("trial family peak warm-up law process mean mixture std EI index stages", found)


def described(configuration: Configuration) -> tuple[str, str, str]:
    """Family, peak rate, and warm-up."""
    return configuration.kind[1], f"{configuration.learning_rate:.3g}", f"{configuration.warmup:.0%}"


def table(head: str, rows: Sequence[Sequence[Any]]) -> None:
    """Print a table in Markdown."""
    print("\n| " + " | ".join(head.split()) + " |\n|" + " --- |" * len(head.split()))
    for row in rows:
        print("| " + " | ".join(f"{cell:.4g}" if isinstance(cell, float) else f"{cell}" for cell in row) + " |")


if __name__ == "__main__":
    main()
