"""Where an index is: an address in the settings, and the client of redis-py for it.

    redis://[USER[:PASSWORD]@]HOST[:PORT][/DB]                        one server
    unix://[USER[:PASSWORD]@]/PATH[?db=DB]                            one server, by its Unix socket
    redis+sentinel://[USER[:PASSWORD]@]HOST[:PORT],HOST.../NAME[/DB]  the primary that Sentinels know by this name
        ?sentinel_username=USER&sentinel_password=PASSWORD            where the Sentinels themselves ask for it
    redis+cluster://[USER[:PASSWORD]@]HOST[:PORT],HOST...             a cluster; any of its nodes will do to find it

rediss, rediss+sentinel and rediss+cluster are the same over TLS, checked against the system's certificates or `ca`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from redis.asyncio import Redis, RedisCluster, Sentinel
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import SentinelConnectionPool
from redis.backoff import NoBackoff

SCHEMES = tuple(f"{tls}{kind}" for kind in ("", "+sentinel", "+cluster") for tls in ("redis", "rediss"))
_SENTINEL_PORT, _PORT = 26379, 6379

Client = Redis | RedisCluster


@dataclass(frozen=True, slots=True)
class Place:
    """A parsed address of several servers."""

    kind: str
    tls: bool
    hosts: tuple[tuple[str, int], ...]
    service: str
    db: int
    login: dict[str, str]
    sentinel_login: dict[str, str]


def client_maker(url: str, ca: Path | None = None, *, seconds: float) -> Callable[[], Client]:
    """What makes a client of its own for each caller; `seconds` bounds each call of it. Raises ValueError."""
    if "+" not in url.partition(":")[0]:
        return _single(url, ca, seconds)
    place = parsed(url)
    options = _options(seconds) | place.login | (_tls(ca) if place.tls else {})
    if place.kind == "cluster":
        return lambda: RedisCluster(
            startup_nodes=[ClusterNode(host, port) for host, port in place.hosts],
            **{"require_full_coverage": False} | options,
        )
    return lambda: _primary(place, options, _options(seconds) | place.sentinel_login | (_tls(ca) if place.tls else {}))


def parsed(url: str) -> Place:
    """An address of Sentinels or of a cluster. Raises ValueError, without the password."""
    parts = urlsplit(url)
    secure, _, kind = parts.scheme.partition("+")
    if parts.scheme not in SCHEMES or not kind:
        raise ValueError("not an address of Sentinels or of a cluster")
    login, _, hosts = parts.netloc.rpartition("@")
    user, colon, password = login.partition(":")
    path = [unquote(part) for part in parts.path.split("/") if part]
    if kind == "sentinel" and not path:
        raise ValueError("name the primary: redis+sentinel://HOST:PORT,HOST:PORT/NAME")
    if kind == "cluster" and path:
        raise ValueError("a cluster has no numbered databases: leave out what follows its hosts")
    query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    if unknown := set(query) - {"sentinel_username", "sentinel_password"}:
        raise ValueError(f"it does not know {', '.join(sorted(unknown))}")
    return Place(
        kind,
        secure == "rediss",
        tuple(_host(host, _SENTINEL_PORT if kind == "sentinel" else _PORT) for host in hosts.split(",")),
        path[0] if path else "",
        _number(path[1]) if len(path) > 1 else 0,
        _login(unquote(user), unquote(password) if colon else ""),
        _login(query.get("sentinel_username", ""), query.get("sentinel_password", "")),
    )


async def close(client: Client) -> None:
    """Close its connections, those to Sentinels too. Raises RedisError, OSError."""
    await client.aclose()
    pool = client.connection_pool if isinstance(client, Redis) else None
    if isinstance(pool, SentinelConnectionPool):
        for sentinel in pool.sentinel_manager.sentinels:
            await sentinel.aclose()


def without_secrets(url: str) -> str:
    """The address without user, password and options, for logs and messages."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _single(url: str, ca: Path | None, seconds: float) -> Callable[[], Client]:
    options = _options(seconds) | (_tls_files(ca) if url.startswith("rediss:") else {})
    Redis.from_url(url, **options)  # says now what is wrong with it; connects nowhere
    return lambda: Redis.from_url(url, **options)


def _primary(place: Place, options: dict[str, Any], sentinel_options: dict[str, Any]) -> Client:
    sentinel = Sentinel(  # type: ignore[no-untyped-call]  # redis-py has not typed it
        list(place.hosts), sentinel_kwargs=sentinel_options, **options
    )
    client: Redis = sentinel.master_for(place.service, db=place.db)
    return client


def _options(seconds: float) -> dict[str, Any]:
    return {
        "socket_timeout": seconds,
        "socket_connect_timeout": seconds,
        "retry": Retry(NoBackoff(), 0),
        "client_name": "deltaic-edge",
        "protocol": 2,
    }


def _tls(ca: Path | None) -> dict[str, Any]:
    return {"ssl": True} | _tls_files(ca)


def _tls_files(ca: Path | None) -> dict[str, Any]:
    return {"ssl_ca_certs": str(ca)} if ca else {}


def _login(user: str, password: str) -> dict[str, str]:
    return {name: value for name, value in (("username", user), ("password", password)) if value}


def _host(text: str, port: int) -> tuple[str, int]:
    """HOST, HOST:PORT or [V6]:PORT. Raises ValueError."""
    parts = urlsplit(f"//{text}")
    if not parts.hostname:
        raise ValueError("a host is missing: write HOST:PORT,HOST:PORT")
    return parts.hostname, parts.port or port


def _number(text: str) -> int:
    if not text.isdecimal():
        raise ValueError("the database is a number")
    return int(text)
