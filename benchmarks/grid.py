"""The truth that `benchmarks.live` is measured against: a dense grid, trained by a plain torch loop of its own.

    python -m benchmarks.grid --task digits --out DIR

Every schedule family of a job at every other peak rate of its space, one seed; then the peaks between for the best few;
then the best of all over seeds that chose nothing. No service, no worker, no search: only the task, its network and its
batches are theirs. The file, `DIR/grid-TASK.json`, has every value and the mean of the leaders; what is in it already
is not trained again.
"""

import argparse
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch

from benchmarks.live_study import job
from benchmarks.live_tasks import TASKS, Live, lay_out, prepared
from lrtune.optimizers import Adamw
from lrtune.search.baseline import baseline
from lrtune.space import Choice
from lrtune.task import Task
from lrtune.wire.configuration import Configuration
from lrtune.wire.job import TaskSpec

FIRST = 100  # the seed by which leaders are chosen; those that follow say how good they are
WARMUP = 0.05
LEADERS, SEEDS = 6, 8  # so many are trained over so many seeds
REFINED = 6  # leaders whose neighbouring peaks are tried


def trained(task: Task, configuration: Configuration, seed: int, steps: int) -> float | None:
    """The validation loss at the end of one run with AdamW; None if it is not finite."""
    torch.manual_seed(seed)
    model, knobs = task.model(), configuration.optimizer
    assert isinstance(knobs, Adamw)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=0.0, betas=(knobs.beta1, knobs.beta2), eps=knobs.eps, weight_decay=knobs.weight_decay
    )
    for rate, batch in zip(configuration.learning_rates(steps), task.batches(seed), strict=False):
        optimizer.param_groups[0]["lr"] = rate
        optimizer.zero_grad()
        task.loss(model, batch).backward()
        if configuration.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(model.parameters(), configuration.clip_norm)
        optimizer.step()
    model.eval()
    with torch.no_grad():
        loss = task.evaluate(model)["val_loss"]
    return loss if math.isfinite(loss) else None


class Truth:
    """What is known of a task: the value of each configuration by seed, kept in a file."""

    def __init__(self, live: Live, data: Path, file: Path) -> None:
        self.live, self.task, self.file = live, prepared(TaskSpec.model_validate(live.spec()), data), file
        known = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
        about = {"task": live.spec(), "steps": live.steps}
        if known and {name: known[name] for name in about} != about:
            raise SystemExit(
                f"{file} is of {known['task']} over {known['steps']} steps: delete it, or name another --out"
            )
        self.about: dict[str, Any] = about
        self.values: dict[str, dict[str, float | None]] = known.get("values", {})

    def value(self, configuration: Configuration, seed: int) -> float:
        """The value of one run, trained if it is not known; infinite where it diverged."""
        one = self.values.setdefault(configuration.model_dump_json(), {})
        if str(seed) not in one:
            one[str(seed)] = trained(self.task, configuration, seed, self.live.steps)
            self.save()
        found = one[str(seed)]
        return math.inf if found is None else found

    def over(self, configuration: Configuration, seeds: int) -> list[float]:
        """Its values over the seeds that chose nothing."""
        return [self.value(configuration, FIRST + 1 + seed) for seed in range(seeds)]

    def save(self) -> None:
        """Write what is known, whole or not at all."""
        new = self.file.with_suffix(".new")
        new.write_text(json.dumps(self.about | {"values": self.values}), encoding="utf-8")
        new.replace(self.file)


def space(live: Live) -> tuple[list[str], list[float]]:
    """The schedule families and the peak rates of a job about this task."""
    found = job(live, sampler="curve", pruner="none", seed=0, full_runs=1).space()
    axis = found.optimizers["adamw"]["learning_rate"]
    assert isinstance(axis, Choice)
    return list(found.schedules), [float(rate) for rate in axis.options]  # type: ignore[arg-type]


def untuned(live: Live) -> Configuration:
    """The baseline of a job about this task."""
    return baseline(job(live, sampler="curve", pruner="none", seed=0, full_runs=1), steps=live.steps).configuration


def at(family: str, peak: float) -> Configuration:
    """A family with its usual knobs at a peak rate."""
    return Configuration.model_validate(
        {"optimizer": "adamw", "learning_rate": peak, "schedule": family, "warmup": WARMUP, "clip_norm": 1.0}
    )


def searched(truth: Truth) -> list[Configuration]:
    """The grid, the best first, by one seed."""
    families, peaks = space(truth.live)
    first = _ranked(truth, [at(family, peak) for family in families for peak in peaks[::2]])
    between = [at(family, peak) for one in first[:REFINED] for family, peak in _beside(one, peaks)]
    return _ranked(truth, dict.fromkeys([*first, *between]))


def _beside(one: Configuration, peaks: Sequence[float]) -> Iterator[tuple[str, float]]:
    place = peaks.index(one.learning_rate)
    yield from ((one.kind[1], peaks[near]) for near in (place - 1, place + 1) if 0 <= near < len(peaks))


def _ranked(truth: Truth, some: Iterable[Configuration]) -> list[Configuration]:
    found, some = {}, list(some)
    for done, one in enumerate(some, start=1):
        found[one] = truth.value(one, FIRST)
        print(f"\r{truth.live.name}: {done}/{len(some)} of the grid", end="", flush=True)
    print()
    return sorted(some, key=found.__getitem__)


def best(truth: Truth, leaders: int, seeds: int) -> tuple[Configuration, float]:
    """The best of the grid's leaders by their means over fresh seeds."""
    means = {one: fmean(truth.over(one, seeds)) for one in searched(truth)[:leaders]}
    truth.about["best"] = {one.model_dump_json(): mean for one, mean in means.items()}
    truth.save()
    found = min(means, key=means.__getitem__)
    return found, means[found]


def main() -> None:
    """Train the grid of each task, and print its leaders."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default=",".join(TASKS), help="one or several, with commas between")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--data", type=Path, help="a folder whose files take the place of the made ones")
    parser.add_argument("--leaders", type=int, default=LEADERS)
    parser.add_argument("--seeds", type=int, default=SEEDS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    lay_out(args.out, args.data)
    for name in args.task.split(","):
        truth = Truth(TASKS[name], args.out, args.out / f"grid-{name}.json")
        best(truth, args.leaders, args.seeds)
        print("| task | schedule | peak | mean | standard deviation over seeds |\n|" + " --- |" * 5)
        for leader, mean in sorted(truth.about["best"].items(), key=lambda pair: pair[1]):
            one = Configuration.model_validate_json(leader)
            spread = stdev(truth.over(one, args.seeds))
            print(f"| {name} | {one.kind[1]} | {one.learning_rate:.4g} | {mean:.4f} | {spread:.4f} |", flush=True)


if __name__ == "__main__":
    main()
