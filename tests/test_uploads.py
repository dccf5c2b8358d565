"""What names and shapes mean, whatever they are: folders of pictures, and the axes of arrays."""

from hypothesis import given
from hypothesis import strategies as st

from lrtune.errors import UnusableFile
from lrtune.uploads.folders import Place, arranged
from lrtune.uploads.layouts import found
from lrtune.uploads.parts import Part

FOLDER = st.sampled_from(["cat", "dog", "train", "Test", "val", "a b", "Ü"])
FOLDERS = st.sets(st.lists(FOLDER, min_size=1, max_size=3).map("/".join), min_size=1, max_size=6)


def meant(folders: set[str], around: str = "") -> tuple[list[Place], list[str], str]:
    """The places and the notes of two pictures in each folder, or the words of the refusal."""
    try:
        return *arranged(f"{around}{folder}/{n}.png" for folder in folders for n in range(2)), ""
    except UnusableFile as error:
        return [], [], str(error)


@given(FOLDERS)
def test_a_folder_around_all_pictures_changes_nothing(folders: set[str]) -> None:
    bare, around = (meant(folders, below) for below in ("", "all pets/"))
    assert bool(bare[2]) == bool(around[2])
    assert [(one.label, one.part) for one in bare[0]] == [(one.label, one.part) for one in around[0]]


@given(FOLDERS)
def test_folders_are_classes_or_a_split_or_refused_and_nothing_is_left_out_unsaid(folders: set[str]) -> None:
    places, notes, refused = meant(folders)
    if refused:
        assert "accepted is" in refused
        return
    parts = {place.part for place in places}
    assert parts == {None} or (len(parts) == 2 and Part.TRAIN in parts)
    assert (parts != {None}) == any("the folders name a split" in note for note in notes)
    assert len(places) == 2 * len(folders) or any(note.startswith("not used: ") for note in notes)
    assert all(place.label in place.name.split("/")[:-1] for place in places)


@given(st.tuples(*[st.integers(1, 12)] * 3))
def test_axes_in_reverse_have_their_channels_on_the_other_side(sides: tuple[int, int, int]) -> None:
    there, back = (found((9, *one), "x")[0] for one in (sides, sides[::-1]))
    assert {there, back} in ({None}, {"channels-first", "channels-last"})
