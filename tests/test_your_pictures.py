"""Pictures and arrays as people have them: uploaded, described, refused or trained on, by a server and a worker."""

import itertools
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from PIL import Image

from lrtune.client import Client
from lrtune.errors import TaskError
from lrtune.wire.datasets import Dataset
from lrtune.wire.job import TaskSpec
from tests.files import only
from tests.pictures import (
    READ,
    REFUSED,
    SPLIT,
    UNSPLIT,
    classes,
    encoded,
    grey,
    halves,
    npz_of,
    plain,
    turned,
)
from tests.serving import KEY, served, slug
from worker.digest import task_digest
from worker.loop import Worker
from worker.settings import Settings
from worker.tasks import prepare
from worker.tasks.supervised import Supervised

SMALL = {"horizon": {"steps": 2}, "budget": {"trials": 1}, "confirm": {"top": 1, "seeds": 1}}
NUMBERS = itertools.count()
RANDOM = np.random.default_rng(0)
Y = np.arange(40) % 2


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pictures")


@pytest.fixture(scope="module")
def service(data_dir: Path, sqlite_template: Path) -> Iterator[httpx.Client]:
    """A server and a worker that really trains, one pair for all files."""
    torch.set_num_threads(1)
    path, stop = data_dir.parent / "pictures.db", threading.Event()
    path.write_bytes(sqlite_template.read_bytes())
    with served(f"sqlite:///{path}", data_dir=data_dir) as client:
        settings = Settings(database_url=f"sqlite:///{path}", data_dir=data_dir, device="cpu", poll_seconds=0.01)
        working = threading.Thread(target=Worker(settings, stop).work)
        working.start()
        yield client
        stop.set()
        working.join()


def sent(service: httpx.Client, content: bytes, suffix: str = "zip") -> Dataset:
    name = f"{next(NUMBERS)}.{suffix}"
    answer = service.post("/v1/datasets", params={"name": name}, content=content)
    assert answer.status_code == 201, answer.text
    return Dataset.model_validate(answer.json())


def refused(service: httpx.Client, content: bytes, suffix: str = "zip") -> str:
    answer = service.post("/v1/datasets", params={"name": f"bad.{suffix}"}, content=content)
    assert slug(answer) == "unusable-file"
    return str(answer.json()["detail"])


def trained(service: httpx.Client, data_dir: Path, found: Dataset, **params: Any) -> Supervised:
    """The task as the worker has it, after a job on the dataset has succeeded; the dataset is removed."""
    asked = {"dataset": found.name, "width": 2, "size": 8, "batch_size": 8} | params
    with Client(str(service.base_url), KEY) as client:
        job = client.submit({"task": {"name": "images", "params": asked}, **SMALL})
        done = client.wait(job.id)
        assert client.best(job.id).confirmed, done.reason
    return as_read(service, data_dir, found, **params)


def as_read(service: httpx.Client, data_dir: Path, found: Dataset, **params: Any) -> Supervised:
    """The task as a worker reads it; the dataset is removed."""
    task = prepare(TaskSpec(name="images", params={"dataset": found.file, "size": 8} | params), data_dir)
    service.delete(f"/v1/datasets/{found.id}").raise_for_status()
    assert isinstance(task, Supervised)
    return task


def said(found: Dataset) -> str:
    return "; ".join(found.notes)


def told_apart(task: Supervised) -> float:
    """How far the means of the two classes lie from each other where they do most, in deviations of the pixels."""
    x, y = task.train
    return float((x[y == 0].mean(dim=0) - x[y == 1].mean(dim=0)).abs().max())


@pytest.mark.parametrize("case", READ)
def test_pictures_of_every_kind_keep_what_they_show(service: httpx.Client, data_dir: Path, case: str) -> None:
    pictures, words = READ[case]
    found = sent(service, only(pictures()))
    assert words in said(found)
    task = trained(service, data_dir, found)
    assert found.rows == len(task.train[1]) + len(task.validation[1]) == sum(found.classes.values())
    assert told_apart(task) > 0.8


@pytest.mark.parametrize("case", REFUSED)
def test_a_set_that_shows_nothing_or_is_damaged_is_refused_by_name(service: httpx.Client, case: str) -> None:
    pictures, words = REFUSED[case]
    assert words in refused(service, only(pictures()))


@pytest.mark.parametrize("case", SPLIT)
def test_a_split_that_the_folders_name_is_used_and_said(service: httpx.Client, data_dir: Path, case: str) -> None:
    pictures, parts, words = SPLIT[case]
    found = sent(service, only(pictures()))
    assert words in said(found)
    assert ("the folders name a split" in said(found)) == (parts[0] in (12, 24, 25))
    task = as_read(service, data_dir, found)
    assert (len(task.train[1]), len(task.validation[1])) == parts


