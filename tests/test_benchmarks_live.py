"""The comparison by real training: what a study paid, found and lost is counted right, and jobs really train in it."""

import argparse
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks import grid, live_answers, live_ray, stages
from benchmarks.live import table
from benchmarks.live_study import Ran, Study, finished, job, stopped, study, whole
from benchmarks.live_tasks import TASKS, Live, lay_out, prepared
from lrtune.search import suggest
from lrtune.wire.configuration import Configuration

TINY = Live("tiny", "digits", 20)


def ran(rate: float, state: str, paid: float, value: float | None = None) -> Ran:
    return Ran(Configuration(optimizer="adamw", learning_rate=rate, schedule="linear"), state, paid, value)


SEEN = [
    ran(0.1, "complete", 1.0, 0.5),
    ran(0.2, "stopped", 0.25),
    ran(0.3, "stopped", 0.5),
    ran(0.4, "complete", 1.0, 0.4),
    ran(0.3, "complete", 0.5, 0.45),
    ran(0.5, "complete", 1.0, 0.1),
]


def test_a_value_counts_from_when_it_was_paid_for():
    one = Study("digits", "tpe", 0, len(SEEN), 4.25, 1, whole(SEEN), finished=[0.09, 0.3])
    assert [one.within(runs) for runs in (0.9, 2.75, 4.24, 4.25)] == [math.inf, 0.4, 0.4, 0.1]
    assert (one.cost_to(0.42), one.cost_to(0.05)) == (2.75, math.inf)
    assert (one.best, one.winners) == (0.1, 1)


def test_the_target_is_what_anybody_found_with_the_same_seed():
    ours = Study("digits", "curve", 0, 3, 3.0, 0, [(1.0, 0.5), (3.0, 0.4)], [])
    theirs = Study("digits", "ray-asha", 0, 9, 3.0, 6, [(1.0, 0.6)], [0.398])
    rows = table([ours, theirs], full_runs=3.0).splitlines()
    assert rows[2] == "| digits | curve | 0.5000 | 0.4000 | 3.0 (1 of 1) | 0 | – |"
    assert rows[3] == "| digits | ray-asha | 0.6000 | 0.6000 | never (0 of 1) | 6 | 1 of 1 |"


def test_a_stopped_run_that_went_on_to_its_end_is_no_stopped_one():
    assert [one.learning_rate for one in stopped(SEEN)] == [0.2]


def test_a_study_is_a_job_that_a_worker_trains_and_a_finished_run_repeats_it(tmp_path):
    torch.set_num_threads(1)
    spec = job(TINY, sampler="random", pruner="none", seed=3, full_runs=3)
    found = study(spec, TINY, tmp_path)
    assert [one.paid for one in found] == [1.0, 1.0, 1.0]
    assert found[0].configuration == suggest(spec, [], steps=spec.horizon.steps).configuration
    assert finished(spec, found[2].configuration, TINY, tmp_path) == found[2].value


def test_every_task_makes_its_own_data_and_takes_a_given_file(tmp_path):
    given, folder = tmp_path / "given", tmp_path / "made"
    (given / "tinyshakespeare").mkdir(parents=True)
    (given / "tinyshakespeare" / "input.txt").write_text("to be or not " * 1000)
    folder.mkdir()
    lay_out(folder, given)
    assert (folder / "text.txt").read_text().startswith("to be")
    for one in TASKS.values():
        spec = job(one, sampler="random", pruner="none", seed=0, full_runs=1)
        assert "val_loss" in prepared(spec.task, folder).metrics


def test_ray_searches_the_job_s_own_space():
    spec = job(TINY, sampler="random", pruner="none", seed=0, full_runs=1)
    assert live_ray.chosen(spec, {"lot": 0}) == suggest(spec, [], steps=spec.horizon.steps).configuration
    assert live_ray.chosen(spec, {"lot": 5}) == live_ray.chosen(spec, {"lot": 5}) != live_ray.chosen(spec, {"lot": 6})
    told = live_ray.chosen(spec, {"schedule": "wsd", "wsd.decay": 0.25})
    assert (told.schedule.as_dict()["family"], told.schedule.as_dict()["decay"]) == ("wsd", 0.25)


def test_the_cost_of_a_value_is_that_of_the_best_that_every_way_came_to():
    whole = Study("digits", "loop, whole runs", 0, 3, 3.0, 0, [(1.0, 0.5), (2.0, 0.4), (3.0, 0.2)], [])
    built_in = Study("digits", stages.BUILT_IN, 0, 3, 3.0, 0, [(1.0, 0.5), (1.5, 0.4)], [])
    rows = stages.table([whole, built_in]).splitlines()
    assert rows[0] == "| way | seed 0, to 0.4040 | in all | of the built-in's |"
    assert rows[2:] == ["| loop, whole runs | 2.00 | 2.00 | 133% |", "| built-in task | 1.50 | 1.50 | 100% |"]


