"""Exact repetitions: what is the same, what is not, what is kept, and what others put into the index."""

import pytest

from deltaic.names import RevisionName
from deltaic.v1 import inference_pb2 as pb
from edge.index.memory import MemoryBranch, MemoryIndex
from edge.index.secret import IndexSecret
from edge.response_cache import MOST_ENTRY_BYTES, CacheSettings, ResponseCache
from edge.sealed_answers import pressed, sealed, unpressed, unsealed
from edge.statistics import RequestStatistics

FIRST, SECOND = (RevisionName("m", f"sha256:{number:064x}") for number in (1, 2))
SECRET = IndexSecret("only the edges know")
GREEDY = pb.Sampling(temperature=0)


class Time:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def request(**fields) -> pb.GenerateRequest:
    return pb.GenerateRequest(**({"model": "m", "prompt": "Hello", "sampling": GREEDY, "tenant": "ward"} | fields))


def answer(text: str = "Good day", *, node: str = "one", revision: RevisionName = FIRST) -> list[pb.GenerateResponse]:
    logprobs = [pb.TokenLogprob(chosen=pb.TokenLogprob.Candidate(token=b"G", logprob=-0.5))]
    done = pb.Completion(
        finish_reason=pb.Completion.FINISH_REASON_STOP,
        usage=pb.Usage(prompt_tokens=5, completion_tokens=2),
        timings=pb.Timings(first_token_ms=5),
        revision=str(revision),
        node=node,
        answered_by=pb.NODE_ROLE_EDGE,
    )
    return [
        *(pb.GenerateResponse(text=piece, logprobs=logprobs) for piece in text.split()),
        pb.GenerateResponse(tool_call=pb.ToolCall(id="1", name="call", arguments="{}")),
        pb.GenerateResponse(completion=done),
    ]


class Branch:
    """Caches of the edges of one branch."""

    def __init__(self, *, secret: IndexSecret = SECRET, clock=None, **settings) -> None:
        self.shared = MemoryBranch()
        self.secret = secret
        self.clock = clock or Time()
        self.settings = {"on": True, "shared": True} | settings

    def edge(self, name: str = "one", *, secret: IndexSecret | None = None, **more) -> ResponseCache:
        index = MemoryIndex(self.shared, name, RequestStatistics())
        settings = CacheSettings(name, **self.settings)
        return ResponseCache(settings, index, secret or self.secret, clock=self.clock, **more)


def record(cache: ResponseCache, asked: pb.GenerateRequest, pieces=None, revision=FIRST) -> None:
    recording = cache.recording(asked, revision)
    for piece in pieces or answer():
        recording.add(piece)


async def test_a_repetition_is_streamed_again_in_its_pieces_and_marked():
    cache = Branch().edge()
    assert await cache.lookup(request(), FIRST) is None
    record(cache, request())
    again = await cache.lookup(request(), FIRST)
    assert [piece.WhichOneof("event") for piece in again] == ["text", "text", "tool_call", "completion"]
    assert again[:-1] == answer()[:-1]
    done = again[-1].completion
    assert (done.from_cache, done.node, done.revision) == (True, "one", str(FIRST))
    assert (done.usage.prompt_tokens, done.usage.completion_tokens, done.usage.cached_tokens) == (5, 2, 5)
    assert not done.timings.first_token_ms
    assert (cache.hits, cache.misses) == (1, 1)


@pytest.mark.parametrize(
    "fields",
    [
        {"prompt": "Hello!"},
        {"prompt": "", "messages": [pb.ChatMessage(role="user", content="Hello")]},
        {"tenant": "kitchen"},
        {"max_tokens": 7},
        {"stop": ["."]},
        {"choices": 2},
        {"top_logprobs": 1},
        {"sampling": pb.Sampling(temperature=0, top_k=3)},
        {"sampling": pb.Sampling(seed=1)},
        {"sampling": pb.Sampling(temperature=0, logit_bias={3: 1.0})},
        {"constraint": pb.Constraint(json_object=True)},
        {"tools": [pb.Tool(name="call")]},
        {"tool_choice": pb.ToolChoice(mode=pb.ToolChoice.MODE_NONE)},
    ],
)
async def test_what_differs_in_anything_that_makes_the_answer_is_another_request(fields):
    cache = Branch().edge()
    record(cache, request())
    assert await cache.lookup(request(**fields), FIRST) is None


async def test_another_revision_or_engine_is_another_answer():
    branch = Branch()
    record(branch.edge(), request())
    assert await branch.edge().lookup(request(), SECOND) is None
    branch.settings["engine"] = "half the context"
    assert await branch.edge().lookup(request(), FIRST) is None


async def test_name_label_priority_and_written_defaults_make_no_difference():
    cache = Branch().edge()
    record(cache, request())
    same = request(
        model="models/m/channels/stable",
        sensitivity=pb.SENSITIVITY_PUBLIC,
        priority=pb.PRIORITY_HIGH,
        max_tokens=256,
        choices=1,
    )
    assert await cache.lookup(same, FIRST)


