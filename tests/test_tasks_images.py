"""Images and signals: every shape that comes, both networks, and what is said about bad files."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lrtune.errors import TaskError
from lrtune.wire.job import TaskSpec
from worker.tasks import prepare
from worker.tasks.supervised import Supervised

RANDOM = np.random.default_rng(0)
Y = np.arange(20) % 4


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def images(folder: Path, dataset: str = "images.npz", **params) -> Supervised:
    task = prepare(TaskSpec(name="images", params={"dataset": dataset, "width": 4} | params), folder)
    assert isinstance(task, Supervised)
    return task


@pytest.fixture
def npz(tmp_path: Path):
    def prepared(*, model: str = "cnn", **arrays) -> Supervised:
        np.savez(tmp_path / "images.npz", **arrays)
        return images(tmp_path, model=model)

    return prepared


@pytest.mark.parametrize("model", ["cnn", "resnet"])
@pytest.mark.parametrize(
    ("shape", "seen"),
    [((40,), (1, 40)), ((7, 5), (1, 7, 5)), ((8, 9, 3), (3, 8, 9)), ((3, 8, 9), (3, 8, 9)), ((1,), (1, 1))],
)
def test_signals_and_images_of_every_layout_are_learned(shape, seen, model: str, npz):
    task = npz(x=RANDOM.integers(0, 255, size=(20, *shape), dtype=np.uint8), y=Y, model=model)
    assert tuple(task.train[0].shape) == (16, *seen)
    loss = task.loss(task.model(), next(task.batches(0)))
    loss.backward()
    assert torch.isfinite(loss)


def test_a_test_part_is_the_validation_part_and_names_are_classes_too(npz):
    names = np.array(["cat", "dog"] * 10)
    task = npz(x=RANDOM.normal(size=(20, 6, 6)), y=names, x_test=RANDOM.normal(size=(5, 6, 6)), y_test=names[:5])
    assert (len(task.train[1]), task.validation[1].tolist()) == (20, [0, 1, 0, 1, 0])


def test_inputs_are_normalised_by_the_training_part_channel_by_channel(npz):
    x = RANDOM.normal(size=(20, 6, 6, 2)) * [1, 50] + [7, 100]
    task = npz(x=x, y=Y, x_test=x[:5] + 1000, y_test=Y[:5])
    assert task.train[0].mean(dim=(0, 2, 3)).tolist() == pytest.approx([0, 0], abs=1e-5)
    assert task.train[0].std(dim=(0, 2, 3), unbiased=False).tolist() == pytest.approx([1, 1], rel=1e-4)
    assert (task.validation[0].mean(dim=(0, 2, 3)) > 10).all()


def test_a_single_example_passes_through_the_resnet_and_does_not_depend_on_its_batch(npz):
    task = npz(x=RANDOM.normal(size=(20, 8, 8)), y=Y, model="resnet")
    model, x = task.model(), task.train[0]
    assert torch.allclose(model(x)[:1], model(x[:1]), atol=1e-5)


X = np.arange(80.0).reshape(20, 4)
BAD = {
    "no y": ({"x": X}, "the file has the arrays x; needed are x and y"),
    "half a test": ({"x": X, "y": Y, "x_test": X}, "x_test without its other half; needed are x and y"),
    "another length": ({"x": X[:19], "y": Y}, "x has 19 examples and y has 20 labels"),
    "one class": ({"x": X, "y": Y * 0}, "all labels are of one class, '0'"),
    "words as pixels": ({"x": np.full((20, 4), "a"), "y": Y}, "accepted are numbers"),
    "no axes": ({"x": np.arange(20), "y": Y}, "has 1 axes"),
    "not finite": ({"x": np.where(X == 30, np.nan, X), "y": Y}, "x has nan in example 7"),
    "too large for 32 bits": ({"x": X * 1e37, "y": Y}, r"x has \d.*e\+38 in example 8"),
    "the same in every example": ({"x": np.ones((20, 4)), "y": Y}, "all 20 examples of x are the same"),
    "fractions as labels": ({"x": X, "y": Y / 3}, "y has 0.333333 at 1"),
    "two labels each": ({"x": X, "y": np.eye(4)[Y] + np.eye(4)[0]}, "not one-hot: row 0"),
    "as many classes as examples": (
        {"x": np.eye(24), "y": np.arange(24.0)},
        "24 different labels for 24",
    ),
    "another test shape": (
        {"x": X, "y": Y, "x_test": X.reshape(16, 5), "y_test": Y[:16]},
        "all but the first agree",
    ),
    "nobody": ({"x": np.zeros((0, 4)), "y": Y[:0]}, "x is empty"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_arrays_are_refused_in_words(name: str, npz):
    arrays, words = BAD[name]
    with pytest.raises(TaskError, match=words):
        npz(**arrays)


def test_pickled_objects_are_refused_and_never_run(npz):
    with pytest.raises(TaskError, match=r"'images\.npz': the array y holds Python objects, which could run code"):
        npz(x=X, y=np.array([{"a": 1}] * 20, dtype=object))


def test_a_file_that_is_no_npz_is_refused_in_words(tmp_path: Path):
    (tmp_path / "images.npz").write_text("not a zip")
    with pytest.raises(TaskError, match=r"'images\.npz': the archive is cut off"):
        images(tmp_path)


def folder(tmp_path: Path) -> Path:
    for number, name in enumerate(("cat", "dog")):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for picture in range(5):
            Image.new("L" if picture else "RGBA", (9, 5), 80 * number).save(tmp_path / "pets" / name / f"{picture}.png")
    return tmp_path / "pets"


def test_a_folder_with_a_folder_of_pictures_a_class_is_resized_and_learned(tmp_path: Path):
    (folder(tmp_path) / "dog" / "notes.txt").write_text("no picture")
    task = images(tmp_path, "pets", size=12)
    assert (tuple(task.train[0].shape), task.train[1].bincount().tolist()) == ((8, 3, 12, 12), [4, 4])


def test_bad_pictures_are_named_and_linked_ones_outside_are_refused(tmp_path: Path):
    data = tmp_path / "data"
    broken = folder(data) / "cat" / "broken.png"
    broken.write_bytes(b"\x89PNG and no more")
    with pytest.raises(TaskError, match=r"'cat/broken\.png' is no picture.*; at least 1 of 11 pictures cannot be read"):
        images(data, "pets", size=8)
    broken.unlink()
    Image.new("L", (4, 4)).save(tmp_path / "secret.png")
    broken.symlink_to(tmp_path / "secret.png")
    with pytest.raises(TaskError, match="leads out of LRTUNE_DATA_DIR"):
        images(data, "pets", size=9)


def test_a_folder_without_pictures_is_refused_in_words(tmp_path: Path):
    (tmp_path / "pets").mkdir()
    with pytest.raises(TaskError, match="'pets': there are no pictures; accepted is one folder"):
        images(tmp_path, "pets")
