"""What the settings of an edge mean for answers that are kept."""

from importlib.metadata import version

from edge.config import EdgeSettings
from edge.index.redis_index import AnswerBounds
from edge.response_cache import CacheSettings


def answer_bounds(settings: EdgeSettings) -> AnswerBounds:
    """Bytes that the index may keep: none, unless this edge shares its answers."""
    return AnswerBounds(settings.cache_seconds, settings.cache_bytes if _shares(settings) else 0)


def cache_settings(settings: EdgeSettings, node: str) -> CacheSettings:
    """Settings of the engine that change an answer are named; the others only change how long it takes."""
    engine = settings.engine
    named = (engine.context_tokens, engine.kv_type_k, engine.kv_type_v, engine.flash_attention, engine.gpu_layers)
    return CacheSettings(
        node,
        on=settings.response_cache == "on" and settings.cache_bytes > 0,
        most_bytes=settings.cache_bytes,
        seconds=settings.cache_seconds,
        engine=f"{version('deltaic')} {named}",
        shared=_shares(settings),
    )


def _shares(settings: EdgeSettings) -> bool:
    """An embedded server is this edge's alone: what its memory has need not be there twice."""
    return settings.response_cache == "on" and bool(settings.index_url and settings.index_secret)
