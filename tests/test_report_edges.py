"""What the report says of the ends of what was searched, and of rates that nothing near them tells of."""

import random

from lrtune.optimizers import Adamw
from lrtune.schedules import InverseSqrt, Wsd
from lrtune.wire.job import AdmittedJob
from lrtune.wire.report import Findings
from lrtune.wire.results import Trial
from tests.test_report import HIGHEST, SPEC, advised, reported, run


def test_no_to_a_rate_that_was_too_low_needs_a_run_within_a_factor_of_two():
    """A worse run at four times the rate says little of twice the rate."""
    far = reported([run(0, 0.001, 0.60), run(1, 0.008, 0.40), run(2, 0.032, 0.90)])
    assert advised(far)["too low?"].startswith("Probably not. Above 8e-3 with cosine: 1 run ends")
    assert "No run within a factor of 2 tells: the nearest above is at 3.2e-2." in advised(far)["too low?"]
    assert advised(far)["too high?"].startswith("Probably not.")
    assert advised(far)["how sure?"].endswith("within a factor of 2 of it was trained to its end.")
    near = reported([run(0, 0.004, 0.60), run(1, 0.008, 0.40), run(2, 0.016, 0.90)])
    assert advised(near)["too low?"].startswith("No. ")
    assert advised(near)["too high?"].startswith("No. ")
    assert advised(near)["how sure?"].endswith("No rate next to it with cosine came within the tolerance, 0.004.")


def test_runs_of_other_schedules_that_are_far_away_say_how_far():
    """A baseline at a twentieth of the rate, its schedule another, says little of half the rate."""
    left = run(1, 0.011, 0.70, state="stopped", step=10)
    found = reported([run(0, 0.001, 0.60, family="linear", role="baseline"), left, run(2, 0.022, 0.40)])
    said = advised(found)["too high?"]
    assert said.startswith("Probably not. Below 2.2e-2 with any schedule: 1 run ends")
    assert "No run within a factor of 2 tells: the nearest below is at 1e-3." in said


def test_what_other_schedules_say_of_a_rate_is_open_where_chance_explains_it():
    """Two in the median were far behind; the best of them, at the next rate, was no worse than a seed is luck."""
    left = run(1, 0.011, 0.70, state="stopped", step=10)
    others = [run(2, 0.011, 0.41, family="linear"), run(3, 0.016, 0.50, family="linear")]
    seeds = [run(4 + n, 0.008, value, role="confirm", seed=1 + n) for n, value in enumerate((0.38, 0.40, 0.42))]
    found = reported([run(0, 0.008, 0.40), left, *others, *seeds])
    said = advised(found)["too low?"]
    assert said.startswith(
        "Perhaps. Above 8e-3 with any schedule: 2 runs end 14 % worse in the median; 1 was not finished."
    )
    assert "The best within a factor of 2 ends 2.5 % worse, which may be chance." in said


def test_a_baseline_that_is_far_noisier_does_not_make_chance_of_what_the_candidates_tell_apart():
    """Its values lie 0.4 apart from seed to seed; two candidates agree to 0.002 on how their seeds differ."""

    def seeds(number: int, rate: float, *values: float) -> list[Trial]:
        return [run(number + n, rate, value, role="confirm", seed=1 + n) for n, value in enumerate(values)]

    others = [run(1, 0.008, 0.40), run(2, 0.0113, 0.41), run(3, 0.016, 0.46), run(4, 0.004, 0.47)]
    candidates = seeds(10, 0.008, 0.401, 0.403, 0.398) + seeds(20, 0.0113, 0.412, 0.412, 0.410)
    for values in ((0.99, 1.01, 1.0), (0.6, 1.4, 1.0)):
        baseline = [run(0, 0.001, 1.0, role="baseline"), *seeds(30, 0.001, *values)]
        said = advised(reported([*baseline, *others, *candidates]))
        assert said["too low?"].startswith("No. ")
        assert "chance" not in said["too low?"]


