"""How bytes are cut up on the line: HTTP/2 frames of 16 KiB, the default, cost a bulk transfer part of its speed.

What a side announces is the largest frame that it takes, so a peer with other settings is served as before.
"""

LARGEST_FRAME_BYTES = 1 << 20


def frame_options() -> list[tuple[str, int]]:
    """Options of a channel and of a server."""
    return [("grpc.http2.max_frame_size", LARGEST_FRAME_BYTES)]
