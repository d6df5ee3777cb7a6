"""`python -m center`, and what `deltaic center` runs."""

import sys
from collections.abc import Sequence

from center.app import Center
from center.config import CenterSettings
from deltaic.errors import DeltaicError
from deltaic.runtime.lifetime import run_node
from deltaic.runtime.logs import configure_logs


def main(argv: Sequence[str] | None = None) -> int:
    """Read the settings and serve until SIGTERM; the exit status. `--help` teaches the flags."""
    try:
        settings = CenterSettings.load(sys.argv[1:] if argv is None else argv, prog="deltaic center")
    except DeltaicError as error:
        sys.stderr.write(f"deltaic center: {error}\n")
        return 1
    configure_logs(settings.log_level, json=settings.log_json)
    return run_node("center", Center(settings).running)


if __name__ == "__main__":
    sys.exit(main())
