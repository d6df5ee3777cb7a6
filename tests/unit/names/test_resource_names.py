"""What is said of a name that is none, to people who type it."""

import pytest

from deltaic.errors import BadName
from deltaic.names import ModelName, RevisionName, TagName, parse_target


@pytest.mark.parametrize("text", ["No Name", "models/No Name", ""])
def test_a_bad_model_name_is_refused_with_both_ways_to_write_one(text: str) -> None:
    with pytest.raises(BadName) as caught:
        parse_target(text)
    assert caught.value.hint.startswith("write NAME or models/NAME")


@pytest.mark.parametrize("text", ["smollm2", "models/smollm2"])
def test_both_ways_mean_the_same_model(text: str) -> None:
    assert ModelName.parse(text) == ModelName("smollm2")


@pytest.mark.parametrize("text", ["smollm2/v1.2", "models/smollm2/tags/v1.2"])
def test_both_ways_mean_the_same_tag(text: str) -> None:
    assert TagName.parse(text) == TagName("smollm2", "v1.2")
    assert str(TagName.parse(text)) == "models/smollm2/tags/v1.2"


@pytest.mark.parametrize("tag", ["2024", "abc", "8137", "f", "0" * 63])
def test_a_tag_that_reads_as_the_start_of_a_digest_is_refused(tag: str) -> None:
    with pytest.raises(BadName, match="start of a digest"):
        TagName.parse(f"smollm2/{tag}")


@pytest.mark.parametrize("text", ["v1", "smollm2/", "smollm2/V1", "models/smollm2/channels/v1", "smollm2/v1/x", ""])
def test_what_is_no_tag_is_refused_with_how_to_write_one(text: str) -> None:
    with pytest.raises(BadName, match="write MODEL/TAG"):
        TagName.parse(text)


def test_a_tag_is_never_taken_for_a_revision() -> None:
    with pytest.raises(BadName, match="resolve the tag first"):
        RevisionName.parse("models/smollm2/tags/v1.2")
