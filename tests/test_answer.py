"""The answer of a job: chosen over fresh seeds, with its interval and the untuned baseline beside it."""

from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from lrtune.analysis import words
from lrtune.analysis.answer import best, interval
from lrtune.analysis.paired import lift
from lrtune.optimizers import Adamw, Sgd
from lrtune.schedules import Cosine, Linear, Polynomial
from lrtune.wire.configuration import Configuration
from lrtune.wire.job import AdmittedJob, JobSpec
from lrtune.wire.partial import OwnSettings
from lrtune.wire.results import Role, Trial, TrialState

STEPS = 100
SPEC = AdmittedJob.model_validate(
    {
        "task": "digits",
        "metric": {"name": "val_loss", "goal": "minimize"},
        "horizon": {"steps": STEPS},
        "schedules": ["cosine", "linear"],
        "confirm": {"top": 2, "seeds": 3},
    }
)
USUAL = Configuration(optimizer=Adamw(), learning_rate=1e-3, schedule=Cosine(), warmup=0.05)
LUCKY = Configuration(optimizer=Adamw(), learning_rate=1e-2, schedule=Cosine())
STEADY = Configuration(optimizer=Adamw(), learning_rate=1e-2, schedule=Linear())


def run(
    number: int,
    configuration: Configuration,
    value: float | None,
    *,
    role: Role = "search",
    seed: int = 0,
    state: TrialState = TrialState.COMPLETE,
    horizon: int = STEPS,
) -> Trial:
    return Trial(
        number=number,
        role=role,
        state=state,
        configuration=configuration,
        seed=seed,
        horizon=horizon,
        value=value,
    )


def answer(trials, spec=SPEC):
    return best(spec, trials, steps=STEPS, full_runs=float(len(trials)))


SEARCHED = [
    run(0, USUAL, 0.50, role="baseline"),
    run(1, LUCKY, 0.10),
    run(2, STEADY, 0.22),
]
CONFIRMED = [
    *SEARCHED,
    *(run(3 + i, LUCKY, v, role="confirm", seed=101 + i) for i, v in enumerate([0.40, 0.42, 0.44])),
    *(run(6 + i, STEADY, v, role="confirm", seed=101 + i) for i, v in enumerate([0.20, 0.25, 0.30])),
    *(run(9 + i, USUAL, v, role="confirm", seed=101 + i) for i, v in enumerate([0.48, 0.50, 0.58])),
]


def test_fresh_seeds_decide_and_the_lucky_search_run_is_left_out():
    found = answer(CONFIRMED)
    assert found.configuration == STEADY
    assert found.value == pytest.approx(0.25)
    assert [(one.seed, one.value) for one in found.seeds] == [(101, 0.20), (102, 0.25), (103, 0.30)]
    assert found.trial == 2
    assert found.confirmed


def test_the_interval_is_students_t_with_the_spread_over_seeds_that_all_candidates_show():
    low, high = answer([run(0, USUAL, 0.50, role="baseline"), run(1, LUCKY, 0.40), *CONFIRMED[2:]]).interval
    alone = interval([0.20, 0.25, 0.30])
    assert (low + high) / 2 == pytest.approx(0.25)
    assert high - low < alone[1] - alone[0]
    assert (low, high) == pytest.approx((0.1958064, 0.3041936), abs=2e-5)


def test_a_noisy_baseline_has_a_wide_interval_and_so_has_the_lift_while_the_answer_keeps_its_own():
    far = [run(12 + i, USUAL, v, role="confirm", seed=101 + i) for i, v in enumerate([0.9, 1.5, 1.2])]
    quiet, loud = answer(CONFIRMED), answer([*CONFIRMED[:9], *far])
    widths = [[high - low for low, high in (one.baseline.interval, lift(one).interval)] for one in (quiet, loud)]
    assert min(wide / narrow for narrow, wide in zip(*widths, strict=True)) > 3
    assert loud.interval == quiet.interval


