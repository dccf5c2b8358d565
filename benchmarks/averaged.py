"""Whether the average of a trunk's checkpoints foretells what annealing from there would come to.

    python -m benchmarks.averaged --task char --steps 320

For each of a few held rates a trunk is trained, its last checkpoints are averaged (a free look: weights are in the
states), and the trunk is then annealed for real, linearly to nothing over a fifth of its steps. Printed are how the
trunk's own loss and the average's rank the annealed ends (Spearman), and how far each lies from them.
"""

import argparse
import copy
from collections.abc import Iterator

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import nn

from benchmarks.make_table import TASKS
from benchmarks.table_tasks import Batch, Task

EVERY, DECAY, WARMUP = 0.05, 0.2, 0.05  # of the trunk: between checkpoints, for annealing, to warm up
AVERAGED = (2, 4, 8)  # last checkpoints


def _loss(model: nn.Module, task: Task) -> float:
    with torch.no_grad():
        return float(nn.functional.cross_entropy(model(task.valid[0]), task.valid[1]))


def _train(model: nn.Module, opt: torch.optim.Optimizer, rates: list[float], batches: Iterator[Batch]) -> None:
    for rate, (x, y) in zip(rates, batches, strict=False):
        opt.param_groups[0]["lr"] = rate
        opt.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        opt.step()


def _averaged(models: list[nn.Module]) -> nn.Module:
    mean = copy.deepcopy(models[-1])
    with torch.no_grad():
        for parameter, *others in zip(*(m.parameters() for m in (mean, *models)), strict=True):
            parameter.copy_(torch.stack(others).mean(dim=0))
    return mean


def trunk(task: Task, peak: float, steps: int) -> list[float]:
    """The loss of a trunk at its end, of the averages of its last checkpoints, and of its annealed end."""
    model, batches, kept = task.model(), iter(task.batches()), list[nn.Module]()
    opt = torch.optim.AdamW(model.parameters(), lr=0.0, weight_decay=0.01, foreach=True)
    warm, every = round(WARMUP * steps), round(EVERY * steps)
    for start in range(0, steps, every):
        _train(model, opt, [peak * min(1.0, (i + 1) / warm) for i in range(start, start + every)], batches)
        kept.append(copy.deepcopy(model))
    found = [_loss(model, task), *(_loss(_averaged(kept[-n:]), task) for n in AVERAGED)]
    decay = round(DECAY * steps)
    _train(model, opt, [peak * (1 - (i + 1) / decay) for i in range(decay)], batches)
    return [*found, _loss(model, task)]


def main() -> None:
    """Train the trunks and print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=sorted(TASKS), default="char")
    parser.add_argument("--steps", type=int, default=320, help="of a trunk, a multiple of 20")
    parser.add_argument("--peaks", default="0.0003,0.03", help="lowest,highest")
    parser.add_argument("--n-peaks", type=int, default=9)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    task, (low, high) = TASKS[args.task](args.seed), (float(v) for v in args.peaks.split(","))
    peaks = np.geomspace(low, high, args.n_peaks)
    names = ["trunk", *(f"mean of {n}" for n in AVERAGED), "annealed"]
    losses = np.array([trunk(task, float(peak), args.steps) for peak in peaks])
    print("| rate | " + " | ".join(names) + " |\n" + "| --- " * (len(names) + 1) + "|")
    for peak, row in zip(peaks, losses, strict=True):
        print(f"| {peak:.4g} | " + " | ".join(f"{value:.4f}" for value in row) + " |")
    ranks = [spearmanr(column, losses[:, -1]).statistic for column in losses.T[:-1]]
    print("| rank correlation with annealed | " + " | ".join(f"{rank:.2f}" for rank in ranks) + " | |")
    apart = np.abs(losses[:, :-1] - losses[:, -1:]).mean(axis=0)
    print("| mean distance from annealed | " + " | ".join(f"{distance:.4f}" for distance in apart) + " | |")


if __name__ == "__main__":
    main()
