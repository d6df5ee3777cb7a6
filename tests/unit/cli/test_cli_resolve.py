"""A revision as a person types it: as much of its digest as is unique, or a tag."""

import pytest

from cli import registry
from deltaic.errors import BadName, InvalidArgument, NotFound
from deltaic.names import ModelName
from deltaic.v1 import registry_pb2

FIRST, SECOND = "8137" + "0" * 60, "81ff" + "0" * 60
MODEL = ModelName("smollm2")


@pytest.fixture(autouse=True)
def known(monkeypatch) -> None:
    async def listed(center: str, model: str) -> list[registry_pb2.Revision]:
        return [registry_pb2.Revision(name=f"{model}/revisions/sha256:{digits}") for digits in (FIRST, SECOND)]

    async def tagged(center: str, model: str) -> list[registry_pb2.Tag]:
        second = registry_pb2.Revision(name=f"{model}/revisions/sha256:{SECOND}")
        return [registry_pb2.Tag(name=f"{model}/tags/v1.2", revision=second)]

    monkeypatch.setattr(registry, "list_revisions", listed)
    monkeypatch.setattr(registry, "list_tags", tagged)


@pytest.mark.parametrize(
    "text", ["8137", "sha256:8137", "813", FIRST, f"sha256:{FIRST}", f"{MODEL}/revisions/sha256:{FIRST}"]
)
async def test_enough_digits_name_a_revision(text: str) -> None:
    assert (await registry.resolve("center", MODEL, text)).hex == FIRST


async def test_letters_may_be_capital() -> None:
    assert (await registry.resolve("center", MODEL, "81FF")).hex == SECOND


async def test_too_few_digits_are_refused_with_what_they_could_mean() -> None:
    with pytest.raises(InvalidArgument, match=r"2 revisions of models/smollm2 start with sha256:81: sha256:8137.*ff"):
        await registry.resolve("center", MODEL, "81")


async def test_digits_that_nothing_starts_with() -> None:
    with pytest.raises(NotFound, match="no revision of models/smollm2 starts with sha256:9; see deltaic revisions"):
        await registry.resolve("center", MODEL, "9")


@pytest.mark.parametrize("text", ["v1.2", "smollm2/v1.2", "models/smollm2/tags/v1.2"])
async def test_a_tag_names_its_revision(text: str) -> None:
    assert (await registry.resolve("center", MODEL, text)).hex == SECOND


async def test_a_word_that_is_no_tag_says_where_to_look() -> None:
    with pytest.raises(NotFound, match=r"no tag models/smollm2/tags/stable; .*deltaic tags smollm2"):
        await registry.resolve("center", MODEL, "stable")


@pytest.mark.parametrize("text", ["", "Stable", "sha256:", "models/smollm2/channels/stable"])
async def test_what_is_no_digest_is_refused(text: str) -> None:
    with pytest.raises(BadName):
        await registry.resolve("center", MODEL, text)


async def test_channels_of_a_model_that_does_not_exist(monkeypatch) -> None:
    async def none(center: str, model: str) -> list[registry_pb2.Channel]:
        return []

    async def unknown(center: str, model: str) -> list[registry_pb2.Revision]:
        raise NotFound(f"no model {model}")

    monkeypatch.setattr(registry, "list_channels", none)
    assert await registry._channels_of("center", "models/smollm2") == []
    monkeypatch.setattr(registry, "list_revisions", unknown)
    with pytest.raises(NotFound):
        await registry._channels_of("center", "models/nope")
    assert await registry._channels_of("center", "") == []