@pytest.mark.parametrize("case", UNSPLIT)
def test_folders_that_could_mean_several_things_are_refused(service: httpx.Client, case: str) -> None:
    pictures, words = UNSPLIT[case]
    assert words in refused(service, only(pictures()))


def test_a_few_pictures_of_a_kind_that_is_not_read_are_left_out_by_name(service: httpx.Client) -> None:
    phone = {"dark/IMG_1.HEIC": b"\0\0\0\x18ftypheic" + bytes(40)}
    assert "'dark/IMG_1.HEIC' is no picture" in said(sent(service, only(classes(plain, each=20) | phone)))
    many = {f"dark/IMG_{n}.HEIC": phone["dark/IMG_1.HEIC"] for n in range(9)}
    assert "convert it to PNG or JPEG" in refused(service, only(classes(plain) | many))


@pytest.mark.parametrize("below", ["", "pets/"])
def test_what_systems_leave_in_archives_is_ignored(service: httpx.Client, data_dir: Path, below: str) -> None:
    left = ("__MACOSX/dark/._00.png", "dark/._00.png", ".DS_Store", "light/.DS_Store", "dark/Thumbs.db", "Desktop.ini")
    found = sent(service, only(classes(plain, below=below) | {below + name: b"\0\5\x16\7" for name in left}))
    assert (found.classes, found.notes) == ({"dark": 12, "light": 12}, [])
    assert len(trained(service, data_dir, found).train[1]) == 19


def test_what_people_write_beside_their_pictures_is_named(service: httpx.Client, data_dir: Path) -> None:
    found = sent(service, only(classes(plain) | {"README.txt": b"My pets", "dark/labels.csv": b"a,b"}))
    assert found.notes == ["not used: 'README.txt', 'dark/labels.csv'"]
    assert len(trained(service, data_dir, found).train[1]) == 19


@pytest.mark.parametrize(
    "bad", [b"", b"not a picture", encoded(grey(light=True).resize((64, 64)))[:300], plain(light=True)[:40]]
)
def test_one_bad_picture_in_twenty_five_is_named_and_left_out(
    service: httpx.Client, data_dir: Path, bad: bytes
) -> None:
    found = sent(service, only(classes(plain) | {"dark/bad.png": bad}))
    assert "left out, 1 in all: 'dark/bad.png' is no picture" in said(found)
    assert len(trained(service, data_dir, found).train[1]) == 19


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_turned_as_the_camera_says(tmp_path: Path, orientation: int) -> None:
    """Uploaded or laid into the folder: here a folder, which is read by the same code."""
    upright = [halves(light=bool(n % 2)) for n in range(4)]
    for kind in ("stored", "upright"):
        for n, picture in enumerate(upright):
            (tmp_path / kind / str(n % 2)).mkdir(parents=True, exist_ok=True)
            content = turned(picture, orientation) if kind == "stored" else encoded(picture)
            (tmp_path / kind / str(n % 2) / f"{n}.png").write_bytes(content)
    stored, meant = (
        prepare(TaskSpec(name="images", params={"dataset": kind, "size": 8, "validation": 0.5}), tmp_path)
        for kind in ("stored", "upright")
    )
    assert torch.equal(stored.train[0], meant.train[0])  # type: ignore[attr-defined]


def test_a_huge_or_a_moving_picture_is_refused_in_words(service: httpx.Client) -> None:
    huge = encoded(Image.new("1", (20_000, 10_000)))
    assert "'dark/h.png' has far more than the 25000000 pixels" in refused(
        service, only(classes(plain, each=50) | {"dark/h.png": huge})
    )
    frames = [Image.new("L", (8, 8), n * 90) for n in range(3)]
    moving = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert "'dark/m.gif' has several frames" in refused(service, only(classes(plain, each=50) | {"dark/m.gif": moving}))


def test_a_folder_on_the_workers_disk_is_read_as_an_upload_is(tmp_path: Path) -> None:
    for name, content in {**classes(plain, below="train/"), **classes(plain, below="val/", each=5)}.items():
        (tmp_path / "pets" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "pets" / name).write_bytes(content)
    (tmp_path / "pets/train/dark/._00.png").write_bytes(b"\0\5")
    task = prepare(TaskSpec(name="images", params={"dataset": "pets", "size": 8}), tmp_path)
    assert isinstance(task, Supervised)
    assert (len(task.train[1]), len(task.validation[1])) == (24, 10)


