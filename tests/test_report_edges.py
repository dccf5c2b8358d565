"""What the report says of the ends of what was searched, and of rates that nothing near them tells of."""

from lrtune.optimizers import Adamw
from lrtune.schedules import Wsd
from lrtune.wire.job import AdmittedJob
from tests.test_report import SPEC, advised, reported, run


def test_no_to_a_rate_that_was_too_low_needs_a_run_within_a_factor_of_four():
    """A worse run at six times the rate says little of twice the rate."""
    far = reported([run(0, 0.001, 0.60), run(1, 0.008, 0.40), run(2, 0.045, 0.90)])
    assert advised(far)["too low?"].startswith("Probably not. Above 8e-3 with cosine: 1 run ends")
    assert "No run within a factor of 4 tells: the nearest above is at 4.5e-2." in advised(far)["too low?"]
    assert advised(far)["too high?"].startswith("Probably not.")
    near = reported([run(0, 0.002, 0.60), run(1, 0.008, 0.40), run(2, 0.032, 0.90)])
    assert advised(near)["too low?"].startswith("No. ")
    assert advised(near)["too high?"].startswith("No. ")


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


def test_a_knob_amid_its_range_or_at_an_end_beyond_which_nothing_is_legal_is_at_no_edge():
    found = reported([run(0, 0.008, 0.40, warmup=0.0)])
    assert found.edges == []
    assert "at an edge?" not in advised(found)
