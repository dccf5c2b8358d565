"""Searches compared by real training, through the same `advance`, `stop_reason` and `train` that jobs run.

    python -m benchmarks.live --searches tpe,curve,curve+forecast --full-runs 14 --seeds 3
    python -m benchmarks.live --task images --dataset mnist1d.npz --data-dir DIR --steps 600

A search is a sampler, or a sampler and a pruner joined by `+`. Printed for each seed: the best value of a whole run
after a third, two thirds and all of the budget. One worker, one thread, nothing over HTTP and nothing stored.
"""

import argparse
import platform
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import torch

from lrtune import search
from lrtune.results import Proposal, Report, Trial, TrialState
from lrtune.spec import JobSpec
from lrtune.task import Task
from worker.tasks import prepare
from worker.trainer import train


def job(arguments: argparse.Namespace, name: str, seed: int) -> JobSpec:
    """The job of one study, without confirming runs."""
    sampler, _, pruner = name.partition("+")
    params = {"dataset": arguments.dataset} if arguments.dataset else {}
    return JobSpec.model_validate(
        {
            "task": {"name": arguments.task, "params": params},
            "metric": {"name": "val_loss", "goal": "minimize"},
            "horizon": {"steps": arguments.steps},
            "search": {"sampler": sampler, "pruner": pruner or "none", "seed": seed},
            "budget": {"full_runs": arguments.full_runs},
            "confirm": {"top": 0, "seeds": 0},
        }
    )


def study(spec: JobSpec, task: Task, *, steps: int) -> list[Trial]:
    """Every trial of a job, trained one after the other."""
    history: list[Trial] = []
    while (step := search.advance(spec, history, steps=steps, seconds=0.0)).proposal is not None:
        history.append(_trained(spec, task, history, step.proposal, steps=steps))
    return history


def _trained(spec: JobSpec, task: Task, history: Sequence[Trial], proposal: Proposal, *, steps: int) -> Trial:
    if spec.metric is None:
        raise ValueError("a job names its metric")
    trial = Trial(
        number=len(history),
        role=proposal.role,
        state=TrialState.RUNNING,
        configuration=proposal.configuration,
        seed=0,  # paired: every study trains with the same seed, only the search differs
        horizon=max(2, round(proposal.fraction * steps)),
    )
    reports: list[Report] = []

    def on_report(report: Report) -> str | None:
        reports.append(report)
        return search.stop_reason(spec, history, trial.model_copy(update={"reports": list(reports)}))

    device = torch.device("cpu")
    ended = train(task, trial, metric=spec.metric, device=device, on_report=on_report, should_stop=lambda: None)
    return trial.model_copy(update={"state": ended.state, "value": ended.value, "step": ended.step, "reports": reports})


def best_after(history: Sequence[Trial], runs: float, *, steps: int) -> float:
    """The best whole run within a cost in full runs."""
    cost, best = 0.0, float("inf")
    for trial in history:
        cost += trial.step / steps
        whole = trial.state is TrialState.COMPLETE and trial.horizon == steps
        if whole and trial.value is not None and cost <= runs + 1e-9:
            best = min(best, trial.value)
    return best


def main() -> None:
    """Compare, and print a line for each study and the medians."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.live", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--searches", default="tpe,curve,curve+forecast")
    parser.add_argument("--task", default="digits")
    parser.add_argument("--dataset", help="below --data-dir, for a task that reads a file")
    parser.add_argument("--data-dir", type=Path, default=Path(".lrtune/data"))
    parser.add_argument("--steps", type=int, default=960)
    parser.add_argument("--full-runs", type=float, default=14.0)
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{arguments.task}, {arguments.steps} steps, on {platform.machine()}, Python {platform.python_version()}")
    for name in arguments.searches.split(","):
        ends = []
        for seed in range(arguments.seeds):
            spec = job(arguments, name, seed)
            history = study(spec, prepare(spec.task, arguments.data_dir), steps=arguments.steps)
            shares = (arguments.full_runs / 3, arguments.full_runs * 2 / 3, arguments.full_runs)
            values = [best_after(history, runs, steps=arguments.steps) for runs in shares]
            ends.append(values[-1])
            print(f"{name:16} seed {seed}: " + "  ".join(f"{value:.4f}" for value in values), flush=True)
        print(f"{name:16} median: {median(ends):.4f}")


if __name__ == "__main__":
    main()