@pytest.mark.parametrize(
    "asked",
    [
        request(sampling=pb.Sampling()),
        request(sampling=pb.Sampling(temperature=0.1)),
        pb.GenerateRequest(model="m", prompt="Hello"),
        request(sensitivity=pb.SENSITIVITY_SENSITIVE),
        request(sensitivity=9),
        request(adapters=[pb.AdapterUse(name="unknown")]),
    ],
)
async def test_what_is_random_sensitive_or_made_with_something_unknown_is_not_kept(asked):
    cache = Branch().edge()
    record(cache, asked)
    assert await cache.lookup(asked, FIRST) is None
    assert cache.kept_bytes == 0
    assert (cache.hits, cache.misses) == (0, 0)


async def test_a_cache_that_is_off_keeps_nothing():
    cache = Branch(on=False).edge()
    record(cache, request())
    assert await cache.lookup(request(), FIRST) is None
    assert cache.kept_bytes == 0


async def test_an_adapter_counts_by_what_its_name_stands_for():
    asked, digests = request(adapters=[pb.AdapterUse(name="tone")]), {"tone": "a"}
    cache = Branch().edge(adapter_digest=lambda _revision, name: digests.get(name))
    record(cache, asked)
    assert await cache.lookup(asked, FIRST)
    digests["tone"] = "b"
    assert await cache.lookup(asked, FIRST) is None


@pytest.mark.parametrize(
    "pieces",
    [
        answer()[:-1],
        answer(revision=SECOND),
        answer(node="another"),
        [pb.GenerateResponse(text="x" * (2 << 20)), *answer()],
    ],
    ids=["cut", "another revision", "another node", "large"],
)
async def test_an_answer_that_is_cut_from_elsewhere_or_too_large_is_not_kept(pieces):
    cache = Branch().edge()
    record(cache, request(), pieces)
    assert await cache.lookup(request(), FIRST) is None


async def test_all_choices_belong_to_an_answer():
    cache, asked = Branch().edge(), request(choices=2)
    first, second = answer(), [*answer("Hi")]
    for piece in second:
        piece.choice = 1
    record(cache, asked, first)
    assert await cache.lookup(asked, FIRST) is None
    record(cache, asked, first + second)
    assert len(await cache.lookup(asked, FIRST)) == len(first + second)


async def test_the_least_used_answers_make_room():
    cache = Branch(most_bytes=4_000, shared=False).edge()
    for number in range(50):
        record(cache, request(prompt=f"Hello {number}"))
        assert cache.kept_bytes <= 4_000
        assert await cache.lookup(request(prompt="Hello 0"), FIRST)
    assert await cache.lookup(request(prompt="Hello 1"), FIRST) is None
    assert await cache.lookup(request(prompt="Hello 49"), FIRST)


async def test_an_answer_has_its_time():
    branch = Branch(seconds=60, shared=False)
    cache = branch.edge()
    record(cache, request())
    branch.clock.now = 59
    assert await cache.lookup(request(), FIRST)
    branch.clock.now = 60
    assert await cache.lookup(request(), FIRST) is None
    assert cache.kept_bytes == 0


async def test_answers_go_with_their_revision_in_memory_and_in_the_index():
    branch = Branch()
    cache = branch.edge()
    cache.keep_only([FIRST, SECOND])
    record(cache, request())
    record(cache, request(), answer(revision=SECOND), SECOND)
    cache.keep_only([SECOND])
    assert await cache.lookup(request(), FIRST) is None
    assert await cache.lookup(request(), SECOND)
    assert {revision for revision, _ in branch.shared.values} == {SECOND}


async def test_edges_that_share_a_secret_share_answers():
    branch = Branch()
    record(branch.edge("one"), request())
    again = await branch.edge("two").lookup(request(), FIRST)
    assert again[-1].completion.node == "two"


async def test_an_edge_without_the_secret_neither_gives_nor_takes():
    branch = Branch()
    record(branch.edge("one"), request())
    assert await branch.edge("two", secret=IndexSecret("another secret")).lookup(request(), FIRST) is None
    alone = branch.edge("three", secret=IndexSecret())
    assert await alone.lookup(request(), FIRST) is None
    record(alone, request(prompt="Mine"), answer(node="three"))
    assert len(branch.shared.values) == 1
    assert await alone.lookup(request(prompt="Mine"), FIRST)


async def test_what_others_wrote_into_the_index_is_not_believed():
    branch = Branch()
    record(branch.edge("one"), request())
    ((place, good),) = branch.shared.values.items()
    forged = pressed(answer("Pay the other account"))
    for bad in (
        b"",
        b"x",
        forged,
        good[:-1],
        good[:40] + bytes([good[40] ^ 1]) + good[41:],
        sealed(forged, IndexSecret("guessed").key("answer"), f"{FIRST}\0{place[1]}"),
        sealed(forged, SECRET.key("answer"), f"{SECOND}\0{place[1]}"),
    ):
        branch.shared.values[place] = bad
        assert await branch.edge("two").lookup(request(), FIRST) is None
    moved = branch.edge("two").key(request(prompt="Another"), FIRST)
    branch.shared.values[FIRST, moved] = good
    assert await branch.edge("two").lookup(request(prompt="Another"), FIRST) is None


def test_a_small_value_does_not_become_a_large_one():
    bomb = pressed([pb.GenerateResponse(text="x" * (2 << 20))])
    assert len(bomb) < MOST_ENTRY_BYTES
    assert unpressed(bomb) is None
    assert unpressed(b"\x00" * 64) is None
    assert unsealed(sealed(b"x", b"k", "a"), b"k", "a") == b"x"
    assert unsealed(sealed(b"x", b"k", "a"), b"k", "b") is None
