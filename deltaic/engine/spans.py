"""A trace span for each request, in the words of OpenTelemetry's conventions for generative models.

Only OpenTelemetry's API is needed; without an SDK a span costs a few microseconds and goes nowhere. Prompts and answers
are never in a span.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from opentelemetry import trace
from opentelemetry.trace import Span, SpanKind, StatusCode

from deltaic.errors import DeltaicError
from deltaic.names import RevisionName
from deltaic.v1 import inference_pb2

_SAMPLING = ("temperature", "top_k", "top_p", "seed", "frequency_penalty", "presence_penalty")


class RequestSpan:
    """What is known of one request. Told of every response that goes to the caller."""

    def __init__(self, span: Span) -> None:
        self._span = span
        self._reasons: list[str] = []
        self._output = 0

    def saw(self, response: inference_pb2.GenerateResponse) -> None:
        """Take what the end of a choice says."""
        if response.WhichOneof("event") != "completion" or not self._span.is_recording():
            return
        done = response.completion
        name = inference_pb2.Completion.FinishReason.Name(done.finish_reason)
        self._reasons.append(name.removeprefix("FINISH_REASON_").lower())
        self._output += done.usage.completion_tokens
        self._span.set_attributes(
            {
                "gen_ai.response.model": done.revision,
                "gen_ai.response.finish_reasons": self._reasons,
                "gen_ai.usage.input_tokens": done.usage.prompt_tokens,
                "gen_ai.usage.output_tokens": self._output,
                "gen_ai.usage.cache_read.input_tokens": done.usage.cached_tokens,
                "gen_ai.response.time_to_first_chunk": done.timings.first_token_ms / 1000,
                "deltaic.queue_ms": done.timings.queue_ms,
                "deltaic.decode_ms": done.timings.decode_ms,
            }
        )


@contextmanager
def request_span(request: inference_pb2.GenerateRequest, revision: RevisionName) -> Iterator[RequestSpan]:
    """A span from here to the end of the context, which an error that leaves it marks.

    It is not made current: the body may be a generator that is resumed in other contexts.
    """
    operation = "chat" if request.messages else "text_completion"
    tracer = trace.get_tracer("deltaic.engine")
    span = tracer.start_span(f"{operation} {revision.model}", kind=SpanKind.INTERNAL)
    if span.is_recording():
        span.set_attributes(_asked(request, operation))
    try:
        yield RequestSpan(span)
    except DeltaicError as error:
        span.set_attribute("error.type", error.reason)
        span.set_status(StatusCode.ERROR)
        raise
    except BaseException as error:  # the caller left, or a mistake of ours
        span.set_attribute("error.type", type(error).__name__)
        raise
    finally:
        span.end()


def _asked(request: inference_pb2.GenerateRequest, operation: str) -> dict[str, str | int | float]:
    asked: dict[str, str | int | float] = {
        "gen_ai.operation.name": operation,
        "gen_ai.provider.name": "deltaic",
        "gen_ai.request.model": request.model,
        "gen_ai.request.stream": True,
    }
    if request.max_tokens:
        asked["gen_ai.request.max_tokens"] = request.max_tokens
    if request.choices > 1:
        asked["gen_ai.request.choice.count"] = request.choices
    for name in _SAMPLING:
        if request.sampling.HasField(name):  # type: ignore[arg-type]  # a name out of the tuple above
            asked[f"gen_ai.request.{name}"] = getattr(request.sampling, name)
    return asked
