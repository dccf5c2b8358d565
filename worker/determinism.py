"""Determinism as a job asks for it: `exact`, `preferred` or `off`, and what of a training cannot be had exactly.

Under `exact` torch raises where it has no deterministic algorithm; under `preferred` it warns and goes on, and its
warnings are gathered here so that the job's log names them, each once; under `off` it takes whatever is fastest.
"""

import os
import random
import re
import warnings
from collections.abc import Callable
from types import TracebackType
from typing import Any, Literal

import numpy as np
import torch

from lrtune.wire.job import Training

Mode = Literal["exact", "preferred", "off"]
WITHOUT = re.compile(r"(.{1,200}?) (?:does not have a deterministic implementation|defaults to a non-deterministic)")
SHARED = "a beginning that another trial has trained is the same training up to the device's own noise"
MEANING = {
    "exact": "the same bits each time; a trial fails where torch has no deterministic algorithm",
    "preferred": f"torch takes deterministic algorithms where it has them; {SHARED}",
    "off": f"torch takes whatever is fastest; {SHARED}",
}


def mode_of(training: Training, device: torch.device) -> Mode:
    """What a job asks for, or what its device has for a default."""
    return training.determinism or ("exact" if device.type == "cpu" else "preferred")


def words_of(training: Training, device: torch.device) -> str:
    """What a job's log says of it; nothing where it is as everybody expects: not asked for, and exact."""
    mode = mode_of(training, device)
    if training.determinism is None and mode == "exact":
        return ""
    default = "" if training.determinism else f", the default on {device.type}"
    return f"training.determinism is {mode}{default}: {MEANING[mode]}"


def make_deterministic(seed: int, mode: Mode = "exact", *, matmul: str = "highest") -> None:
    """Seed every generator, and have torch choose algorithms as `mode` says and multiply as `matmul` says."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # always: it is read once, as CUDA starts
    torch.use_deterministic_algorithms(mode != "off", warn_only=mode == "preferred")
    torch.utils.deterministic.fill_uninitialized_memory = mode == "exact"  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = mode == "off"
    torch.set_float32_matmul_precision(matmul)
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)  # of every device


def refused(error: BaseException) -> str:
    """The sentence for an operation that `exact` has refused; nothing for any other error."""
    strict = torch.are_deterministic_algorithms_enabled() and not torch.is_deterministic_algorithms_warn_only_enabled()
    found = WITHOUT.match(str(error))
    if found is None or not strict or not isinstance(error, RuntimeError):
        return ""
    return (
        f"training.determinism: found exact; {found[1]} has no deterministic algorithm here, "
        "so accepted are preferred and off"
    )


class Noticing:
    """A `with` around a training under `preferred`: what torch warns of, each name given once to `say`."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say, self._names, self._known = say, dict[str, None](), 0
        self._catching = warnings.catch_warnings()

    def __enter__(self) -> "Noticing":
        self._catching.__enter__()
        others = warnings.showwarning

        def show(message: Warning | str, *rest: Any) -> None:
            if found := WITHOUT.match(str(message)):
                self._names[found[1].strip()] = None
            else:
                others(message, *rest)

        # Once for each place in the code: entering made Python forget what it has shown before.
        warnings.filterwarnings("default", message=WITHOUT.pattern)
        warnings.showwarning = show  # type: ignore[assignment]
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._catching.__exit__(kind, error, at)
        if error is None:
            self.pass_on()

    def pass_on(self) -> None:
        """Say what has come to be known since the last time."""
        new, self._known = sorted([*self._names][self._known :]), len(self._names)
        if new:
            self._say(f"not deterministic on this device, and trained all the same: {', '.join(new)}")