def test_the_search_s_own_run_of_both_tells_the_noise_of_the_lift_but_not_its_size():
    without = [t for t in CONFIRMED if t.role != "baseline"]
    shown = [run(0, USUAL, 0.49, role="baseline"), *without]
    assert lift(answer(shown)).difference == pytest.approx(0.27)
    other = [run(0, USUAL, 0.80, role="baseline"), *without]
    assert lift(answer(other)).difference == pytest.approx(0.27)
    assert answer(other).noise.deviation > 2 * answer(shown).noise.deviation
    assert answer(other).noise.freedom == answer(shown).noise.freedom


def test_a_baseline_that_is_the_answer_is_as_good_as_itself_for_sure():
    spec = SPEC.model_copy(update={"metric": SPEC.metric.model_copy(update={"goal": "maximize"})})
    found = answer(CONFIRMED, spec)
    assert (found.noise, found.interval) == (None, found.baseline.interval)
    assert lift(found).interval == (0.0, 0.0)


def test_the_baseline_stands_beside_it_over_the_same_seeds():
    baseline = answer(CONFIRMED).baseline
    assert baseline.configuration == USUAL
    assert baseline.value == pytest.approx(0.52)
    assert [one.seed for one in baseline.seeds] == [101, 102, 103]


def test_before_confirming_the_best_single_run_is_the_answer_and_says_so():
    found = answer(SEARCHED)
    assert (found.configuration, found.value, found.interval) == (LUCKY, 0.10, None)
    assert not found.confirmed
    assert found.baseline.value == 0.50


def test_a_configuration_can_be_the_answer_from_two_fresh_seeds_on():
    assert answer(CONFIRMED[:8]).configuration == STEADY  # with two of three, since more could not change it
    found = answer(CONFIRMED[:7])  # with one
    assert found.configuration == LUCKY
    assert found.value == pytest.approx(0.42)


def test_a_maximised_metric_is_maximised():
    spec = SPEC.model_copy(update={"metric": SPEC.metric.model_copy(update={"goal": "maximize"})})
    assert answer(CONFIRMED, spec).configuration == USUAL


def test_the_baseline_may_win_when_the_job_allows_it():
    trials = [run(0, USUAL, 0.05, role="baseline"), run(1, LUCKY, 0.10)]
    found = answer(trials)
    assert (found.configuration, found.trial) == (USUAL, 0)


@pytest.mark.parametrize(
    "trial",
    [
        run(1, LUCKY, 0.1, horizon=STEPS // 2),
        run(1, LUCKY, None, state=TrialState.DIVERGED),
        run(1, LUCKY, 0.1, state=TrialState.STOPPED),
        run(1, LUCKY, None, state=TrialState.RUNNING),
    ],
    ids=["a shorter horizon", "diverged", "stopped", "running"],
)
def test_only_a_complete_run_can_be_an_answer(trial):
    assert answer([trial]) is None


def test_a_baseline_outside_the_jobs_space_is_shown_but_never_the_answer():
    spec = SPEC.model_copy(
        update={"optimizers": JobSpec.model_validate({"task": "d", "optimizers": ["sgd"]}).optimizers}
    )
    sgd = Configuration(optimizer=Sgd(), learning_rate=0.1, schedule=Linear())
    found = answer([run(0, USUAL, 0.01, role="baseline"), run(1, sgd, 0.3)], spec)
    assert found.configuration == sgd
    assert found.baseline.value == 0.01


def test_a_baseline_outside_the_jobs_space_is_not_the_answer_when_fresh_seeds_confirm_it_either():
    spec = SPEC.model_copy(
        update={"schedules": JobSpec.model_validate({"task": "d", "schedules": ["linear"]}).schedules}
    )
    assert answer(CONFIRMED, spec).configuration == STEADY
    good = [t.model_copy(update={"value": 0.01}) if t.configuration == USUAL else t for t in CONFIRMED]
    assert (answer(good, spec).configuration, answer(good, spec).baseline.value) == (STEADY, pytest.approx(0.01))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, True),
        ({"optimizer": Sgd()}, False),
        ({"schedule": Polynomial()}, False),
        ({"learning_rate": 0.05}, True),
        ({"learning_rate": 0.5}, False),
    ],
    ids=["inside", "another optimizer", "another family", "a rate inside", "a rate outside"],
)
def test_what_lies_in_the_jobs_space(change, expected):
    assert SPEC.allows(USUAL.model_copy(update=change)) is expected


