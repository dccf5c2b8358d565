"""What the report makes of trials that were left early, of fresh seeds that diverged, and of a narrow terminal."""

from io import StringIO

import pytest
from rich.console import Console

from lrtune.cli import terminal
from tests.external import report, submit, take, tell
from tests.serving import served
from tests.test_report import FORECAST, SEARCHED, advised, confirmed, reported, run


def test_what_was_not_finished_for_want_of_budget_answers_nothing_and_whole_runs_count_first():
    few = [run(0, 0.002, 0.5), run(1, 0.016, 0.40)]
    cut = [run(2, 0.032, 0.38, state="stopped", step=50), run(3, 0.064, 0.5, state="stopped", step=50)]
    assert advised(reported([*few, *cut], by="budget"))["too low?"].startswith(
        "Perhaps: 2 runs at higher rates were not finished; a larger budget (`extend`) would tell. "
        "Above 1.6e-2 with cosine: 2 were not finished."
    )
    assert advised(reported([*few, *cut], by="forecast"))["too low?"].startswith(
        "Probably not. Above 1.6e-2 with cosine: 2 were st"
    )
    brief = run(2, 0.032, 0.6, state="stopped", step=5)
    assert advised(reported([*few, brief], by="forecast"))["too low?"].startswith(
        "Perhaps: 1 run at higher rates was no"
    )
    others = [run(4, 0.032, 0.52, family="linear"), run(5, 0.064, 0.60, family="linear")]
    assert advised(reported([*few, *cut, *others], by="budget"))["too low?"].startswith(
        "Probably not. Above 1.6e-2 with any schedule: 2 runs end 40 % worse in the median; 2 were not finished."
    )


def test_a_failed_confirmation_is_told_and_never_beats_one_that_held():
    fresh = [run(12, 0.016, None, role="confirm", seed=1, state="diverged", step=9)]
    fresh += [run(11 + seed, 0.016, v, role="confirm", seed=seed) for seed, v in ((2, 0.43), (3, 0.47))]
    found = reported([*SEARCHED, *fresh])
    assert found.value == pytest.approx(0.45)
    assert advised(found)["how sure?"].startswith(
        "Not very: 1 of 3 runs over fresh seeds diverged; the others ended at 0.43, 0.47, 0.45 in the mean. "
    )
    held = [run(20 + seed, 0.008, 0.6, role="confirm", seed=seed) for seed in (1, 2, 3)]
    assert reported([*SEARCHED, *fresh, *held]).rate == 0.008
    gone = [run(11 + s, 0.016, None, role="confirm", seed=s, state="diverged", step=9) for s in (1, 2, 3)]
    assert reported([*SEARCHED, *gone]).rate == 0.008, "of single runs one that did not diverge"
    shaken = [one.model_copy(update={"number": 20 + one.seed}) for one in fresh]
    low = [t.model_copy(update={"configuration": run(0, 0.008, 0).configuration}) for t in shaken]
    both = reported([*SEARCHED, *fresh, *low])
    assert both.families[0].plateau.low == 0.008, "both diverged once, and they compare over the other seeds"


def test_only_what_the_pruner_stopped_was_saved_and_what_the_loop_cut_off_is_told():
    cut = run(12, 0.016, 0.35, warmup=0.1, state="stopped", step=80)
    found = reported([*SEARCHED, cut], by="loop")
    assert found.saved.pruning == 0
    assert advised(found)["how sure?"].endswith(
        "2 trials were ended by your loop before the last step and cannot win; one of them stood at 0.35."
    )


def test_the_table_shows_of_a_family_what_was_confirmed():
    held = [run(20 + seed, 0.008, 0.45, family="linear", role="confirm", seed=seed) for seed in (1, 2, 3)]
    lucky = run(30, 0.004, 0.405, family="linear")
    linear = reported([*confirmed([0.40, 0.41, 0.42], [0.5, 0.52, 0.51]), *held, lucky]).families[1]
    assert (linear.best_rate, linear.best_value, linear.seeds) == (0.008, pytest.approx(0.45), 3)


@pytest.mark.parametrize("width", [60, 80, 100, 200])
def test_no_number_is_cut_in_a_narrow_terminal(width: int):
    small = [
        run(t.number, t.configuration.learning_rate * 0.012345, t.value and t.value * 0.00046789, family=family)
        for family in ("cosine", "linear", "exponential-growth")
        for t in SEARCHED[1:5]
    ]
    found = reported([one.model_copy(update={"number": place}) for place, one in enumerate(small)])
    screen = StringIO()
    Console(file=screen, width=width, color_system=None).print(terminal.report(found))
    assert "\u2026" not in screen.getvalue()
    for one in found.families:
        assert f"{one.best_value:.4g}" in screen.getvalue()
        assert f"{one.best_rate:.4g}" in screen.getvalue()


def test_the_log_tells_what_the_pruner_stopped_from_what_the_loop_ended(database_url: str):
    pruner = {"name": "threshold", "upper": 1.0, "n_warmup_reports": 0}
    with served(database_url) as door:
        job = submit(door, search={"sampler": "random", "pruner": pruner}, budget={"trials": 4})
        baseline = take(door, job)
        report(door, job, baseline, 40, 0.5)
        tell(door, job, baseline, "finish")
        whole = take(door, job)
        report(door, job, whole, 40, 0.4)
        tell(door, job, whole, "finish")
        report(door, job, take(door, job), 4, 5.0)
        cut = take(door, job)
        report(door, job, cut, 20, 0.3)
        assert tell(door, job, cut, "finish").json()["state"] == "stopped"
        found = door.get(f"/v1/jobs/{job}/report").json()
    assert found["saved"]["pruning"] == 0.9, "of the second 36 of 40 steps; the loop saved nothing"
    said = next(one["answer"] for one in found["advice"] if one["question"] == "how sure?")
    assert said.endswith("1 trial was ended by your loop before the last step and cannot win; it stood at 0.3.")


def test_where_nothing_is_forecast_nothing_is_said_of_it():
    assert reported(SEARCHED).audit is None
    quiet = reported(SEARCHED, FORECAST)
    assert (quiet.audit.audited, quiet.audit.rate) == (0, None)
    assert "none of its stops has been checked yet" in advised(quiet)["stopped rightly?"]
    idle = reported([run(0, 0.004, 0.5), run(1, 0.008, 0.4)], FORECAST)
    assert advised(idle)["stopped rightly?"] == "The forecast pruner has stopped nothing."
