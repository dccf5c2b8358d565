"""The curve sampler in a plain Optuna study: twenty lines."""

import math

import optuna

from lrtune.search import CurveSampler


def curve(params: dict[str, float]) -> list[float]:
    """Hold the peak, then decay it to zero over the last part of the run."""
    return [params["lr"] * min(1.0, (1 - (i + 0.5) / 64) / params["decay"]) for i in range(64)]


def objective(trial: optuna.Trial) -> float:
    """Best at one mean rate and one decay."""
    params = {"lr": trial.suggest_float("lr", 1e-5, 1.0, log=True), "decay": trial.suggest_float("decay", 0.05, 1.0)}
    mean = sum(curve(params)) / 64  # stands for a training run
    return (math.log(mean / 0.01)) ** 2 + (params["decay"] - 0.4) ** 2


if __name__ == "__main__":
    study = optuna.create_study(sampler=CurveSampler(curve, horizon=1000, seed=0))
    study.optimize(objective, n_trials=20)
    print(study.best_params, study.best_value)
