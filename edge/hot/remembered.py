"""What a restart knows of loads and requests: DATA_DIR/hot-set.json, written whole, worth nothing but speed."""

import json
from contextlib import suppress
from pathlib import Path

import structlog

from deltaic.store.disk import write_whole
from edge.hot.load_costs import LoadCosts
from edge.hot.rates import Rates

_log = structlog.get_logger(__name__)
NAME = "hot-set.json"
_MOST_BYTES = 8 << 20
_VERSION = 1


class Remembered:
    """Blocks on the disk: call it from a thread, except at start."""

    def __init__(self, path: Path, costs: LoadCosts, rates: Rates) -> None:
        self._path, self._costs, self._rates = path, costs, rates

    def load(self) -> None:
        """Fill `costs` and `rates`; a file that is missing or damaged leaves what is supposed without it."""
        try:
            if self._path.stat().st_size > _MOST_BYTES:
                raise ValueError("it is too large")
            found = json.loads(self._path.read_bytes())
            if found["version"] != _VERSION:
                raise ValueError(f"version {found['version']}")
            self._costs.restore(found["load_costs"])
            self._rates.restore(found["rates"])
        except FileNotFoundError:
            return
        except (OSError, ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
            _log.warning("hot_set.forgotten", file=str(self._path), why=str(error) or type(error).__name__)

    def taken(self) -> bytes:
        """What to save, as of now. Not for another thread."""
        whole = {"version": _VERSION, "load_costs": self._costs.dump(), "rates": self._rates.dump()}
        return json.dumps(whole, separators=(",", ":")).encode()

    def save(self, taken: bytes) -> None:
        """Write it; a disk that fails costs what a restart would have known."""
        with suppress(OSError):
            write_whole(self._path, taken)
