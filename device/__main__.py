"""`python -m device`, and what `deltaic device` calls."""

import sys
from collections.abc import Sequence

from deltaic.errors import DeltaicError
from deltaic.runtime.lifetime import run_node
from deltaic.runtime.logs import configure_logs
from device.app import Device
from device.config import DeviceSettings


def main(argv: Sequence[str] | None = None) -> int:
    """Run a device until SIGTERM or SIGINT; the exit status of the process."""
    try:
        settings = DeviceSettings.load(sys.argv[1:] if argv is None else argv, prog="deltaic device")
        settings.check_listen()
    except DeltaicError as error:
        sys.stderr.write(f"deltaic device: {error}\n")
        return 1
    configure_logs(settings.log_level, json=settings.log_json)
    return run_node("device", Device(settings).running)


if __name__ == "__main__":
    sys.exit(main())
