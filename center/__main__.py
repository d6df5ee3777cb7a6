"""`python -m center`, and what `deltaic center` runs."""

import sys
from collections.abc import Sequence

from center.app import Center
from center.config import CenterSettings
from deltaic.runtime.lifetime import main_of


def main(argv: Sequence[str] | None = None) -> int:
    """Run a center until SIGTERM or SIGINT; the exit status of the process."""
    return main_of("center", CenterSettings, lambda settings: Center(settings).running(), argv)


if __name__ == "__main__":
    sys.exit(main())
