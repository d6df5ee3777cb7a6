"""`python -m device`, and what `deltaic device` runs."""

import sys
from collections.abc import Sequence

from deltaic.runtime.lifetime import main_of
from device.app import Device
from device.config import DeviceSettings


def main(argv: Sequence[str] | None = None) -> int:
    """Run a device until SIGTERM or SIGINT; the exit status of the process."""
    return main_of("device", DeviceSettings, lambda settings: Device(settings).running(), argv)


if __name__ == "__main__":
    sys.exit(main())
