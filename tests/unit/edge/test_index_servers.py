"""Addresses of an index: one server, Sentinels, a cluster."""

import pytest

from edge.index.servers import client_maker, parsed, without_secrets


def test_sentinels_and_the_name_of_their_primary():
    place = parsed("rediss+sentinel://edge:p%40ss@10.0.0.1:26380,10.0.0.2,[fd00::1]/branch/3?sentinel_password=guard")
    assert place.hosts == (("10.0.0.1", 26380), ("10.0.0.2", 26379), ("fd00::1", 26379))
    assert (place.kind, place.tls, place.service, place.db) == ("sentinel", True, "branch", 3)
    assert place.login == {"username": "edge", "password": "p@ss"}
    assert place.sentinel_login == {"password": "guard"}


def test_a_cluster_by_some_of_its_nodes():
    place = parsed("redis+cluster://:secret@one:7000,two")
    assert place.hosts == (("one", 7000), ("two", 6379))
    assert (place.kind, place.tls, place.login) == ("cluster", False, {"password": "secret"})


@pytest.mark.parametrize(
    ("url", "word"),
    [
        ("redis+sentinel://one,two", "name the primary"),
        ("redis+sentinel:///branch", "a host is missing"),
        ("redis+sentinel://one,,two/branch", "a host is missing"),
        ("redis+sentinel://one/branch/x", "a number"),
        ("redis+sentinel://one/branch?colour=blue", "colour"),
        ("redis+sentinel://one:x/branch", "Port"),
        ("redis+cluster://one/3", "no numbered databases"),
        ("redis+ring://one", "not an address"),
    ],
)
def test_a_wrong_address_says_what_is_wrong_and_not_its_password(url, word):
    with pytest.raises(ValueError, match=word) as caught:
        client_maker(url.replace("//", "//:hush@"), seconds=1)
    assert "hush" not in str(caught.value)


def test_logs_show_neither_login_nor_options():
    url = "redis+sentinel://edge:hush@one,two/branch?sentinel_password=hush"
    assert without_secrets(url) == "redis+sentinel://one,two/branch"