def test_a_loop_in_stages_and_the_built_in_task_train_the_same_numbers():
    found = [stages.studied(way, 0, full_runs=1.0) for way in ("loop, checkpoints", stages.BUILT_IN)]
    assert len({one.best for one in found}) == 1
    assert [one.whole[0][0] for one in found] == [1.0, 1.0]


@pytest.mark.parametrize("name", ["digits", "diabetes", "fine-tuning"])
def test_the_grid_s_own_loop_comes_to_the_worker_s_values(name: str, tmp_path: Path):
    torch.set_num_threads(1)
    lay_out(tmp_path, None)
    live = replace(TASKS[name], steps=40)
    spec = job(live, sampler="curve", pruner="forecast", seed=3, full_runs=1)
    for family in ("wsd", "one-cycle"):
        one = grid.at(family, 0.004)
        assert grid.trained(prepared(spec.task, tmp_path), one, 3, 40) == finished(spec, one, live, tmp_path)


def test_a_grid_refines_its_best_judges_them_by_fresh_seeds_and_trains_nothing_twice(tmp_path: Path, monkeypatch):
    trained: list[tuple[str, int]] = []

    def value(task, configuration, seed, steps):
        trained.append((configuration.model_dump_json(), seed))
        lucky = configuration.kind[1] == "constant" and seed == grid.FIRST
        off = abs(math.log(configuration.learning_rate / 0.0014142135623730952))
        return None if configuration.learning_rate > 0.05 else 1.0 + off - 0.5 * lucky + 0.01 * (seed - grid.FIRST)

    monkeypatch.setattr(grid, "trained", value)
    found, mean = grid.best(grid.Truth(TINY, tmp_path, tmp_path / "grid.json"), leaders=20, seeds=2)
    assert found.learning_rate == pytest.approx(0.001414, rel=1e-3)  # between two peaks of the first pass
    assert mean == pytest.approx(1.015)
    assert len(trained) == len(set(trained))
    count = len(trained)
    assert grid.best(grid.Truth(TINY, tmp_path, tmp_path / "grid.json"), leaders=20, seeds=2) == (found, mean)
    assert len(trained) == count
    with pytest.raises(SystemExit, match=r"grid\.json is of .* over 20 steps"):
        grid.Truth(replace(TINY, steps=30), tmp_path, tmp_path / "grid.json")


def test_an_answer_is_judged_by_what_it_had_not_seen():
    one = live_answers.Answer(
        *("digits", "worker", 0, "{}", 1.02, 1.0, 12.0),
        **{"interval": (0.9, 1.1), "lift": 0.2, "lift_interval": (0.1, 0.3), "true_lift": 0.35, "families": 6, "of": 8},
    )
    other = replace(one, seed=1, truth=1.2, interval=(0.9, 1.1), true_lift=0.2)
    luck = [live_answers.Answer("digits", "cosines", seed, "{}", 1.05, 1.0, 12.0) for seed in (0, 1)]
    rows = live_answers.table([one, other, *luck]).splitlines()
    assert rows[2] == (
        "| digits | worker | 2 | +11.00 | +20.00 | 1 of 2 | 1 of 2 | 20.0 / 27.5 | 75% | -6.00 ± 9.00 | 12.0 |"
    )


def test_that_the_truth_is_a_mean_over_a_few_seeds_is_no_miss_of_the_interval_s():
    few = live_answers.Answer(
        *("digits", "worker", 0, "{}", 1.11, 1.0, 12.0), interval=(0.9, 1.1), value=1.0, seeds=(2, 2), judges=8
    )
    assert few.holds, "1.118 times as wide it does"
    assert not replace(few, judges=64).holds
    assert not replace(few, truth=1.12).holds


def test_the_answer_of_a_whole_job_is_measured(tmp_path: Path, monkeypatch):
    torch.set_num_threads(1)
    monkeypatch.setitem(TASKS, "tiny", TINY)
    monkeypatch.setattr(grid, "best", lambda truth, leaders, seeds: (grid.at("cosine", 0.001), 1.0))
    asked = argparse.Namespace(answers=tmp_path, json=None, tasks="tiny", seeds=1, ways="loop,worker,cosines")
    asked.full_runs, asked.truth = 2.0, 1
    live_answers.report(asked)
    found = {one["way"]: one for one in json.loads((tmp_path / "answers.json").read_text())}
    assert {way for way, one in found.items() if one["interval"]} == {"loop", "worker"}
    assert found["cosines"]["paid"] == round(found["loop"]["paid"])
    assert all(one["truth"] > 0 for one in found.values())