def gradient(*shape: int, scale: float = 1.0) -> Any:
    """Numbers [40, *shape] whose mean says the class."""
    return scale * (0.3 * RANDOM.random((40, *shape)) + 0.6 * Y.reshape(-1, *[1] * len(shape)))


@pytest.mark.parametrize(
    ("shape", "seen"),
    [
        ((9,), (1, 9)),
        ((8, 6), (1, 8, 6)),
        ((8, 8, 10), (10, 8, 8)),
        ((10, 8, 8), (10, 8, 8)),
        ((8, 9, 3), (3, 8, 9)),
        ((3, 8, 9), (3, 8, 9)),
        ((4, 4, 3), (3, 4, 4)),
        ((4, 4, 1), (1, 4, 4)),
        ((1, 4, 4), (1, 4, 4)),
    ],
)
def test_a_shape_that_tells_its_channels_is_understood(
    service: httpx.Client, data_dir: Path, shape: tuple[int, ...], seen: tuple[int, ...]
) -> None:
    found = sent(service, npz_of(x=gradient(*shape), y=Y), "npz")
    assert found.asks == {}
    assert f"x is {[40, *shape]}: " in said(found)
    task = as_read(service, data_dir, found)
    assert tuple(task.train[0].shape) == (32, *seen)
    assert told_apart(task) > 0.8


@pytest.mark.parametrize("shape", [(8, 8, 8), (8, 9, 10), (3, 8, 2), (3, 3, 10)])
def test_a_shape_that_does_not_tell_is_asked_for(service: httpx.Client, data_dir: Path, shape: tuple[int, ...]) -> None:
    found = sent(service, npz_of(x=gradient(*shape), y=Y), "npz")
    answer = service.post("/v1/jobs", json={"task": {"name": "images", "params": {"dataset": found.name}}})
    assert answer.json()["errors"][0]["pointer"] == "/task/params/layout"
    assert "channels-last or channels-first" in answer.json()["errors"][0]["detail"]
    with pytest.raises(TaskError, match="give `layout`"):
        prepare(TaskSpec(name="images", params={"dataset": found.file}), data_dir)
    first = prepare(TaskSpec(name="images", params={"dataset": found.file, "layout": "channels-first"}), data_dir)
    last = trained(service, data_dir, found, layout="channels-last")
    assert tuple(last.train[0].shape[1:]) == (shape[2], shape[0], shape[1])
    assert tuple(first.train[0].shape[1:]) == shape  # type: ignore[attr-defined]
    assert task_digest(first) != task_digest(last), "what was read otherwise would go on from the other's states"


NAMES = [
    ("x_train", "y_train", "x_test", "y_test"),
    ("X_train", "y_train", "X_test", "y_test"),
    ("train_images", "train_labels", "val_images", "val_labels"),
    ("x", "y", "x_val", "y_val"),
    ("trainX", "trainY", "testX", "testY"),
    ("data", "target", "data_valid", "target_valid"),
]


@pytest.mark.parametrize("names", NAMES, ids=" ".join)
def test_arrays_that_name_a_split_are_used_as_one(service: httpx.Client, data_dir: Path, names: Any) -> None:
    x = gradient(6, 6)
    found = sent(service, npz_of(**dict(zip(names, (x[:30], Y[:30], x[30:], Y[30:]), strict=True))), "npz")
    assert f"{names[0]} with {names[1]} is trained on, {names[2]} with {names[3]} is measured on" in said(found)
    task = as_read(service, data_dir, found)
    assert (len(task.train[1]), task.validation[1].tolist()) == (30, Y[30:].tolist())


def test_labels_of_one_part_may_be_words_and_of_the_other_numbers(service: httpx.Client, data_dir: Path) -> None:
    x = gradient(6, 6)
    arrays = {"x": x[:30], "y": Y[:30].astype(str), "x_test": x[30:], "y_test": Y[30:].astype("f4")}
    assert as_read(service, data_dir, sent(service, npz_of(**arrays), "npz")).validation[1].tolist() == Y[30:].tolist()


def test_the_validation_part_is_measured_on_and_the_test_part_is_left_alone(
    service: httpx.Client, data_dir: Path
) -> None:
    x, y = gradient(6, 6), Y[:, None]
    arrays = {"train_images": x[:20], "train_labels": y[:20], "val_images": x[20:30], "val_labels": y[20:30]}
    found = sent(service, npz_of(**arrays, test_images=x[30:], test_labels=y[30:]), "npz")
    assert "not used: test_images, test_labels" in said(found)
    assert len(trained(service, data_dir, found).validation[1]) == 10


