"""What a caller may ask: sampling values, stop texts, roles, templates; and the settings' own bounds."""

import pytest
from pydantic import ValidationError

from deltaic.engine.errors import BadRequest, TemplateFailed
from deltaic.engine.settings import EngineSettings
from deltaic.engine.worker import template as template_module
from deltaic.engine.worker.conversation import to_turns
from deltaic.engine.worker.requests import _stops
from deltaic.engine.worker.sampling import SamplingParameters
from deltaic.engine.worker.template import ChatTemplate
from deltaic.v1 import inference_pb2 as pb

HELLO = [{"role": "user", "content": "Hello"}]


def test_absent_sampling_values_have_the_defaults_of_the_contract() -> None:
    parameters = SamplingParameters.from_proto(pb.Sampling(seed=3), 100)
    assert parameters == SamplingParameters(0.8, 40, 0.95, 0.05, 1.0, 3)


def test_zero_is_a_value_and_not_an_absence() -> None:
    parameters = SamplingParameters.from_proto(pb.Sampling(temperature=0, top_k=0, top_p=0, min_p=0, seed=0), 100)
    assert (parameters.temperature, parameters.top_k, parameters.top_p, parameters.seed) == (0, 0, 0, 0)


def test_an_absent_seed_is_drawn_and_the_largest_is_never_the_one_that_means_random() -> None:
    drawn = {SamplingParameters.from_proto(pb.Sampling(), 100).seed for _ in range(8)}
    assert len(drawn) > 1
    assert SamplingParameters.from_proto(pb.Sampling(seed=0xFFFFFFFF), 100).seed == 0xFFFFFFFE


@pytest.mark.parametrize(
    "sampling",
    [
        pb.Sampling(temperature=-0.1),
        pb.Sampling(temperature=5.1),
        pb.Sampling(temperature=float("inf")),
        pb.Sampling(top_k=-1),
        pb.Sampling(top_p=1.5),
        pb.Sampling(min_p=float("nan")),
        pb.Sampling(repeat_penalty=0),
        pb.Sampling(frequency_penalty=2.1),
        pb.Sampling(frequency_penalty=float("-inf")),
        pb.Sampling(presence_penalty=float("nan")),
        pb.Sampling(logit_bias={1: float("nan")}),
        pb.Sampling(logit_bias={1: 101}),
        pb.Sampling(logit_bias={100: 1}),
        pb.Sampling(logit_bias={0xFFFFFFFF: 1}),
    ],
)
def test_values_out_of_range_are_refused_by_name(sampling: pb.Sampling) -> None:
    (field,) = [descriptor.name for descriptor, _ in sampling.ListFields()]
    with pytest.raises(BadRequest, match=f"sampling.{field}"):
        SamplingParameters.from_proto(sampling, 100)


def test_logit_biases_are_bounded_in_number_and_a_hundred_below_forbids() -> None:
    with pytest.raises(BadRequest, match="1025 logit biases"):
        SamplingParameters.from_proto(pb.Sampling(logit_bias=dict.fromkeys(range(1025), 1.0)), 5000)
    parameters = SamplingParameters.from_proto(pb.Sampling(logit_bias={7: -100, 3: 2}), 100)
    assert parameters.logit_bias == ((3, 2.0), (7, float("-inf")))


@pytest.mark.parametrize("stops", [["x"] * 17, ["x"] * 10_000, [""], ["y" * 257]])
def test_stop_texts_are_bounded_in_number_and_length(stops: list[str]) -> None:
    with pytest.raises(BadRequest):
        _stops(stops)
    assert _stops(["x"] * 16) == ("x",) * 16


def test_a_role_that_does_not_exist_is_refused() -> None:
    with pytest.raises(BadRequest, match="no such role"):
        to_turns([pb.ChatMessage(role="developer", content="x")])


def test_a_model_without_a_template_speaks_chatml() -> None:
    text = ChatTemplate(None).render([{"role": "system", "content": "Be kind"}, *HELLO])
    assert text == "<|im_start|>system\nBe kind<|im_end|>\n<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"


def test_a_template_sees_what_transformers_gives_it() -> None:
    text = "{{ bos_token }}{% for m in messages %}\n{{ m['content'] | tojson }}{% endfor %}{{ strftime_now('%Y')[:2] }}"
    assert ChatTemplate(text, bos="<s>").render([{"role": "user", "content": 'a "<b>"'}]) == '<s>"a \\"<b>\\""20'


@pytest.mark.parametrize(
    "text",
    [
        "{{ raise_exception('roles must alternate') }}",
        "{% for",
        "{{ messages[9].content.upper() }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{% set _ = messages.append(1) %}",
        "{{ 'a' * 100000000000 }}",
        "{{ 10 ** 100000000 }}",
        "{% for i in range(100000) %}{{ 'a' * 1000 }}{% endfor %}",
    ],
)
def test_a_template_that_refuses_breaks_or_escapes_is_one_error(text: str) -> None:
    with pytest.raises(TemplateFailed):
        ChatTemplate(text).render(HELLO)


def test_a_template_that_never_ends_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template_module, "MAX_RENDER_SECONDS", 0.2)
    endless = "{% for i in range(100000) %}{% for j in range(100000) %}{% set x = j %}{% endfor %}{% endfor %}"
    with pytest.raises(TemplateFailed, match="longer than"):
        ChatTemplate(endless).render(HELLO)


def test_the_templates_reason_reaches_the_caller() -> None:
    with pytest.raises(TemplateFailed, match="roles must alternate"):
        ChatTemplate("{{ raise_exception('roles must alternate') }}").render(HELLO)


def test_settings_become_flags_that_mean_the_same() -> None:
    settings = EngineSettings(slots=3, threads=2, start_timeout=7)
    flags = settings.flags()
    values = {flags[i].removeprefix("--").replace("-", "_"): flags[i + 1] for i in range(0, len(flags), 2)}
    assert EngineSettings.model_validate(values) == settings


def test_settings_refuse_what_llama_would_abort_on() -> None:
    for bad in ({"slots": 0}, {"slots": 65}, {"prefill_chunk": 0}, {"context_tokens": 1}, {"threads": -1}):
        with pytest.raises(ValidationError):
            EngineSettings(**bad)


def test_threads_default_to_the_cores_there_are() -> None:
    assert 1 <= EngineSettings().resolved_threads() <= 8
    assert EngineSettings(threads=3).resolved_threads() == 3
