"""What a storm takes for right, for wrong, and for a failure that a caller can live with."""

import random
from itertools import islice

from storm_asking import Tally, has_advice, telling
from storm_killing import CENTER, INDEX, order

from cli.demo.asking import Reply
from deltaic.errors import Code, DeltaicError, Unavailable
from deltaic.rpc.status import RemoteError
from deltaic.v1 import inference_pb2

OLD = "models/assistant/revisions/sha256:" + "ab" * 32
NEW = "models/assistant/revisions/sha256:" + "cd" * 32
CODE = "models/code/revisions/sha256:" + "ef" * 32
REFERENCES = {
    (OLD, "who"): frozenset({"I am old"}),
    (NEW, "who"): frozenset({"I am new", "I'm new"}),
    (CODE, "who"): frozenset({"I am old"}),
    (OLD, "sum"): frozenset({"five"}),
    (NEW, "sum"): frozenset({"five", "5"}),
    (CODE, "sum"): frozenset({"def"}),
}


def reply(text: str, revision: str, error: DeltaicError | None = None) -> Reply:
    return Reply(text, inference_pb2.Completion(revision=revision, node="edge@one"), 0.1, 0.2, error)


def test_an_answer_is_right_when_its_revision_gives_it() -> None:
    tally = Tally(REFERENCES)
    tally.note("assistant", "who", reply("I'm new", NEW))
    tally.note(OLD, "who", reply("I am old", OLD))
    assert tally.answered == {"edge@one": 2}
    assert tally.wrong == []


def test_an_answer_of_another_revision_than_it_names_is_wrong() -> None:
    tally = Tally(REFERENCES)
    tally.note("assistant", "who", reply("I am old", NEW))
    assert len(tally.wrong) == 1


def test_a_right_answer_of_another_model_or_revision_than_was_asked_for_is_wrong() -> None:
    tally = Tally(REFERENCES)
    tally.note("assistant", "sum", reply("def", CODE))
    tally.note(OLD, "who", reply("I am new", NEW))
    assert len(tally.wrong) == 2
    assert not tally.answered


def test_an_answer_that_is_cut_short_is_wrong() -> None:
    tally = Tally(REFERENCES)
    tally.note("assistant", "who", reply("I am", NEW))
    assert len(tally.wrong) == 1


def test_a_failure_is_good_when_it_says_that_one_may_come_again_and_when_or_how() -> None:
    assert has_advice(Unavailable("gone", hint="ask again"))
    assert has_advice(Unavailable("gone", retry_after_ms="200"))
    assert not has_advice(Unavailable("gone"))
    assert not has_advice(RemoteError(Code.INTERNAL, "INTERNAL", "a bug", hint="look at the log"))
    assert not has_advice(RemoteError(Code.DATA_LOSS, "DATA_LOSS", "bytes", hint="repair"))


def test_questions_that_two_revisions_may_answer_alike_tell_nothing() -> None:
    assert telling(REFERENCES, ["who", "sum"]) == ["who"], "another model may say the same, another revision may not"


def test_everyone_is_killed_in_turn_before_anyone_at_random() -> None:
    victims = list(islice(order(["one", "two", "three"], random.Random(1)), 400))
    assert victims[:5] == ["one", INDEX, CENTER, "two", "three"]
    assert set(victims[5:]) == {"one", "two", "three", INDEX, CENTER}
    assert victims == list(islice(order(["one", "two", "three"], random.Random(1)), 400))
