"""Where wheels and models are kept, and how they get there."""

from pathlib import Path

import pytest
from cache_folder import cache_folder, exclusive, models_folder, place


@pytest.mark.parametrize(
    ("environ", "folder"),
    [
        ({"DELTAIC_CACHE": "/c", "XDG_CACHE_HOME": "/x", "HOME": "/h"}, "/c"),
        ({"XDG_CACHE_HOME": "/x", "HOME": "/h"}, "/x/deltaic"),
        ({"XDG_CACHE_HOME": "", "DELTAIC_CACHE": "", "HOME": "/h"}, "/h/.cache/deltaic"),
    ],
)
def test_the_most_particular_variable_wins(environ, folder):
    assert cache_folder(environ) == Path(folder)
    assert models_folder(environ) == Path(folder) / "models"


def test_models_can_be_kept_elsewhere():
    assert models_folder({"DELTAIC_MODELS": "/m", "DELTAIC_CACHE": "/c"}) == Path("/m")


def test_placing_replaces_what_was_there(tmp_path):
    made, target = tmp_path / "made", tmp_path / "target"
    target.write_text("old")
    made.write_text("new")
    place(made, target)
    assert target.read_text() == "new"
    assert not made.exists()


def test_a_lock_is_free_again_after_its_block_and_after_an_error(tmp_path):
    lock = tmp_path / "deeper" / "lock"
    with pytest.raises(KeyError), exclusive(lock):
        raise KeyError
    with exclusive(lock):
        assert lock.exists()
