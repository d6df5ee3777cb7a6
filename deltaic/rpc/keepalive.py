"""Noticing that the other side is gone when the line does not say so: a pulled cable, a machine without power.

Both sides send pings, on lines where no other byte flows too. gRPC throttles them after the second one unless it is
told not to, and takes them for an attack when they come more often than every five minutes unless it is told not to.
"""

EVERY_MS = 30_000
"""Milliseconds of silence before a ping."""
ANSWER_WITHIN_MS = 10_000
"""Milliseconds after which a ping without an answer ends the connection, and the calls on it."""


def keepalive_options() -> list[tuple[str, int]]:
    """Options of a channel and of a server."""
    return [
        ("grpc.keepalive_time_ms", EVERY_MS),
        ("grpc.keepalive_timeout_ms", ANSWER_WITHIN_MS),
        ("grpc.http2.ping_timeout_ms", ANSWER_WITHIN_MS),  # what counts since every ping has a timeout; else a minute
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.http2.min_ping_interval_without_data_ms", EVERY_MS // 3),
    ]
