"""Tokens of the demo model: what sampling parameters, grammars, schemas and biases make of them."""

import json
import math
from itertools import pairwise

import numpy as np
import pytest

from deltaic.engine.errors import GrammarInvalid, SchemaInvalid
from deltaic.engine.worker.model import Model
from deltaic.engine.worker.sampling import Sampler, SamplingParameters
from tests.unit.engine.conftest import Answering

pytestmark = pytest.mark.model

GREEDY = SamplingParameters(temperature=0)
PROMPT = "The capital of France is"
LIST = "One, two, three, one, two, three, one, two, three, one,"


def test_greedy_is_the_most_likely_token_each_time(answering: Answering) -> None:
    assert answering.text(PROMPT, GREEDY, most=1) == " Paris"
    assert answering.tokens(PROMPT, GREEDY) == answering.tokens(PROMPT, SamplingParameters(temperature=1.5, top_k=1))


def test_a_seed_gives_the_same_tokens_and_another_gives_others(answering: Answering) -> None:
    parameters = SamplingParameters(temperature=1.5, seed=7)
    assert answering.tokens(PROMPT, parameters) == answering.tokens(PROMPT, parameters)
    assert answering.tokens(PROMPT, parameters) != answering.tokens(PROMPT, parameters, seed=parameters.seed_of(1))


def test_choices_of_a_request_have_seeds_that_llama_takes_as_given() -> None:
    assert SamplingParameters(seed=5).seed_of(0) == 5
    assert SamplingParameters(seed=5).seed_of(3) == 8
    assert SamplingParameters(seed=0xFFFFFFFE).seed_of(1) == 0xFFFFFFFE
    assert SamplingParameters(seed=0xFFFFFFFE).seed_of(2) == 0


def test_a_forbidden_token_never_comes_and_a_favoured_one_does(answering: Answering, model: Model) -> None:
    (paris,) = model.tokenize(" Paris")
    for temperature in (0.0, 1.0):
        forbidden = SamplingParameters(temperature=temperature, logit_bias=((paris, -math.inf),))
        assert paris not in answering.tokens(PROMPT, forbidden)
        favoured = SamplingParameters(temperature=temperature, logit_bias=((paris, 100.0),))
        assert answering.tokens("My cat is", favoured, most=5) == [paris] * 5


def test_penalties_break_a_repetition(answering: Answering) -> None:
    repeated = answering.tokens(LIST, GREEDY, most=24)
    assert len(set(repeated)) < 8
    for change in ({"repeat_penalty": 1.8}, {"frequency_penalty": 2.0}, {"presence_penalty": 2.0}):
        penalised = answering.tokens(LIST, SamplingParameters(temperature=0, **change), most=24)
        assert penalised != repeated, change
        assert len(set(penalised)) >= len(set(repeated)), change


def test_only_the_repeat_penalty_looks_at_the_prompt(answering: Answering) -> None:
    first = answering.tokens(LIST, GREEDY, most=1)
    assert answering.tokens(LIST, SamplingParameters(temperature=0, presence_penalty=2.0), most=1) == first
    assert answering.tokens(LIST, SamplingParameters(temperature=0, repeat_penalty=10.0), most=1) != first


def test_log_probabilities_are_those_of_the_raw_logits(answering: Answering, model: Model) -> None:
    output = answering.feed(model.tokenize(PROMPT), anew=True)
    pointer = model.native.llama_get_logits_ith(answering.context, output)
    logits = np.ctypeslib.as_array(pointer, (model.vocabulary_size,)).astype(np.float64)
    expected = logits - logits.max() - math.log(np.exp(logits - logits.max()).sum())
    (bonn,) = model.tokenize(" Bonn"[:2])
    sampler = Sampler(SamplingParameters(temperature=3), None, model)
    told = sampler.logprobs(answering.context, output, bonn, 20)
    sampler.close()
    assert told.chosen.token == model.piece(bonn)
    assert told.chosen.logprob == pytest.approx(expected[bonn], abs=1e-4)
    assert told.top[0].token == b" Paris"
    assert [each.logprob for each in told.top] == pytest.approx(sorted(expected, reverse=True)[:20], abs=1e-4)
    assert all(first.logprob >= second.logprob for first, second in pairwise(told.top))
    assert not sampler.logprobs(answering.context, output, bonn, 0).top


@pytest.mark.parametrize("temperature", [0.0, 1.2])
def test_an_answer_is_in_the_language_of_its_grammar(answering: Answering, model: Model, temperature: float) -> None:
    grammar = model.grammars.from_gbnf('root ::= "Berlin" | "Rome, " [0-9]{2}')
    for seed in range(5):
        parameters = SamplingParameters(temperature=temperature, seed=seed)
        text = answering.text(PROMPT, parameters, grammar)
        assert text == "Berlin" or (text[:6] == "Rome, " and text[6:].isdigit() and len(text) == 8)


def test_a_grammar_changes_nothing_where_the_answer_fits_it_anyway(answering: Answering, model: Model) -> None:
    anything = model.grammars.from_gbnf("root ::= .*")
    for parameters in (GREEDY, SamplingParameters(seed=3), SamplingParameters(seed=3, presence_penalty=1.0)):
        assert answering.tokens(PROMPT, parameters, anything) == answering.tokens(PROMPT, parameters)


def test_an_answer_may_not_end_before_its_grammar_does(answering: Answering, model: Model) -> None:
    grammar = model.grammars.from_gbnf('root ::= "no"{30}')
    assert answering.text("<|im_start|>user\nSay no once.<|im_end|>\n", GREEDY, grammar, most=100) == "no" * 30


