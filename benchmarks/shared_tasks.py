"""Tasks for the benchmarks of shared training, from what every installation has: scikit-learn's sets, Python's sources.

`--data DIR` of a benchmark takes `adult.csv` and `tinyshakespeare.txt` from there instead.
"""

import argparse
import inspect
import json
import shutil
from pathlib import Path
from types import ModuleType

import numpy as np
from sklearn.datasets import load_breast_cancer, load_digits

from lrtune.wire.job import TaskSpec


def tasks(folder: Path, *, data: Path | None = None) -> dict[str, tuple[TaskSpec, int]]:
    """Each task with its usual horizon; the files lie in `folder`."""
    table, target = _table(folder, data)
    pictures, labels = load_digits(return_X_y=True)
    np.savez(folder / "digits.npz", x=pictures.reshape(-1, 8, 8).astype(np.float32), y=labels)
    return {
        "digits": (TaskSpec(name="digits"), 960),
        "tabular": (TaskSpec(name="tabular", params={"dataset": table, "target": target}), 2000),
        "images": (TaskSpec(name="images", params={"dataset": "digits.npz"}), 1000),
        "text": (TaskSpec(name="text", params={"dataset": _text(folder, data)}), 1000),
    }


def _table(folder: Path, data: Path | None) -> tuple[str, str | int]:
    if data is not None and (data / "adult.csv").exists():
        shutil.copy(data / "adult.csv", folder / "adult.csv")
        return "adult.csv", -1
    found = load_breast_cancer(as_frame=True).frame
    found.to_csv(folder / "cancer.csv", index=False)
    return "cancer.csv", "target"


def _text(folder: Path, data: Path | None) -> str:
    if data is not None and (data / "tinyshakespeare.txt").exists():
        shutil.copy(data / "tinyshakespeare.txt", folder / "text.txt")
    else:
        modules: tuple[ModuleType, ...] = (argparse, inspect, json, shutil)
        (folder / "text.txt").write_text("\n".join(inspect.getsource(module) for module in modules))
    return "text.txt"