def luck(deviation: float, seed: int) -> Findings:
    """The report of a job in whose space nothing matters but luck, of so much, and one seed as good as another."""
    draw = random.Random(seed)
    runs = [run(n, 0.001 * 2 ** (n / 2), 0.40 + draw.gauss(0, deviation)) for n in range(13)]
    runs = [runs[0].model_copy(update={"role": "baseline"}), *runs[1:]]
    first = min(runs, key=lambda one: one.value)
    for fresh in range(2, 8):
        again, value = (runs[0] if fresh % 2 else first), 0.40 + draw.gauss(0, deviation)
        runs.append(
            again.model_copy(update={"number": 11 + fresh, "role": "confirm", "seed": fresh // 2, "value": value})
        )
    return reported(runs)


def test_what_luck_explains_is_seldom_a_slope_or_a_sure_no():
    """The run that was chosen is the luckiest, so all others seem worse: six in ten were a no before, and a slope."""
    said = [answer for seed in range(100) for answer in list(advised(luck(0.02, seed)).values())[:2]]
    assert sum(one.startswith("No.") for one in said) < 0.15 * len(said)
    assert sum("Each " in one for one in said) < 0.15 * len(said)
    assert any("% worse, which may be chance." in one for one in said)


def test_every_knob_of_the_answer_that_sits_at_an_end_of_what_was_searched_is_named():
    spec = AdmittedJob.model_validate(
        SPEC.model_dump(mode="json")
        | {
            "optimizers": [{"name": "adamw", "learning_rate": [0.001, 0.064], "weight_decay": [0.001, 0.1]}],
            "schedules": [{"family": "wsd", "decay": [0.1, 0.8]}],
            "warmup": [0.0, 0.1],
        }
    )
    trial = run(0, 0.064, 0.40)
    knobs = {"warmup": 0.098, "schedule": Wsd(decay=0.11), "optimizer": Adamw(weight_decay=0.0011)}
    found = reported([trial.model_copy(update={"configuration": trial.configuration.model_copy(update=knobs)})], spec)
    assert [(edge.knob, edge.end) for edge in found.edges] == [
        ("learning_rate", "high"),
        ("weight_decay", "low"),
        ("decay", "low"),
        ("warmup", "high"),
    ]
    said = advised(found)["at an edge?"]
    assert (
        "The answer sits at the upper end of the warm-ups searched, 0.098 of 0 to 0.1: widen `warmup` upwards." in said
    )
    assert "The answer sits at the lower end of the values of decay searched, 0.11 of 0.1 to 0.8" in said


def test_an_end_next_to_one_is_not_said_to_be_one():
    """Beta2 was searched up to 0.9999: a beta of 1 is not legal, and 1e+03 is nothing that people type."""
    adamw = {"name": "adamw", "learning_rate": [0.001, 0.064], "beta2": [0.9, 0.9999]}
    changed = {"optimizers": [adamw], "schedules": [{"family": "inverse-sqrt", "decay": [1.0, 1000.0]}]}
    spec = AdmittedJob.model_validate(SPEC.model_dump(mode="json") | changed)
    trial = run(0, 0.008, 0.40)
    knobs = {"schedule": InverseSqrt(decay=950.0), "optimizer": Adamw(beta2=0.9998)}
    found = reported([trial.model_copy(update={"configuration": trial.configuration.model_copy(update=knobs)})], spec)
    said = [edge.words for edge in found.edges]
    assert any("values of beta2 searched, 0.9998 of 0.9 to 0.9999: widen" in one for one in said)
    assert any("values of decay searched, 950 of 1 to 1000: widen" in one for one in said)


def test_a_rate_of_try_between_the_grid_and_the_end_of_the_range_is_at_that_end():
    """The rates that the search tries lie on a grid, and end below 0.1 where that is the end; one of `try` need not."""
    changed = {"optimizers": [{"name": "adamw", "learning_rate": [0.001, 0.1]}], "try": [{"learning_rate": 0.1}]}
    spec = AdmittedJob.model_validate(SPEC.model_dump(mode="json") | changed)
    found = reported([run(0, 0.008, 0.60), run(1, 0.05, 0.50), run(2, 0.1, 0.40)], spec)
    assert [(edge.knob, edge.end, edge.searched) for edge in found.edges] == [("learning_rate", "high", (0.001, 0.1))]
    assert advised(found)["too low?"].endswith("widen the range upwards.")


def test_a_knob_amid_its_range_or_at_an_end_beyond_which_nothing_is_legal_is_at_no_edge():
    found = reported([run(0, 0.008, 0.40, warmup=0.0)])
    assert found.edges == []
    assert "at an edge?" not in advised(found)


def test_what_a_configuration_came_to_over_several_seeds_counts_once_in_a_median():
    """Of two at lower rates one was confirmed: its four runs, alone far behind, are not four of the five that count."""
    fresh = [run(10 + n, 0.008, 0.40, role="confirm", seed=1 + n) for n in range(3)]
    again = [run(20 + n, 0.004, 0.80, role="confirm", seed=1 + n) for n in range(3)]
    found = reported([run(0, 0.008, 0.40), run(1, 0.004, 0.80), run(2, 0.0057, 0.44), *fresh, *again])
    assert "Below 8e-3 with cosine: 5 runs end 55 % worse in the median" in advised(found)["too high?"]


def test_runs_that_end_alike_whatever_their_rate_are_said_to_show_nothing_of_rates():
    """A script that forgot its trial's rates had an answer, its rate named and over fresh seeds, without a doubt."""
    alike = [run(0, 0.001, 0.5, role="baseline"), run(1, 0.004, 0.5), run(2, 0.016, 0.5)]
    assert advised(reported(alike))["how sure?"].endswith(
        "All 3 whole runs at rates from 1e-3 to 1.6e-2 ended at 0.5: either val_loss cannot tell them apart, or the "
        "training does not use its trial's rates."
    )
    for others in (alike[:2], [*alike, run(3, 0.008, 0.5001)], [*alike[:2], run(2, 0.004, 0.5, family="linear")]):
        assert "training" not in advised(reported(others))["how sure?"]


def test_a_value_of_zero_that_was_to_be_high_is_shown_without_a_sign():
    found = reported([run(0, 0.008, 0.0), run(1, 0.008, -0.5, family="linear")], HIGHEST)
    assert f"{found.families[0].best_value:.4g}" == "0"