def test_the_same_grammar_serves_many_answers_at_once(model: Model) -> None:
    grammar = model.grammars.from_gbnf('root ::= "a" "b"')
    one, other = grammar.matcher(), grammar.matcher()
    (a,), (b,) = model.tokenize("a"), model.tokenize("b")
    one.accept(a)
    assert (one.allows(b), other.allows(b)) == (True, False)


def test_a_grammar_whose_tokens_are_all_forbidden_is_an_error_not_a_token(answering: Answering, model: Model) -> None:
    grammar = model.grammars.from_gbnf('root ::= "x"')
    (x,) = model.tokenize("x")
    for temperature in (0.0, 1.0):
        with pytest.raises(GrammarInvalid, match="no token is left"):
            answering.tokens(PROMPT, SamplingParameters(temperature, logit_bias=((x, -math.inf),)), grammar)


def test_a_schema_gives_a_value_that_it_allows(answering: Answering, model: Model) -> None:
    schema = {
        "type": "object",
        "properties": {"city": {"enum": ["Bonn", "Rome"]}, "people": {"type": "integer", "minimum": 1, "maximum": 9}},
        "required": ["city", "people"],
        "additionalProperties": False,
    }
    grammar = model.grammars.from_json_schema(json.dumps(schema))
    for seed in range(4):
        value = json.loads(answering.text("A city: ", SamplingParameters(1.5, seed=seed), grammar, most=60))
        assert value["city"] in ("Bonn", "Rome")
        assert 1 <= value["people"] <= 9
        assert len(value) == 2


def test_any_json_object_is_an_object(answering: Answering, model: Model) -> None:
    answer = answering.text("As JSON: ", GREEDY, model.grammars.json_object(), most=150)
    assert answer.startswith("{")
    assert not answer.endswith("}") or isinstance(json.loads(answer), dict)


@pytest.mark.parametrize(
    "schema",
    [
        "", "{", "7", "null", "false", '"text"', "[]",
        '{"type": "nothing"}',
        '{"$ref": "http://127.0.0.1:9/schema"}',
        '{"$ref": "file:///etc/passwd"}',
        '{"$ref": "#"}',
        '{"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}',
        '{"type": "string", "pattern": "("}',
        '{"type": "integer", "minimum": 5, "maximum": 3}',
        '{"allOf": [{"type": "string"}, {"type": "integer"}]}',
        '{"not": {}}',
        '{"items":' * 5000 + "{}" + "}" * 5000,
        '{"items":' * 70 + "{}" + "}" * 70,
        json.dumps({"enum": ["x" * 100_000]}),
        json.dumps({"$defs": {f"a{i}": {"$ref": f"#/$defs/a{i + 1}"} for i in range(1500)}, "$ref": "#/$defs/a0"}),
    ],
    ids=range(20),
)  # fmt: skip
def test_what_is_no_schema_or_cannot_be_followed_is_refused(model: Model, schema: str) -> None:
    with pytest.raises(SchemaInvalid):
        model.grammars.from_json_schema(schema)


@pytest.mark.parametrize(("definitions", "levels"), [(120, 1), (10, 10)])
def test_a_chain_of_references_as_long_as_it_may_be_is_followed(model: Model, definitions: int, levels: int) -> None:
    """Three times of it is refused: a native stack that overflows would take the worker along."""

    def chain(length: int) -> str:
        links: dict[str, object] = {f"a{length}": {"type": "integer"}}
        for index in range(length):
            value: dict[str, object] = {"$ref": f"#/$defs/a{index + 1}"}
            for _ in range(levels):
                value = {"type": "object", "properties": {"a": value}}
            links[f"a{index}"] = value
        return json.dumps({"$defs": links, "$ref": "#/$defs/a0"}, separators=(",", ":"))

    assert model.grammars.from_json_schema(chain(definitions)).matcher().allowed().size
    with pytest.raises(SchemaInvalid, match="levels deep"):
        model.grammars.from_json_schema(chain(definitions * 3))


def test_a_recursive_schema_is_followed(model: Model) -> None:
    tree = {"type": "object", "properties": {"of": {"$ref": "#"}}, "additionalProperties": False}
    matcher = model.grammars.from_json_schema(json.dumps(tree)).matcher()
    for token in model.tokenize('{"of": {"of": {}}}'):
        assert matcher.allows(token)
        matcher.accept(token)
    assert matcher.allows(model.eos)


def test_the_graph_chooses_what_the_sampler_would(answering: Answering, model: Model) -> None:
    """Parked after ten tokens, and then with the chain in the graph again: the random state goes along."""
    native, read = model.native, model.tokenize(PROMPT)
    for parameters in (SamplingParameters(temperature=1.2, seed=11), GREEDY):
        expected = answering.tokens(PROMPT, parameters, most=20)
        sampler, answer = Sampler(parameters, None, model, read), []
        for part in (10, 20):
            assert native.llama_set_sampler(answering.context, 0, sampler.backend)
            output = answering.feed([*read, *answer], anew=True)
            while len(answer) < min(part, len(expected)):
                answer.append(native.llama_get_sampled_token_ith(answering.context, output))
                sampler.accept(answer[-1])
                if len(answer) < part:
                    output = answering.feed([answer[-1]])
            native.llama_set_sampler(answering.context, 0, None)
            sampler.detached()
        sampler.close()
        assert answer == expected


def test_what_needs_the_logits_is_not_offered_to_the_graph(model: Model) -> None:
    grammar = model.grammars.json_object()
    for parameters, language in (
        (SamplingParameters(presence_penalty=1.0), None),
        (SamplingParameters(logit_bias=((1, 1.0),)), None),
        (SamplingParameters(), grammar),
    ):
        sampler = Sampler(parameters, language, model)
        assert sampler.backend is None
        sampler.close()
