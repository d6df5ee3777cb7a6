"""How many bytes a node puts into one frame of a stream."""

from deltaic.rpc.channel import MAX_FRAME_BYTES

_FIRST_BYTES = 32 * 1024
_QUICK_SECONDS = 0.1
_SLOW_SECONDS = 0.5
_QUICK_IN_A_ROW = 2


class FrameSize:
    """Short frames at the start and on a slow line, long ones on a fast line.

    A reader sees only whole frames: on a line that is slow or cut again and again short ones bring more, and the reader
    knows sooner that the line lives. On a fast line each frame costs time of its own.
    """

    def __init__(self) -> None:
        self.size = _FIRST_BYTES
        """Bytes of the next frame, at most 1 MiB."""
        self._quick = 0

    def sent(self, seconds: float) -> None:
        """The line has taken a frame after so long."""
        if seconds > _SLOW_SECONDS:
            self.size = max(_FIRST_BYTES, self.size // 2)
        self._quick = self._quick + 1 if seconds < _QUICK_SECONDS else 0
        if self._quick >= _QUICK_IN_A_ROW:
            self.size = min(MAX_FRAME_BYTES, self.size * 2)
            self._quick = 0
