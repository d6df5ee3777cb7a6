"""Blocking work beside the event loop; it is `deltaic.runtime` that knows how."""

from deltaic.runtime.threads import in_thread, in_thread_with_stop

__all__ = ["in_thread", "in_thread_with_stop"]
