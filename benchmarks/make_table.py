"""Make replay tables by real training, so that anybody can benchmark a search without logged data of others.

    python -m benchmarks.make_table --out DIR --task digits --optimizer adamw --steps 960

Tasks: `digits` (an MLP on scikit-learn's noisy 8x8 digits, many epochs, over-fits), `char` (a small character model on
the standard library's own source text, less than one pass), `prose` (a deeper one, on the text of Python's reference
manual), `modules` (a wider one, on other source text) and `packages` (a small transformer, on other source again).
`--broad N` draws N random configurations with other knobs beside the rate instead of the grid of schedules and peak
rates. A table takes minutes on one core.
"""

import argparse
import gzip
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.table_tasks import Batch, Characters, Digits, Modules, Packages, Prose, Task

WARMUP = 0.05
REPORTS = 16


def _wsd(decay: float, root: bool = False) -> Callable[[float], float]:
    def factor(u: float) -> float:
        v = min(max((u - (1 - decay)) / decay, 0.0), 1.0)
        return 1 - math.sqrt(v) if root else 1 - v

    return factor


# Label -> (family, knobs, factor of the peak at progress u after the warm-up).
SCHEDULES: dict[str, tuple[str, dict[str, Any], Callable[[float], float]]] = {
    "constant": ("constant", {}, lambda _: 1.0),
    "cosine": ("cosine", {"final": 0.0}, lambda u: 0.5 * (1 + math.cos(math.pi * u))),
    "cosine10": ("cosine", {"final": 0.1}, lambda u: 0.1 + 0.45 * (1 + math.cos(math.pi * u))),
    "linear": ("linear", {"final": 0.0}, lambda u: 1 - u),
    "poly3": ("polynomial", {"power": 3}, lambda u: (1 - u) ** 3),
    "exp100": ("exponential", {"final": 0.01}, lambda u: 0.01**u),
    "exp5": ("exponential", {"final": 0.2}, lambda u: 0.2**u),
    "inverse-time": ("inverse-time", {"decay": 10}, lambda u: 1 / (1 + 10 * u)),
    "step80": ("step", {"every": 0.8, "gamma": 0.1}, lambda u: 1.0 if u < 0.8 else 0.1),
    "multistep": ("multistep", {"milestones": [0.4, 0.8], "gamma": 0.2}, lambda u: 0.2 ** ((u >= 0.4) + (u >= 0.8))),
    "wsd15": ("wsd", {"decay": 0.15, "shape": "linear", "final": 0.0}, _wsd(0.15)),
    "wsd30s": ("wsd", {"decay": 0.3, "shape": "sqrt", "final": 0.0}, _wsd(0.3, root=True)),
    "wsd60": ("wsd", {"decay": 0.6, "shape": "linear", "final": 0.0}, _wsd(0.6)),
}
_HOLDS = {"constant": 1.0, "step80": 0.8, "multistep": 0.4, "wsd15": 0.85, "wsd30s": 0.7, "wsd60": 0.4}


@dataclass(frozen=True)
class Config:
    """One thing to train: a schedule, its peak rate, and the optimizer's other knobs."""

    name: str
    label: str
    peak: float
    knobs: dict[str, float]
    extras: dict[str, float]


def rates(config: Config, steps: int) -> list[float]:
    """The learning rate of every step: a linear warm-up, then the family's own progress."""
    warm = max(1, round(WARMUP * steps))
    factor = SCHEDULES[config.label][2]
    after = [factor(i / (steps - warm)) for i in range(steps - warm)]
    return [config.peak * f for f in [(i + 1) / warm for i in range(warm)] + after]


TASKS: dict[str, Callable[[int], Task]] = {
    "digits": Digits,
    "char": Characters,
    "prose": Prose,
    "modules": Modules,
    "packages": Packages,
}


def _optimizer(name: str, model: nn.Module, knobs: dict[str, float]) -> torch.optim.Optimizer:
    if name == "sgd":
        return torch.optim.SGD(
            model.parameters(), lr=0.0, momentum=knobs["momentum"], weight_decay=knobs["weight_decay"]
        )
    betas = knobs["beta1"], 0.999
    return torch.optim.AdamW(model.parameters(), lr=0.0, betas=betas, weight_decay=knobs["weight_decay"], foreach=True)


def _validate(model: nn.Module, valid: Batch) -> float:
    with torch.no_grad():
        return float(nn.functional.cross_entropy(model(valid[0]), valid[1]))


def train(task: Task, optimizer: str, config: Config, steps: int) -> list[tuple[int, float | None]]:
    """Train once: the validation value at sixteen (or a few less) evenly spaced steps, None where it is not finite."""
    model, reports = task.model(), []
    opt = _optimizer(optimizer, model, config.knobs)
    every = steps // next(n for n in range(REPORTS, 0, -1) if steps % n == 0)
    for step, (rate, (x, y)) in enumerate(zip(rates(config, steps), task.batches(), strict=False), start=1):
        opt.param_groups[0]["lr"] = rate
        opt.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        opt.step()
        if step % every == 0:
            value = _validate(model, task.valid)
            reports.append((step, round(value, 6) if math.isfinite(value) else None))
    return reports


def _knobs(optimizer: str) -> dict[str, float]:
    return {"momentum": 0.9, "weight_decay": 0.0} if optimizer == "sgd" else {"beta1": 0.9, "weight_decay": 0.01}


