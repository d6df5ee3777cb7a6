"""Addresses of nodes: what people write, and one clear line for what is none."""

import pytest

from deltaic.runtime.addresses import BadAddress, check_address


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1:7400",
        "center:7400",
        "center.branch-7.example:1",
        "my_service:65535",
        "localhost:7400",
        "[::1]:7400",
        "[fe80::1%eth0]:7400",
        "0.0.0.0:7400",
        "unix:/run/node.sock",
        "unix:node.sock",
        "unix-abstract:node",
    ],
)
def test_addresses_of_nodes_are_taken_as_they_are(address: str) -> None:
    assert check_address(address) == check_address(f" {address} ", listening=True) == address


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "it is empty"),
        ("nonsense", "the port is missing"),
        ("7400", "the port is missing"),
        ("foo:bar", "a port is a number"),
        ("foo:", "a port is a number"),
        ("127.0.0.1:-1", "a port is a number"),
        ("127.0.0.1:65536", "a port is a number"),
        ("127.0.0.1:" + "9" * 5_000, "a port is a number"),
        ("127.0.0.1:\u0661", "a port is a number"),
        ("::1:7400", "in brackets"),
        ("[::x]:7400", "not an IP address"),
        ("[]:7400", "not an IP address"),
        ("127.0.0.300:7400", "not an IP address"),
        ("two words:7400", "neither a name nor an IP address"),
        ("a/b:7400", "neither a name nor an IP address"),
        ("user@host:7400", "neither a name nor an IP address"),
        ("unix:", "the path of the socket is missing"),
        ("http://center:7400", "without a scheme"),
        ("https://center", "without a scheme"),
        ("grpc://center:7400", "without a scheme"),
        ("dns:///center:7400", "without a scheme"),
        ("ipv6:[::1]:7400", "without a scheme"),
        ("two\nlines:1", "neither a name nor an IP address"),
    ],
)
def test_what_is_no_address_is_refused_with_the_reason(text: str, why: str) -> None:
    for listening in (True, False):
        with pytest.raises(BadAddress) as caught:
            check_address(text, listening=listening)
        assert why in str(caught.value)
        assert "HOST:PORT" in caught.value.hint
        assert "\n" not in str(caught.value)
        assert caught.value.reason == "BAD_ADDRESS"


def test_only_who_listens_may_leave_the_port_to_the_system() -> None:
    assert check_address("127.0.0.1:0", listening=True) == "127.0.0.1:0"
    with pytest.raises(BadAddress, match="port 0"):
        check_address("127.0.0.1:0")


def test_only_who_listens_may_leave_the_host_out_and_mean_every_one() -> None:
    assert check_address(":7400", listening=True) == ":7400"
    with pytest.raises(BadAddress, match="the host is missing"):
        check_address(":7400")


def test_a_machine_called_like_a_scheme_is_still_a_machine() -> None:
    assert check_address("dns:53") == "dns:53"
