"""Tags are asked of the center once in a while, and known without it."""

import asyncio

import grpc
import pytest

from deltaic.names import ChannelName, TagName
from deltaic.v1 import inference_pb2 as pb
from deltaic.v1 import registry_pb2
from edge.errors import CenterUnreachable, NotHeldHere
from edge.named_answers import NamedAnswers
from edge.tags import FRESH_SECONDS, TagBook

REVISION = f"models/m/revisions/sha256:{1:064x}"
TAG = TagName("m", "v1")


class Center:
    """Knows tags, unless it is down."""

    def __init__(self, *tags: str) -> None:
        self.tags, self.down, self.asked = list(tags), False, 0

    async def ListTags(self, _request, timeout):  # noqa: ASYNC109  # as gRPC has it
        assert timeout > 0
        self.asked += 1
        await asyncio.sleep(0)
        if self.down:
            raise grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), grpc.aio.Metadata())
        named = registry_pb2.Revision(name=REVISION)
        return registry_pb2.ListTagsResponse(tags=[registry_pb2.Tag(name=each, revision=named) for each in self.tags])


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def book_of(center: Center, path, clock) -> TagBook:
    channel = grpc.aio.insecure_channel("127.0.0.1:1")
    book = TagBook(channel, "center c", path, clock=clock)
    book._stub = center
    return book


async def test_a_tag_is_asked_for_once_by_many_and_again_after_a_while(tmp_path):
    center, clock = Center(str(TAG)), Clock()
    book = book_of(center, tmp_path / "tags.json", clock)
    answers = await asyncio.gather(*(book.resolve(TAG, 5) for _ in range(9)))
    assert {str(each) for each in answers} == {REVISION}
    assert center.asked == 1
    clock.now += 2 * FRESH_SECONDS
    center.tags = []
    with pytest.raises(NotHeldHere):
        await book.resolve(TAG, 5)


async def test_what_was_heard_once_is_known_without_a_line_and_after_a_restart(tmp_path):
    center, clock = Center(str(TAG)), Clock()
    await book_of(center, tmp_path / "tags.json", clock).resolve(TAG, 5)
    center.down = True
    again = book_of(center, tmp_path / "tags.json", clock)
    again.load()
    assert str(await again.resolve(TAG, 5)) == REVISION
    with pytest.raises(CenterUnreachable) as caught:
        await again.resolve(TagName("m", "v2"), 5)
    assert caught.value.metadata["retry_after_ms"]
    assert center.asked == 2, "nobody waits for a silent center again so soon"


@pytest.mark.parametrize("content", [b"", b"[]", b'{"format": 9}', b'{"format": 1, "tags": {"x": 1}}'])
async def test_a_damaged_file_is_as_good_as_none(tmp_path, content):
    (tmp_path / "tags.json").write_bytes(content)
    book = book_of(Center(str(TAG)), tmp_path / "tags.json", Clock())
    book.load()
    assert str(await book.resolve(TAG, 5)) == REVISION


class Behind:
    """Says which model it was asked for."""

    async def embed(self, request, _seconds):
        return pb.EmbedResponse(node=request.model)


@pytest.mark.parametrize(
    ("model", "meant"),
    [
        ("m", "m"),
        ("m@stable", "m@stable"),
        ("m@canary", "m@canary"),
        ("m@v1", REVISION),
        ("models/m/tags/v1", REVISION),
        ("m@v2", "m@v2"),
        (REVISION, REVISION),
    ],
)
async def test_a_word_after_the_name_is_a_channel_that_is_known_here_or_else_a_tag(tmp_path, model, meant):
    book = book_of(Center(str(TAG), "models/m/tags/canary"), tmp_path / "tags.json", Clock())
    answers = NamedAnswers(Behind(), book, {ChannelName("m", "canary")}.__contains__)
    assert (await answers.embed(pb.EmbedRequest(model=model), 5)).node == meant
