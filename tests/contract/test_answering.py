"""Whatever answers a gateway behaves alike: an object of this process, and a node behind a channel."""

import asyncio
from contextlib import aclosing, asynccontextmanager

import pytest
from played_node import REVISION, PlayedNode, end, text

from deltaic.engine.errors import QueueFull, WorkerDied
from deltaic.errors import Code, DeltaicError
from deltaic.gateway.remote import RemoteNode
from deltaic.rpc.channel import open_channel
from deltaic.rpc.server import Server
from deltaic.v1 import inference_pb2 as pb
from deltaic.v1 import inference_pb2_grpc

ASK = pb.GenerateRequest(model="models/assistant", prompt="hi", tenant="t", top_logprobs=0, choices=2)


class Servicer(inference_pb2_grpc.InferenceServiceServicer):
    """A node whose domain object is played."""

    def __init__(self, played):
        self.played = played

    async def Generate(self, request, context):
        async with aclosing(self.played.generate(request, context.time_remaining())) as pieces:
            async for piece in pieces:
                yield piece

    async def Embed(self, request, context):
        return await self.played.embed(request, context.time_remaining())

    async def CountTokens(self, request, context):
        return await self.played.count_tokens(request, context.time_remaining())

    async def ListModels(self, request, context):
        return await self.played.list_models(context.time_remaining())


@asynccontextmanager
async def here(played):
    yield played


@asynccontextmanager
async def behind_a_channel(played):
    server = Server("127.0.0.1:0")
    service = "deltaic.v1.InferenceService"
    server.add(inference_pb2_grpc.add_InferenceServiceServicer_to_server, Servicer(played), service)
    async with server.running(grace=0), open_channel(f"127.0.0.1:{server.port}", node="gateway@test") as channel:
        yield RemoteNode(channel, "node test")


@pytest.fixture(params=[here, behind_a_channel])
def opened(request):
    return request.param


async def test_pieces_come_in_order_and_unchanged(opened):
    played = PlayedNode()
    async with opened(played) as answering:
        pieces = [piece async for piece in answering.generate(ASK, 10.0)]
    assert pieces == [text("Hello"), text(" you"), end()]
    assert played.requests == [ASK]
    assert 5 < played.seconds[0] <= 10.5  # gRPC rounds a timeout up, by up to a tenth of a second and more


async def test_closing_an_answer_ends_the_work_behind_it(opened):
    played = PlayedNode(pieces=[], endless="word")
    async with opened(played) as answering:
        async with aclosing(answering.generate(ASK, 30.0)) as pieces:
            assert (await anext(pieces)).text.startswith("word")
        async with asyncio.timeout(20):
            await played.closed.wait()


@pytest.mark.parametrize("before", [[], [text("a")]])
async def test_an_error_keeps_its_code_reason_and_facts(opened, before):
    played = PlayedNode(pieces=before, error=QueueFull("full", hint="wait", retry_after_ms="40"))
    async with opened(played) as answering, aclosing(answering.generate(ASK, 10.0)) as pieces:
        assert [await anext(pieces) for _ in before] == before
        with pytest.raises(DeltaicError) as caught:
            await anext(pieces)
    error = caught.value
    assert (error.code, error.reason, error.hint) == (Code.RESOURCE_EXHAUSTED, "QUEUE_FULL", "wait")
    assert error.metadata["retry_after_ms"] == "40"


async def test_vectors_counts_and_models_come(opened):
    async with opened(PlayedNode()) as answering:
        vectors = await answering.embed(pb.EmbedRequest(model="m", inputs=["one", "three"]), 10.0)
        assert [list(each.values) for each in vectors.embeddings] == [[3.0, 0.5], [5.0, 0.5]]
        assert (await answering.count_tokens(pb.CountTokensRequest(prompt="a b c"), 10.0)).tokens == 3
        assert REVISION in {model.revision for model in (await answering.list_models(10.0)).models}


async def test_so_do_their_errors(opened):
    async with opened(PlayedNode(error=WorkerDied("died"))) as answering:
        for asked in (
            answering.embed(pb.EmbedRequest(model="m", inputs=["x"]), 10.0),
            answering.count_tokens(pb.CountTokensRequest(prompt="x"), 10.0),
            answering.list_models(10.0),
        ):
            with pytest.raises(DeltaicError) as caught:
                await asked
            assert caught.value.reason == "WORKER_DIED"


async def test_a_node_that_is_not_there_is_unavailable():
    async with open_channel("127.0.0.1:9", node="gateway@test") as channel:
        with pytest.raises(DeltaicError) as caught:
            async for _ in RemoteNode(channel, "node 127.0.0.1:9").generate(ASK, 5.0):
                pass
    assert (caught.value.code, caught.value.reason) == (Code.UNAVAILABLE, "UNREACHABLE")