@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=31))
def test_every_interval_is_scipys(values):
    if (found := interval(values)) is None:
        assert max(values) - min(values) <= 1e-12 * max(map(abs, values)) + 1e-150, "all the same but for rounding"
        return
    low, high = found
    half = float(stats.t.ppf(0.975, len(values) - 1) * stats.sem(values))
    assert (low, high) == pytest.approx((fmean(values) - half, fmean(values) + half), rel=1e-4, abs=1e-4 * half + 1e-9)


def test_one_value_has_no_interval():
    assert interval([0.3]) is None


def test_runs_that_all_come_to_the_same_have_no_interval_and_the_words_say_so():
    assert (interval([0.1] * 3), interval([1.0, 1.0], (0.0, 1.0))) == (None, None)
    same = [run(3 + i, LUCKY, 0.1, role="confirm", seed=101 + i) for i in range(3)]
    other = [run(6 + i, USUAL, 0.3, role="confirm", seed=101 + i) for i in range(3)]
    found = answer([run(0, USUAL, 0.3, role="baseline"), run(1, LUCKY, 0.1), *same, *other])
    assert (found.interval, found.baseline.interval, lift(found).interval) == (None, None, None)
    assert words.fresh(found) == "over 3 fresh seeds, all the same, so there is no interval"
    told = "0.2 better than untuned over the 3 seeds that both ran, which do not tell how much is chance"
    assert words.lift(found) == told


def test_differences_that_are_the_same_but_for_rounding_have_no_interval():
    """Accuracies in percent: 93.7 - 93.6 is not quite 91.3 - 91.2."""
    pairs = [(91.3, 91.2), (92.1, 92.0), (93.7, 93.6)]
    theirs = [run(6 + i, USUAL, value, role="confirm", seed=101 + i) for i, (value, _) in enumerate(pairs)]
    ours = [run(3 + i, LUCKY, value, role="confirm", seed=101 + i) for i, (_, value) in enumerate(pairs)]
    found = answer([run(0, USUAL, 95.0, role="baseline"), run(1, LUCKY, 94.9), *ours, *theirs])
    assert lift(found).difference == pytest.approx(0.1)
    assert (lift(found).interval, lift(found).sure) == (None, None)


def test_runs_that_all_come_to_the_same_have_the_interval_that_other_candidates_tell():
    same = [run(3 + i, LUCKY, 0.1, role="confirm", seed=101 + i) for i in range(3)]
    low, high = answer([*SEARCHED, *same, *CONFIRMED[6:9]]).interval
    assert low < 0.1 < high


def test_the_same_run_twice_is_one_fresh_seed_and_not_two():
    found = [run(0, LUCKY, 0.1), run(1, LUCKY, 0.3, role="confirm", seed=1), run(2, LUCKY, 0.3, role="confirm", seed=1)]
    answer = best(SPEC, found, steps=STEPS, full_runs=3.0)
    assert answer is not None
    assert (answer.confirmed, answer.value) == (False, 0.1)


@pytest.mark.parametrize("huge", [1e80, 1e200, 1e300])
def test_where_the_baseline_has_exploded_the_answer_stands_and_nothing_is_claimed_of_the_lift(huge):
    far = [run(12 + i, USUAL, v * huge, role="confirm", seed=101 + i) for i, v in enumerate([0.9, 1.5, 1.2])]
    found = answer([*CONFIRMED[:9], *far])
    assert (found.configuration, found.value) == (STEADY, pytest.approx(0.25))
    assert found.interval is not None
    assert (found.noise, found.baseline.interval) == (None, None)
    assert lift(found).difference == pytest.approx(1.2 * huge)
    assert (lift(found).interval, lift(found).sure) == (None, None)


def test_a_seed_on_which_another_candidate_blew_up_says_nothing_of_the_answers_interval():
    values = [0.40, 1e30, 0.44]
    far = [run(3 + i, LUCKY, v, role="confirm", seed=101 + i) for i, v in enumerate(values)]
    found = answer([*SEARCHED, *far, *CONFIRMED[6:]])
    assert (found.configuration, found.value) == (STEADY, pytest.approx(0.25))
    assert found.interval == pytest.approx(interval([0.20, 0.25, 0.30]))


