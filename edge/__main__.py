"""`python -m edge`, and what `deltaic edge` calls."""

import sys
from collections.abc import Sequence

from deltaic.errors import DeltaicError
from deltaic.runtime.lifetime import run_node
from deltaic.runtime.logs import configure_logs
from edge.app import Edge
from edge.config import EdgeSettings


def main(argv: Sequence[str] | None = None) -> int:
    """Run an edge until SIGTERM or SIGINT; the exit status of the process."""
    try:
        settings = EdgeSettings.load(sys.argv[1:] if argv is None else argv, prog="deltaic edge")
    except DeltaicError as error:
        sys.stderr.write(f"deltaic edge: {error}\n")
        return 1
    configure_logs(settings.log_level, json=settings.log_json)
    return run_node("edge", Edge(settings).running)


if __name__ == "__main__":
    sys.exit(main())
