"""Ray Tune's ASHA on the tasks of `benchmarks.live`, trained by this service's own trainer.

    pip install "lrtune[bench]"

`ray-asha` draws at random, which is Ray's own way; `ray-asha-tpe` asks Optuna's TPE through Ray's `OptunaSearch`. Both
search the job's own space, begin with the untuned baseline where they can (`ray-asha`), and halve at Ray's defaults:
grace period 1 report of 20, reduction factor 4. One trial at a time, as one worker; a divergence is reported as a
very bad value. The study ends when the budget is spent, to the report.
"""

import logging
import math
import os
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.live_study import Ran
from benchmarks.live_tasks import Live, prepared
from lrtune.search import suggest
from lrtune.search.studies.draw import RandomTrial
from lrtune.search.studies.space import coordinates
from lrtune.wire.configuration import Configuration
from lrtune.wire.job import AdmittedJob
from lrtune.wire.results import REPORTS, Report, Trial, TrialState
from worker.trainer import train

STRATEGIES = ("ray-asha", "ray-asha-tpe")
BAD = 1e6
LOTS = 2**31 - 1
MISSING = 'Ray Tune is not installed: pip install "lrtune[bench]", or leave out the strategies ray-asha'


def start(folder: Path) -> None:
    """A Ray of one CPU on this machine. Ends the program in words where Ray is missing."""
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AIR_NEW_OUTPUT": "0", "OMP_NUM_THREADS": "1"}
    try:
        import ray
        import ray.tune
    except ImportError:
        raise SystemExit(MISSING) from None
    logging.getLogger("ray").setLevel(logging.ERROR)
    ray.init(
        num_cpus=1,
        include_dashboard=False,
        logging_level=logging.ERROR,
        log_to_driver=False,
        object_store_memory=100 * 2**20,
        _temp_dir=str(folder),
        runtime_env={"env_vars": {"PYTHONPATH": str(Path.cwd()), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}},
    )


def study(strategy: str, spec: AdmittedJob, live: Live, folder: Path) -> list[Ran]:
    """The trials of one ASHA study, in their order."""
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler

    random = strategy == "ray-asha"
    settings = tune.TuneConfig(
        metric="value",
        mode="min",
        num_samples=10_000,
        reuse_actors=True,
        scheduler=ASHAScheduler(time_attr="reports", max_t=REPORTS),
        search_alg=_random(spec.search.seed) if random else _tpe(spec),
    )
    with tempfile.TemporaryDirectory(dir=folder) as place:
        tuner = tune.Tuner(
            _trainable(spec, live, folder),
            param_space={"lot": tune.randint(1, LOTS)} if random else None,
            tune_config=settings,
            run_config=tune.RunConfig(storage_path=place, stop=_until(spec.budget.full_runs or 1.0), verbose=0),
        )
        grid = tuner.fit()
    seen = [(grid[i].config, grid[i].metrics) for i in range(len(grid))]
    return [_ran(chosen(spec, config or {}), metrics) for config, metrics in seen if metrics and "reports" in metrics]


def _ran(configuration: Configuration, metrics: Mapping[str, Any]) -> Ran:
    """A trial from the last thing that it reported."""
    value, reports = float(metrics["value"]), int(metrics["reports"])
    state = "diverged" if value >= BAD else "complete" if reports == REPORTS else "stopped"
    return Ran(configuration, state, float(metrics["share"]), value if state == "complete" else None)


def _random(seed: int) -> Any:
    from ray.tune.search.basic_variant import BasicVariantGenerator

    state = np.random.RandomState(seed)
    return BasicVariantGenerator(points_to_evaluate=[{"lot": 0}], random_state=state, max_concurrent=1)


def _tpe(spec: AdmittedJob) -> Any:
    from ray.tune.search import ConcurrencyLimiter
    from ray.tune.search.optuna import OptunaSearch

    search = OptunaSearch(partial(_asked, spec.model_dump_json()), metric="value", mode="min", seed=spec.search.seed)
    return ConcurrencyLimiter(search, max_concurrent=1)


def _asked(spec: str, trial: Any) -> None:
    """Ask Optuna for one knob of a job after the other; Ray keeps what was asked, and this as a pickle."""
    coordinates(AdmittedJob.model_validate_json(spec)).draw(trial)


def chosen(spec: AdmittedJob, config: Mapping[str, Any]) -> Configuration:
    """The configuration that Ray asked for: lot 0 is the baseline, another lot a draw, else knobs by name."""
    if config.get("lot") == 0:
        return suggest(spec, [], steps=spec.horizon.steps or 1).configuration
    if "lot" in config:
        return coordinates(spec).draw(RandomTrial(np.random.default_rng(config["lot"])))
    return coordinates(spec).draw(RandomTrial(np.random.default_rng(0), config))


def _until(full_runs: float) -> Any:
    """Ray's way to end everything: once the trials have paid for the budget."""
    from ray import tune

    class Budget(tune.Stopper):
        def __init__(self) -> None:
            self._paid: dict[str, float] = {}

        def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
            self._paid[trial_id] = result["share"]
            return False

        def stop_all(self) -> bool:
            return sum(self._paid.values()) >= full_runs - 1e-9

    return Budget()


def _trainable(spec: AdmittedJob, live: Live, folder: Path) -> Callable[[dict[str, Any]], None]:
    """What Ray calls for each trial, in a process of its own."""
    steps, metric = live.steps, spec.metric

    def trained(config: dict[str, Any]) -> None:
        from ray import tune

        torch.set_num_threads(1)
        reported: list[int] = []

        def tell(value: float | None, step: int) -> None:
            reported.append(step)
            known = BAD if value is None or not math.isfinite(value) else min(value, BAD / 2)
            tune.report({"value": known, "reports": len(reported), "share": step / steps})

        def on_report(report: Report) -> None:
            tell(report.metrics[metric.name], report.step)

        trial = Trial(
            number=0,
            role="search",
            state=TrialState.RUNNING,
            configuration=chosen(spec, config),
            seed=spec.search.seed,
            horizon=steps,
        )
        device = torch.device("cpu")
        task = prepared(spec.task, folder)
        ended = train(task, trial, metric=metric, device=device, on_report=on_report, should_stop=lambda: None)  # type: ignore[arg-type]
        if ended.state is TrialState.DIVERGED and ended.step not in reported:
            tell(None, ended.step)

    return trained