LABELS = {
    "floats": (Y.astype("f4"), {"0": 20, "1": 20}),
    "a column": (Y[:, None], {"0": 20, "1": 20}),
    "a column of floats": (Y[:, None].astype("f8"), {"0": 20, "1": 20}),
    "one-hot": (np.eye(2, dtype="f4")[Y], {"0": 20, "1": 20}),
    "one-hot of bools": (np.eye(3, dtype=bool)[Y + 1], {"1": 20, "2": 20}),
    "bools": (Y == 1, {"False": 20, "True": 20}),
    "words": (np.array(["cat", "dog"])[Y], {"cat": 20, "dog": 20}),
    "bytes": (np.array([b"cat", b"dog"])[Y], {"cat": 20, "dog": 20}),
    "from -1": (2 * Y - 1, {"-1": 20, "1": 20}),
}


@pytest.mark.parametrize("case", LABELS)
def test_labels_are_classes_however_they_are_written(service: httpx.Client, data_dir: Path, case: str) -> None:
    labels, meant = LABELS[case]
    found = sent(service, npz_of(x=gradient(6, 6), y=labels), "npz")
    assert found.classes == meant
    task = as_read(service, data_dir, found)
    assert sorted(task.train[1].unique().tolist()) == [0, 1]
    assert told_apart(task) > 0.8


@pytest.mark.parametrize(
    "x",
    [
        gradient(6, 6, scale=255).astype("u1"),
        gradient(6, 6, scale=65_535).astype("u2"),
        gradient(6, 6, scale=65_535).astype(">u2"),
        gradient(6, 6) > 0.5,
        gradient(6, 6).astype("f2"),
        gradient(6, 6, scale=255).astype("f4"),
        gradient(6, 6, scale=1e-12),
        gradient(6, 6, scale=100) + 1e9,
        np.asfortranarray(gradient(6, 6, 3)),
        gradient(6, 6, scale=-(2**40)).astype("i8"),
    ],
    ids=["u1", "u2", "big-endian u2", "bool", "f2", "f4 to 255", "tiny", "far from 0", "Fortran's order", "i8"],
)
def test_numbers_of_every_kind_keep_what_they_show(service: httpx.Client, data_dir: Path, x: Any) -> None:
    task = as_read(service, data_dir, sent(service, npz_of(x=x, y=Y), "npz"))
    assert told_apart(task) > 0.8


FLAWED = {
    "NaN": ({"x": np.where(np.arange(40)[:, None, None] == 7, np.nan, gradient(6, 6))}, "x has nan in example 7"),
    "NaN in Fortran's order": (
        {"x": np.asfortranarray(np.where(np.arange(40)[:, None, None] == 7, np.nan, gradient(6, 6)))},
        "x has nan in example 7",
    ),
    "too large": ({"x": gradient(6, 6, scale=1e39)}, "not finite in 32 bits"),
    "all the same": ({"x": np.full((40, 6, 6), 3, "u1")}, "all 40 examples of x are the same"),
    "all the same in Fortran's order": (
        {"x": np.asfortranarray(np.tile(RANDOM.random((1, 6, 6)), (40, 1, 1)))},
        "all 40 examples of x are the same",
    ),
    "pickles": ({"x": np.array([[{}] * 3] * 40, dtype=object)}, "could run code"),
    "fractions": ({"y": Y / 3}, "y has 0.333333 at 1"),
    "several labels each": ({"y": np.ones((40, 3))}, "not one-hot: row 0"),
    "numbers that are measured": ({"y": np.arange(40.0)}, "40 different labels for 40 examples"),
    "a class to measure alone": (
        {"x_test": gradient(6, 6), "y_test": Y + 1},
        "'2' of y_test is not in y, so it cannot be learned",
    ),
    "half a split": ({"x_test": gradient(6, 6)}, "x_test without its other half"),
    "two names for the same": ({"X": gradient(6, 6)}, "which could be the same"),
    "no names": (None, "needed are x and y"),
}


@pytest.mark.parametrize("case", FLAWED)
def test_arrays_that_nothing_can_be_learned_from_are_refused_by_name(service: httpx.Client, case: str) -> None:
    arrays, words = FLAWED[case]
    whole = {"arr_0": gradient(6, 6), "arr_1": Y} if arrays is None else {"x": gradient(6, 6), "y": Y} | arrays
    assert words in refused(service, npz_of(**whole), "npz")


def test_a_constant_channel_beside_others_is_no_obstacle(service: httpx.Client, data_dir: Path) -> None:
    x = gradient(6, 6, 3)
    x[..., 1] = 0.1
    task = trained(service, data_dir, sent(service, npz_of(x=x, y=Y), "npz"))
    assert task.train[0][:, 1].abs().max() < 1e-6
    assert told_apart(task) > 0.8
