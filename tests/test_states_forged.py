"""States that somebody wrote, with the right name and the right checksum, and that are no state of this training."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lrtune.errors import TaskError
from lrtune.wire.job import TaskSpec
from tests.test_states import Lab, filed, only_state, same
from tests.test_trainer import trial
from worker import snapshot
from worker.packing import Damaged, unpacked
from worker.snapshot import Snapshot
from worker.tasks import prepare

Forge = Callable[[dict[str, torch.Tensor], dict[str, Any]], object]


def _shaped(tensors: dict[str, torch.Tensor], notes: dict[str, Any]) -> None:
    name = next(one for one in tensors if one.startswith("optimizer/") and tensors[one].dim() == 2)
    tensors[name] = torch.zeros(3, 7)


FORGED: dict[str, Forge] = {
    "no reports": lambda _, notes: notes.pop("reports"),
    "reports that are none": lambda _, notes: notes.update(reports=["x", 3]),
    "reports from its future": lambda _, notes: notes["reports"][-1].update(step=39),
    "reports out of order": lambda _, notes: notes["reports"].reverse(),
    "nobody who trained it": lambda _, notes: notes.update(trained=[]),
    "trained by numbers": lambda _, notes: notes.update(trained=[[None, 7]]),
    "another step": lambda _, notes: notes.update(step=21),
    "a step that is none": lambda _, notes: notes.update(step="22"),
    "losses that are none": lambda _, notes: notes.update(losses=7),
    "groups that are none": lambda _, notes: notes.update(groups=[7]),
    "generators that are none": lambda _, notes: notes.update(random=[{"python": 7}]),
    "no parts": lambda _, notes: notes.update(parts=None),
    "no tensors": lambda tensors, _: tensors.clear(),
    "an optimizer of other shapes": _shaped,
    "an optimizer of another place": lambda _, notes: notes["optimizer"].update({"optimizer/0/99/step": 1}),
}


@pytest.mark.parametrize("how", FORGED)
def test_a_state_of_wrong_content_is_ignored_said_and_removed(how: str, tmp_path: Path) -> None:
    lab, task, asked = Lab(tmp_path), prepare(TaskSpec(name="digits"), Path()), trial(horizon=40)
    lab.train(task, asked.model_copy(update={"until": 22}))
    path = only_state(tmp_path)
    key, *middle = path.stem.split("_")[:-1]
    state = unpacked(np.fromfile(path, dtype=np.uint8), key=key, step=22)
    FORGED[how](state.tensors, state.notes)
    data = filed(Snapshot(state.tensors, state.notes), key)
    path.unlink()
    forged(path, data, "_".join([key, *middle]))
    assert same(lab.train(task, asked), lab.train(task, asked, shares=False))
    ((kind, message),) = lab.said
    assert (kind, "the state of step 22 was ignored and is trained again" in message) == ("state-ignored", True)
    assert list(tmp_path.rglob("*_stage_*")) == []


def forged(path: Path, data: bytes, name: str) -> None:
    """A file whose name has the right checksum."""
    path.with_name(f"{name}_{hashlib.sha256(data).hexdigest()[:32]}.safetensors").write_bytes(data)


@pytest.mark.parametrize("kind", ["pipe", "folder", "link", "link to nothing", "device"])
def test_a_state_that_is_no_regular_file_is_not_read(kind: str, tmp_path: Path) -> None:
    lab, task, asked = Lab(tmp_path), prepare(TaskSpec(name="digits"), Path()), trial(horizon=40)
    lab.train(task, asked.model_copy(update={"until": 22}))
    path = only_state(tmp_path)
    real = path.rename(tmp_path / "elsewhere")
    made = {
        "pipe": lambda: os.mkfifo(path),
        "folder": path.mkdir,
        "link": lambda: path.symlink_to(real),
        "link to nothing": lambda: path.symlink_to("nothing"),
        "device": lambda: path.symlink_to("/dev/zero"),
    }
    made[kind]()
    assert same(lab.train(task, asked), lab.train(task, asked, shares=False))
    assert (lab.starts, lab.said) == ([], [])


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(["step", "reports", "trained", "losses"]), json_values))
def test_whatever_the_notes_say_a_state_is_read_or_damaged(notes: dict[str, Any]) -> None:
    data = filed(Snapshot({}, {"step": 1, "reports": [], "trained": [[1, "w"]], **notes}))
    try:
        found = unpacked(np.frombuffer(data, dtype=np.uint8).copy(), key="k", step=1)
    except Damaged:
        return
    assert found.notes["trained"][-1][0] == 1


BROKEN = {
    "no header": b"",
    "a header that is too long": (1 << 40).to_bytes(8, "little"),
    "a header that is no JSON": (4).to_bytes(8, "little") + b"{{{{",
    "a header that is no object": (4).to_bytes(8, "little") + b"[1] ",
}
HEADERS: dict[str, dict[str, Any]] = {
    "a type that nobody knows": {"dtype": "F7"},
    "another shape": {"shape": [3]},
    "a shape that is none": {"shape": [-2, -1]},
    "a shape of truths": {"shape": [True, 2]},
    "more bytes than there are": {"shape": [1 << 40], "data_offsets": [0, 1 << 42]},
    "bytes before its own": {"data_offsets": [-8, 0]},
    "bytes that are another's": {"data_offsets": [4, 12]},
    "bytes that are none": {"data_offsets": [0, "8"]},
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_file_without_a_header_is_damaged(how: str) -> None:
    with pytest.raises(Damaged):
        unpacked(np.frombuffer(BROKEN[how], dtype=np.uint8).copy(), key="k", step=1)


@pytest.mark.parametrize("how", HEADERS)
def test_a_header_that_says_what_the_file_has_not_is_damaged(how: str) -> None:
    notes = json.dumps({"format": 1, "key": "k", "step": 1, "reports": [], "trained": [[1, "w"]]})
    said = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    for changes in ({}, HEADERS[how]):
        head = json.dumps({"__metadata__": {"lrtune": notes}, "model/w": said | changes}).encode()
        head += b" " * (-len(head) % 8)
        data = np.frombuffer(len(head).to_bytes(8, "little") + head + bytes(8), dtype=np.uint8).copy()
        if changes:
            with pytest.raises(Damaged):
                unpacked(data, key="k", step=1)
        else:
            assert unpacked(data, key="k", step=1).tensors["model/w"].tolist() == [0.0, 0.0]


def test_a_state_for_which_memory_ran_out_as_it_was_read_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab, task, asked = Lab(tmp_path), prepare(TaskSpec(name="digits"), Path()), trial(horizon=40)
    lab.train(task, asked.model_copy(update={"until": 22}))
    path = only_state(tmp_path)

    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with monkeypatch.context() as patched:
        patched.setattr(snapshot, "_put_optimizer", full)
        with pytest.raises(TaskError, match="memory"):
            lab.train(task, asked)
    assert path.exists()
    assert same(lab.train(task, asked), lab.train(task, asked, shares=False))