def grid(optimizer: str, peaks: tuple[float, float], n_peaks: int) -> list[Config]:
    """Every schedule at geometrically spaced peak rates."""
    names = [(label, float(f"{peak:.5g}")) for label in SCHEDULES for peak in np.geomspace(*peaks, n_peaks)]
    return [Config(f"{label}|lr={peak:g}", label, peak, _knobs(optimizer), {}) for label, peak in names]


def broad(optimizer: str, peaks: tuple[float, float], n: int, seed: int) -> list[Config]:
    """Random schedules and rates over a range far too wide, with two other knobs."""
    random = np.random.default_rng(seed)
    low, high = math.log10(peaks[0]) - 2, math.log10(peaks[1]) + 1
    configs = []
    for i in range(n):
        momentum, decay = random.uniform(-2.5, 0), random.uniform(-6, 0)
        name = "momentum" if optimizer == "sgd" else "beta1"
        knobs = {name: 1 - 10**momentum, "weight_decay": 10**decay}
        extras = {f"log10_one_minus_{name}": momentum, "log10_weight_decay": decay}
        configs.append(
            Config(f"{i:04d}", str(random.choice(list(SCHEDULES))), 10 ** random.uniform(low, high), knobs, extras)
        )
    return configs


def _row(task: Task, optimizer: str, config: Config, steps: int, sharing: bool) -> dict[str, Any]:
    reports = train(task, optimizer, config, steps)
    lr = rates(config, steps)
    family, knobs, _ = SCHEDULES[config.label]
    warm = max(1, round(WARMUP * steps))
    params = {
        "optimizer": optimizer,
        "learning_rate": config.peak,
        "schedule": family,
        "schedule_knobs": knobs,
        "warmup": WARMUP,
        **config.knobs,
    }
    row: dict[str, Any] = {
        "config": config.name,
        "params": params,
        "horizon": steps,
        "lr": [float(f"{lr[int((i + 0.5) / 64 * steps)]:.6g}") for i in range(64)],
        "extras": config.extras,
        "reports": reports,
        "final": reports[-1][1],
        "diverged": any(v is None for _, v in reports),
    }
    if sharing:
        held = _HOLDS.get(config.label, 0.0) * (steps - warm)
        row |= {"trunk": f"warmup{warm}|lr={config.peak:g}", "trunk_steps": warm + max(1, math.floor(held))}
    return row


def _entry(args: argparse.Namespace, task: Task, rows: list[dict[str, Any]], horizons: list[int]) -> dict[str, Any]:
    full = [row for row in rows if row["horizon"] == args.steps]
    finals = sorted(row["final"] for row in full if row["final"] is not None)
    # A broad random table has too few within 1 %: its threshold is the best hundredth, as on the TaskSet tables.
    threshold = finals[max(1, len(full) // 100) - 1] if args.broad else finals[0] + 0.01 * abs(finals[0])
    return {
        "name": args.name,
        "file": f"{args.name}.jsonl.gz",
        "goal": "minimize",
        "metric": task.metric,
        "target_horizon": args.steps,
        "horizons": horizons,
        "n_configs": len(full),
        "n_rows": len(rows),
        "n_at_target": len(full),
        "n_diverged": sum(row["diverged"] for row in rows),
        "source": "benchmarks.make_table",
        "licence": "that of this project",
        "noise": None,
        "best": finals[0],
        "tolerance_relative": None if args.broad else 0.01,
        "tolerance_absolute": threshold - finals[0] if args.broad else None,
        "threshold": threshold,
        "n_within": sum(f <= threshold for f in finals),
        "knob_frame": "after_warmup",
        "prefix_sharing": not args.broad,
    }


def _save(folder: Path, entry: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    """Write the rows and put the entry into tables.json, in place of an older one of that name."""
    folder.mkdir(parents=True, exist_ok=True)
    with gzip.open(folder / entry["file"], "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    index = folder / "tables.json"
    entries = json.loads(index.read_text(encoding="utf-8")) if index.exists() else []
    entries = [e for e in entries if e["name"] != entry["name"]] + [entry]
    index.write_text(json.dumps(entries, indent=1), encoding="utf-8")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--task", choices=sorted(TASKS), default="digits")
    parser.add_argument("--optimizer", choices=["sgd", "adamw"], default="sgd")
    parser.add_argument("--steps", type=int, default=960, help="target horizon, a multiple of 16")
    parser.add_argument("--shorter", default="2,4", help="also horizons of steps divided by these; empty for none")
    parser.add_argument("--peaks", default="", help="lowest,highest peak rate")
    parser.add_argument("--n-peaks", type=int, default=11)
    parser.add_argument("--broad", type=int, default=0, help="N random configurations instead of the grid")
    parser.add_argument("--name", default="")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def main() -> None:
    """Train every configuration over every horizon and write the table."""
    args = _arguments()
    torch.set_num_threads(1)
    args.name = args.name or f"{args.task}_{args.optimizer}"
    ends = args.peaks or ("0.003,3" if args.optimizer == "sgd" else "0.0001,0.1")
    low, high = (float(v) for v in ends.split(","))
    configs = (
        broad(args.optimizer, (low, high), args.broad, args.seed)
        if args.broad
        else grid(args.optimizer, (low, high), args.n_peaks)
    )
    horizons = sorted({args.steps, *(args.steps // int(k) for k in args.shorter.split(",") if k)})
    task = TASKS[args.task](args.seed)
    rows = []
    for done, config in enumerate(configs, start=1):
        rows += [_row(task, args.optimizer, config, steps, not args.broad) for steps in horizons]
        print(f"\r{done}/{len(configs)}", end="", flush=True)
    _save(args.out, _entry(args, task, rows, horizons), rows)


if __name__ == "__main__":
    main()
