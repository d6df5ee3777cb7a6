"""llama.cpp's own log: kept off the terminal, its last complaint kept for the error message."""

import ctypes
from collections import deque
from typing import Any, ClassVar

import structlog

_log = structlog.get_logger(__name__)
_DEBUG, _WARN, _ERROR, _CONTINUED = 1, 3, 4, 5


class NativeLog:
    """Receives the log from `install` until `remove`, or until another one is installed."""

    _installed: ClassVar[Any] = None
    """llama.cpp holds a pointer to this: it must outlive whoever installed it."""

    def __init__(self) -> None:
        self.errors: deque[str] = deque(maxlen=8)
        self._level = 0

    def install(self) -> None:
        import llama_cpp.llama_cpp as native

        callback = native.llama_log_callback(self._take)
        native.llama_log_set(callback, ctypes.c_void_p(0))
        NativeLog._installed = callback

    def remove(self) -> None:
        """Let llama.cpp write to stderr again, and forget who took it."""
        import llama_cpp.llama_cpp as native

        native.llama_log_set(ctypes.cast(0, native.llama_log_callback), ctypes.c_void_p(0))
        NativeLog._installed = None

    def _take(self, level: int, text: bytes, _user_data: object) -> None:
        """Called from llama.cpp's threads, with pieces of lines."""
        self._level = level = self._level if level == _CONTINUED else level
        line = text.decode("utf-8", "replace").strip()
        if len(line) < 2 or level == _DEBUG:
            return
        if level == _ERROR:
            self.errors.append(line)
        # A model's own strings may show up here; prompts and answers never do.
        _log.log(30 if level in (_WARN, _ERROR) else 10, "llama.cpp", text=line[:500])

    @property
    def complaint(self) -> str:
        """The most telling of the last errors: llama.cpp reports the cause first and then who else gave up."""
        return self.errors[0] if self.errors else "llama.cpp gave no reason"
