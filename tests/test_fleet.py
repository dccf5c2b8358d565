"""Workers on a Ray cluster of two nodes: as many as there is to train, also after a node has died."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster
from sqlalchemy.orm import Session

from lrtune.store import Database, jobs, workers
from lrtune.wire.job import AdmittedJob
from lrtune.wire.results import Best, JobState
from tests.leasing import SPEC
from worker.fleet import Fleet, Size

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(300)]  # Ray's own warnings
SMALL = AdmittedJob.model_validate(
    SPEC.model_dump(mode="json") | {"budget": {"full_runs": 2.0}, "confirm": {"top": 1, "seeds": 1}}
)


@pytest.fixture(scope="module")
def nodes() -> Iterator[list[Any]]:
    """Two nodes with room for two workers each, and a head with none."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    made = [cluster.add_node(num_cpus=2) for _ in range(2)]
    ray.init(address=cluster.address, log_to_driver=False, configure_logging=False)
    yield [cluster, *made]
    ray.shutdown()
    cluster.shutdown()


@pytest.fixture
def fleet(nodes: list[Any], sqlite_url: str, tmp_path: Path) -> Iterator[Fleet]:
    database = Database(sqlite_url)
    environment = {
        "LRTUNE_DATABASE_URL": sqlite_url,
        "LRTUNE_STATE_DIR": str(tmp_path / "states"),
        "LRTUNE_LEASE_SECONDS": "5",
        "PYTHONPATH": str(Path(__file__).parents[1]),
    }
    fleet = Fleet(database, Size(0, 4, gpus=0, cpus=1), environment, patience=0)
    yield fleet
    fleet.close(30)
    database.dispose()


def keep_until(fleet: Fleet, happened: Callable[[Session], bool]) -> None:
    while True:
        fleet.round()
        with fleet.database.read() as tx:
            if happened(tx):
                return
        ray.wait([member.work for member in fleet.members], timeout=0.5) if fleet.members else None


def submit(fleet: Fleet) -> str:
    with fleet.database.write() as tx:
        return jobs.create(tx, SMALL)[0].id


def answer(database: Database, job: str) -> Best:
    with database.read() as tx:
        return jobs.best(tx, job)


def test_a_fleet_grows_with_the_queue_to_its_limit_and_shrinks_to_nothing(fleet: Fleet) -> None:
    fleet.round()
    assert fleet.members == []
    submitted = [submit(fleet) for _ in range(5)]
    keep_until(fleet, lambda tx: len(workers.alive(tx)) == 4)
    assert len(fleet.members) == 4, "not five"
    with fleet.database.write() as tx:
        for job in submitted:
            jobs.cancel(tx, job)
    keep_until(fleet, lambda tx: not fleet.members and not workers.alive(tx))


def test_a_node_that_dies_changes_no_answer(fleet: Fleet, nodes: list[Any], sqlite_url: str, tmp_path: Path) -> None:
    fleet.size = Size(0, 1, gpus=0, cpus=2)
    job = submit(fleet)
    keep_until(fleet, lambda tx: sum(jobs.get(tx, job).progress.trials.values()) > 2)
    cluster, *old = nodes
    cluster.add_node(num_cpus=2)
    for node in old:  # it trains on one of them
        cluster.remove_node(node, allow_graceful=False)
    keep_until(fleet, lambda tx: jobs.get(tx, job).state is JobState.SUCCEEDED)
    fleet.environment["LRTUNE_STATE_DIR"] = str(tmp_path / "others")  # nothing is known of the first one
    keep_until(fleet, lambda tx: not fleet.members)
    again = submit(fleet)
    keep_until(fleet, lambda tx: jobs.get(tx, again).state is JobState.SUCCEEDED)
    killed, whole = answer(fleet.database, job), answer(fleet.database, again)
    assert (killed.configuration, killed.value) == (whole.configuration, whole.value)