def test_an_answer_that_blew_up_on_a_seed_has_no_interval_and_says_so():
    far = [run(6 + i, STEADY, v, role="confirm", seed=101 + i) for i, v in enumerate([0.20, 1e30, 0.30])]
    assert answer([*SEARCHED, *far, *CONFIRMED[9:]]).configuration == USUAL, "which blew up on none"
    found = answer([*SEARCHED, *far])
    assert (found.configuration, found.interval) == (STEADY, None)
    assert words.fresh(found) == "over 3 fresh seeds, 1 of which blew up, to 1e+30, so there is no interval"


@pytest.mark.parametrize(("every", "said"), [(0.0, "(final 0.02)"), (0.25, "(final 0.02, every 0.25)")])
def test_an_exponential_decay_without_stairs_is_said_without_them(every, said):
    schedule = {"family": "exponential", "final": 0.02, "every": every}
    chosen = Configuration(optimizer="adamw", learning_rate=0.001, schedule=schedule)
    assert words.described(chosen) == f"adamw at 1e-3, exponential {said}"


@pytest.mark.parametrize(
    ("own", "said"),
    [(False, "worse than untuned, which lies outside what was searched"), (True, "your own settings, so keep those")],
)
def test_who_did_better_before_is_told_to_keep_their_settings(own, said):
    spec = SPEC.model_copy(update={"baseline": OwnSettings(learning_rate=0.001)}) if own else SPEC
    outside = USUAL.model_copy(update={"schedule": Polynomial()})
    ours = [run(2 + i, LUCKY, 0.4 + i / 1000, role="confirm", seed=101 + i) for i in range(3)]
    theirs = [run(12 + i, outside, 0.2 + i / 500, role="confirm", seed=101 + i) for i in range(3)]
    found = answer([run(0, outside, 0.2, role="baseline"), run(1, LUCKY, 0.4), *ours, *theirs], spec)
    assert found.configuration == LUCKY
    assert words.lift(found).partition(":")[0].endswith(said)
    assert words.brief_lift(found).endswith(said)


def test_nothing_is_said_to_have_lost_where_nothing_else_was_trained():
    alone, beside = [run(0, USUAL, 0.5, role="baseline")], run(1, LUCKY, 0.6)
    seeds = [run(2 + i, USUAL, 0.5 + i / 100, role="confirm", seed=101 + i) for i in range(3)]
    for found in (alone, [*alone, *seeds]):
        assert words.lift(answer(found)) == "nothing was trained but the untuned baseline"
    assert words.lift(answer([*alone, beside])) == "nothing beat the untuned baseline"
    # Others may have beaten it over the seed that they were searched with.
    assert words.lift(answer([*alone, beside, *seeds])) == "nothing beat the untuned baseline over fresh seeds"


@pytest.mark.parametrize("own", [False, True])
def test_a_baseline_that_diverged_is_said_to_have(own):
    def broken(number: int, seed: int, role: Role) -> Trial:
        return run(number, USUAL, None, role=role, seed=seed, state=TrialState.DIVERGED)

    spec = SPEC.model_copy(update={"baseline": OwnSettings(learning_rate=0.001)}) if own else SPEC
    name = "your own settings" if own else "untuned"
    fresh = [t for t in CONFIRMED if t.configuration != USUAL]
    never = answer([broken(0, 0, "baseline"), run(1, LUCKY, 0.4), *fresh], spec)
    assert words.lift(never) == words.brief_lift(never) == f"no baseline to compare with: {name} diverged"
    first = run(0, USUAL, 0.5, role="baseline")
    once = answer([first, run(1, LUCKY, 0.4), *CONFIRMED[2:], broken(90, 104, "confirm")], spec)
    assert words.lift(once).endswith(f"; {name} diverged over another seed")
    twice = answer([first, run(1, LUCKY, 0.4), *fresh, *(broken(90 + s, 100 + s, "confirm") for s in (1, 2))], spec)
    assert words.brief_lift(twice).endswith(f"; {name} diverged over 2 other seeds")
    assert (never.baseline.diverged, once.baseline.diverged, twice.baseline.diverged) == (1, 1, 2)
