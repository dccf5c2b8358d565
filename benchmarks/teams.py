"""What a stage over two nodes waits for before its first step: `python -m benchmarks.teams`, on a local Ray cluster.

A trial is trained in several stages, and each begins and ends a team. Measured are the team of `worker/gang.py`, whose
processes stay, and Ray Train's TorchTrainer with a loop that does nothing.
"""

import tempfile
import threading
import time
from pathlib import Path
from statistics import median
from typing import Any

import ray
from ray.cluster_utils import Cluster
from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer
from ray.util import get_current_placement_group, placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from lrtune.wire.job import AdmittedJob
from lrtune.wire.results import Trial
from worker.gang import Gang
from worker.loop import device
from worker.settings import Settings

ROUNDS = 3
JOB = {"task": "digits", "metric": {"name": "val_loss", "goal": "minimize"}, "horizon": {"steps": 40}}
RUN = {"id": "a", "number": 0, "role": "search", "state": "running", "seed": 0, "horizon": 40}
CONFIGURATION = {"optimizer": {"name": "sgd"}, "learning_rate": 0.1, "schedule": {"family": "constant"}}


class First:
    """In the place of a worker: begins and ends teams that train nothing."""

    def teams(self) -> list[float]:
        """Seconds until the others are there, and then of each team."""
        took, began = list[float](), time.monotonic()
        settings = Settings(device="cpu")
        gang = Gang(settings, get_current_placement_group(), threading.Event())
        gang.ready()
        took.append(time.monotonic() - began)
        spec = AdmittedJob.model_validate(JOB | {"training": {"devices": 2}})
        trial = Trial.model_validate(RUN | {"configuration": CONFIGURATION})
        for _ in range(ROUNDS):
            began = time.monotonic()
            with gang.team(spec, trial, device("cpu")):
                pass
            took.append(time.monotonic() - began)
        return took


def ours() -> list[float]:
    """Two places, and what `First` says of them."""
    group = placement_group([{"CPU": 1}] * 2)
    where: Any = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=0)
    first: Any = ray.remote(First).options(num_cpus=1, scheduling_strategy=where).remote()
    took: list[float] = ray.get(first.teams.remote())
    ray.kill(first)
    ray.util.remove_placement_group(group)
    return took


def _imports() -> None:
    """A loop of Ray Train's, with as much imported as one of ours."""
    import worker.loop  # noqa: F401


def theirs(folder: str) -> list[float]:
    """Seconds of each fit."""
    took = list[float]()
    for _ in range(ROUNDS):
        began = time.monotonic()
        shape, kept = ScalingConfig(num_workers=2), RunConfig(storage_path=folder)
        TorchTrainer(_imports, torch_config=TorchConfig("gloo"), scaling_config=shape, run_config=kept).fit()
        took.append(time.monotonic() - began)
    return took


def main() -> None:
    """Measure both, one after the other."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    for _ in range(2):
        cluster.add_node(num_cpus=1)
    here = {"PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    ray.init(address=cluster.address, log_to_driver=False, configure_logging=False, runtime_env={"env_vars": here})
    with tempfile.TemporaryDirectory() as folder:
        once, *each = ours()
        print(f"a team of a worker's places: {once:.1f} s once, then {median(each):.2f} s a stage")
        print(f"Ray Train's TorchTrainer: {median(theirs(folder)):.1f} s a stage")
    ray.shutdown()
    cluster.shutdown()  # type: ignore[no-untyped-call]


if __name__ == "__main__":
    main()
