"""`python -m edge`, and what `deltaic edge` runs."""

import sys
from collections.abc import Sequence

from deltaic.runtime.lifetime import main_of
from edge.app import Edge
from edge.config import EdgeSettings


def main(argv: Sequence[str] | None = None) -> int:
    """Run an edge until SIGTERM or SIGINT; the exit status of the process."""
    return main_of("edge", EdgeSettings, lambda settings: Edge(settings).running(), argv)


if __name__ == "__main__":
    sys.exit(main())
