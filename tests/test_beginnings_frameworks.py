"""A trial that begins at another's checkpoint, in the frameworks: it is the one trained from its first step."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lrtune.analysis.prefixes import begins_alike
from lrtune.loop import LoopTrial
from tests import test_stages_accelerate as accelerated
from tests import test_stages_keras as keras
from tests import test_stages_lightning as lightning
from tests import test_stages_transformers as transformers
from tests.offline import ADAMW, STEPS, handout
from tests.staged import Pausing

pytestmark = [
    pytest.mark.filterwarnings(f"ignore::{kind}") for kind in ("UserWarning", "FutureWarning", "DeprecationWarning")
]
AT = 6
TRUNK = ADAMW | {"schedule": {"family": "constant"}}
BRANCH = ADAMW | {"schedule": {"family": "wsd", "decay": 0.5}}
Trains = Callable[[LoopTrial], tuple[list[float], list[Any]]]
FRAMEWORKS: dict[str, tuple[str, Callable[[Path], Trains]]] = {
    "Transformers": ("eval_loss", lambda folder: lambda trial: transformers.train(trial, folder / "out")),
    "Lightning": ("val_loss", lambda _: lightning.train),
    "Keras": ("val_loss", lambda _: keras.train),
    "Accelerate": ("val_loss", lambda _: accelerated.train),
}


def trial(folder: Path, configuration: dict[str, Any], number: int, metric: str, **asked: Any) -> LoopTrial:
    found = handout(configuration, STEPS, metric)
    found = found.model_copy(update=asked | {"trial": found.trial.model_copy(update={"number": number})})
    return LoopTrial(Pausing(found), "job", found, folder=folder / "kept")


@pytest.mark.parametrize("name", FRAMEWORKS)
def test_a_run_that_begins_at_anothers_checkpoint_is_bit_for_bit_the_one_of_one_piece(
    name: str, tmp_path: Path
) -> None:
    metric, made = FRAMEWORKS[name]
    train = made(tmp_path)
    trunk = trial(tmp_path, TRUNK, 0, metric, until=AT)
    train(trunk)
    checkpoint = trunk._door.end.checkpoint  # type: ignore[attr-defined]
    branch = trial(tmp_path, BRANCH, 1, metric, start=AT, checkpoint=checkpoint)
    whole = trial(tmp_path, BRANCH, 1, metric)
    assert begins_alike(trunk._trial, branch._trial, AT, branch._held.metric)
    assert trunk.learning_rate(STEPS - 1) != branch.learning_rate(STEPS - 1)
    (losses, weights), (rest, same) = train(whole), train(branch)
    assert rest == losses[len(losses) // 2 :]
    assert same == weights
