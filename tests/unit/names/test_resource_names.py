"""What is said of a name that is none, to people who type it."""

import pytest

from deltaic.errors import BadName
from deltaic.names import ModelName, parse_target


@pytest.mark.parametrize("text", ["No Name", "models/No Name", ""])
def test_a_bad_model_name_is_refused_with_both_ways_to_write_one(text: str) -> None:
    with pytest.raises(BadName) as caught:
        parse_target(text)
    assert caught.value.hint.startswith("write NAME or models/NAME")


@pytest.mark.parametrize("text", ["smollm2", "models/smollm2"])
def test_both_ways_mean_the_same_model(text: str) -> None:
    assert ModelName.parse(text) == ModelName("smollm2")
