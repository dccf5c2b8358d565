"""Two processes train one trial in stages, in a loop of their own, sharded, and in every framework."""

import json
from pathlib import Path

import pytest

from tests.offline import STEPS
from tests.test_adapters_processes import TORCHRUN, launched

KINDS = ("plain", "sharded", "accelerated", "huggingface", "lightning")


@pytest.mark.timeout(240)
def test_two_processes_paused_and_resumed_train_bit_for_bit_as_in_one_piece(tmp_path: Path) -> None:
    printed = launched([*TORCHRUN, "-m", "tests.two_stages", str(tmp_path), *KINDS], tmp_path)
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    for kind in KINDS:
        for found in (first[kind], second[kind]):
            assert len(found["whole"]) >= STEPS
            assert found["stages"] == found["whole"], kind
        assert first[kind]["whole"] != second[kind]["whole"], "each trains on its share"
    assert (first["uneven"], first["apart"]) == (second["uneven"], second["apart"]), "what is refused, all hear"
    assert first["unlucky"] == "process 1: ValueError: out of luck", "of which its trial has failed"
    assert first["uneven"] == "step: found 1, 2; all processes report at the same steps"
    assert "does not see /proc/self/cwd/kept, where process 0 on" in first["apart"]
    assert printed.count("paused 6 ") == 2, "one of them was asked to go, and all were kept"
