"""A span for each request: what was asked and used, never what was said."""

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from deltaic.engine.errors import WorkerHung
from deltaic.engine.spans import request_span
from deltaic.names import RevisionName
from deltaic.v1 import inference_pb2 as pb

REVISION = RevisionName("tiny", "sha256:" + "12" * 32)
REQUEST = pb.GenerateRequest(
    model="models/tiny",
    messages=[pb.ChatMessage(role="user", content="my secret question")],
    sampling=pb.Sampling(temperature=0.5, seed=7),
    max_tokens=20,
)


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer", provider.get_tracer)
    return exporter


def only(spans: InMemorySpanExporter) -> ReadableSpan:
    (span,) = spans.get_finished_spans()
    return span


def completion(tokens: int) -> pb.GenerateResponse:
    done = pb.Completion(
        finish_reason=pb.Completion.FINISH_REASON_LENGTH,
        usage=pb.Usage(prompt_tokens=30, completion_tokens=tokens, cached_tokens=10),
        timings=pb.Timings(queue_ms=5, first_token_ms=250, decode_ms=900),
        revision=str(REVISION),
    )
    return pb.GenerateResponse(completion=done)


def test_a_span_says_what_was_asked_and_used(spans: InMemorySpanExporter) -> None:
    with request_span(REQUEST, REVISION) as span:
        span.saw(pb.GenerateResponse(text="my secret answer"))
        span.saw(completion(20))
        span.saw(completion(3))
    done = only(spans)
    attributes = dict(done.attributes or {})
    assert done.name == "chat tiny"
    assert attributes["gen_ai.operation.name"] == "chat"
    assert (attributes["gen_ai.request.temperature"], attributes["gen_ai.request.seed"]) == (0.5, 7)
    assert "gen_ai.request.top_k" not in attributes
    assert attributes["gen_ai.response.model"] == str(REVISION)
    assert attributes["gen_ai.response.finish_reasons"] == ("length", "length")
    assert attributes["gen_ai.usage.input_tokens"] == 30
    assert attributes["gen_ai.usage.output_tokens"] == 23
    assert attributes["gen_ai.usage.cache_read.input_tokens"] == 10
    assert (attributes["deltaic.queue_ms"], attributes["gen_ai.response.time_to_first_chunk"]) == (5, 0.25)


def test_neither_prompt_nor_answer_is_in_a_span(spans: InMemorySpanExporter) -> None:
    with request_span(REQUEST, REVISION) as span:
        span.saw(pb.GenerateResponse(text="my secret answer"))
    assert "secret" not in only(spans).to_json()


def test_an_error_is_named_by_its_reason(spans: InMemorySpanExporter) -> None:
    with pytest.raises(WorkerHung), request_span(REQUEST, REVISION):
        raise WorkerHung("the worker hung over my secret question")
    span = only(spans)
    assert (span.attributes or {})["error.type"] == "WORKER_HUNG"
    assert span.status.status_code is trace.StatusCode.ERROR
    assert "secret" not in span.to_json()


def test_without_an_sdk_a_request_goes_on_all_the_same() -> None:
    with request_span(REQUEST, REVISION) as span:
        span.saw(completion(1))
