"""What the page of a job shows: the answer as somebody says it, how sure it is, against what, and how to use it."""

import itertools
import math
import re
from collections.abc import Iterator

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as some

from app import curves
from lrtune.analysis.words import details, headline, rate, wins
from lrtune.optimizers import OPTIMIZERS
from lrtune.wire.configuration import Configuration
from lrtune.wire.results import Baseline, Best, SeedValue
from tests.serving import KEY, served, trained

STEP = {
    "optimizer": {"name": "adamw", "beta2": 0.9995, "weight_decay": 0.1},
    "learning_rate": 0.022627416997969,
    "schedule": {"family": "step", "gamma": 0.24341234, "every": 0.25},
    "warmup": 0.05,
    "clip_norm": 1.0,
}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    url = f"sqlite:///{tmp_path_factory.mktemp('page') / 'lrtune.db'}"
    with served(url) as client:
        client.post("/sign-in", data={"key": KEY})
        client.headers["x-database"] = url
        yield client


def found(service: httpx.Client, values: list[float], **fields: object) -> str:
    """The path of the page of a job that is over, whose trials ended at these values."""
    body = {"task": "digits", "horizon": {"steps": 40}} | fields
    job = service.post("/v1/jobs", json=body).json()["id"]
    trained(str(service.headers["x-database"]), job, values)
    return f"/jobs/{job}"


def heading(text: str) -> str:
    said = re.search(r'id="answer">([^<]+)<', text)
    assert said is not None
    return said[1]


# In words -------------------------------------------------------------------------------------------------------------


@given(some.floats(1e-30, 1e3))
def test_a_rate_is_written_to_three_digits_and_never_as_another(value: float) -> None:
    written = rate(value)
    assert math.isclose(float(written), value, rel_tol=0.0051)
    assert not re.search(r"e-0|e\+|\.0+(e|$)", written), "as engineers write it, not as printf does"
    assert len(re.sub(r"e.*|[.]|^0[.]", "", written).lstrip("0")) <= 3


def test_an_answer_is_said_in_one_line_with_its_knobs_beside_it() -> None:
    chosen = Configuration.model_validate(STEP)
    assert headline(chosen) == "AdamW, peak 2.26e-2, step schedule"
    assert details(chosen) == ["gamma 0.243", "every 0.25", "warm-up 5 %", "clip norm 1", "beta2 0.9995",
                               "weight decay 0.1"]  # fmt: skip
    flat = chosen.model_copy(update={"learning_rate": 0.3, "schedule": type(chosen)(**STEP | {"schedule": "constant"}).schedule})  # fmt: skip  # noqa: E501
    assert headline(flat) == "AdamW, peak 0.3, constant rate"


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_is_called_what_its_paper_calls_it(name: str) -> None:
    said = headline(Configuration.model_validate({"optimizer": name, "learning_rate": 1e-3, "schedule": "constant"}))
    assert said[0].isupper()
    assert said.partition(",")[0].replace(" ", "-").lower() == name


def test_wins_are_counted_over_the_seeds_that_both_ran() -> None:
    def best(goal: str) -> Best:
        ours, theirs = ([SeedValue(seed=seed, value=v) for seed, v in some] for some in (OURS, THEIRS))
        usual = Configuration.model_validate(STEP | {"learning_rate": 1e-3})
        return Best.model_validate(
            {"configuration": STEP, "metric": "m", "goal": goal, "value": 0.2, "seeds": ours, "interval": None,
             "baseline": Baseline(configuration=usual, value=0.3, seeds=theirs), "full_runs": 1.0, "trial": 1,
             "steps": 40, "confirmed": True}
        )  # fmt: skip

    assert wins(best("minimize")) == "better than untuned on 2 of 3 seeds"
    assert wins(best("maximize")) == "better than untuned on 1 of 3 seeds"


OURS = [(1, 0.1), (2, 0.2), (3, 0.5), (4, 0.0)]
THEIRS = [(1, 0.3), (2, 0.3), (3, 0.3)]


# On the page ----------------------------------------------------------------------------------------------------------


def test_the_answer_is_the_heading_of_the_page_and_its_curve_is_drawn(service: httpx.Client) -> None:
    path = found(service, [0.5, 0.25])
    text = service.get(path).text
    assert heading(text) == "AdamW, peak 2e-3, linear schedule"
    drawn = re.search(r'aria-label="The learning rate of the answer: ([^"]+)"', text)
    assert drawn is not None
    assert drawn[1] == "from 2e-3 at the first of 40 steps, at most 2e-3, to 5e-5 at the last"
    line = re.search(r'class="own" d="M([^"]+)"', text)
    assert line is not None
    points = [tuple(map(float, point.split())) for point in line[1].split("L")]
    assert points[0] == (0.0, 0.0), "at the peak, which is the upper edge"
    assert points[-1] == (1000.0, 300 * (1 - 1 / 40)), "a fortieth of it at the last step"
    assert all(later >= sooner for (_, sooner), (_, later) in itertools.pairwise(points))


def test_a_drop_of_the_rate_is_drawn_as_one_in_a_long_run() -> None:
    curve = Configuration.model_validate(STEP | {"warmup": 0.0}).curve
    points = curves.sharp(curve, 1.0, steps=10**8, points=100)
    drops = [(one, other) for (one, high), (other, low) in itertools.pairwise(points) if low < high]
    assert drops == [(at - 1, at) for at in (25 * 10**6, 50 * 10**6, 75 * 10**6)]
    assert len(points) < 130


def test_the_loss_stands_beside_the_answer_with_what_it_is_compared_with(service: httpx.Client) -> None:
    text = service.get(found(service, [0.5, 0.25])).text
    assert re.search(r'class="big">0\.25 <span class="unit">val_loss</span>', text)
    assert "a single run, not confirmed" in text
    assert "Untuned: 0.5 with adamw at 1e-3, linear (final 0)" in text
    assert "Better than untuned on 1 of 1 seed." in text
    assert 'aria-label="untuned: 0.5 over 1 seed"' in text


def test_the_copied_answer_is_exact_and_every_framework_is_one_click_away(service: httpx.Client) -> None:
    path = found(service, [0.5, 0.25])
    best = service.get(f"/v1{path}/best").json()
    copied = re.search(r'id="answer-exactly"[^>]*>([^<]+)</pre>', service.get(path).text)
    assert copied is not None
    assert Configuration.model_validate_json(copied[1].replace("&#34;", '"')) == Configuration.model_validate(
        best["configuration"]
    )
    snippets = service.get(f"{path}/export").text
    for name in ("PyTorch", "Keras", "Optax", "Transformers", "Lightning", "DeepSpeed", "timm", "JSON", "CSV"):
        assert f"<span>{name}</span>" in snippets


def test_a_job_without_an_answer_says_what_it_waits_for(service: httpx.Client) -> None:
    job = service.post("/v1/jobs", json={"task": "digits"}).json()["id"]
    text = service.get(f"/jobs/{job}").text
    assert 'id="answer"' not in text
    assert "the first complete run decides" in text
    assert "as soon as there is one" in service.get(f"/jobs/{job}/export").text
