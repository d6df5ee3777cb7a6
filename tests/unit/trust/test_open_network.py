"""The identity that a node has without authentication."""

from deltaic.trust.identity import MAX_NAME, OpenNetwork, Role


def test_a_caller_is_who_it_says_or_where_it_calls_from() -> None:
    network = OpenNetwork()
    assert network.authenticate({"x-node": "edge@one"}, "ipv4:127.0.0.1:5").name == "edge@one"
    assert network.authenticate({}, "ipv4:127.0.0.1:5").name == "ipv4:127.0.0.1:5"
    assert network.authenticate({}, "ipv4:127.0.0.1:5").roles == frozenset(Role)


def test_a_name_that_would_fill_the_logs_is_cut() -> None:
    assert OpenNetwork().authenticate({"x-node": "n" * 8_000}, "").name == "n" * MAX_NAME
