"""A program that starts a worker, prints its process id and waits to be killed: `engine_parent.py FOLDER MODEL`."""

import asyncio
import sys
from pathlib import Path

from engine_asking import KEY, REVISION, SETTINGS

from deltaic.engine.host import ModelHost


async def main() -> None:
    host = ModelHost(Path(sys.argv[1]), SETTINGS, "edge@test", "edge")
    await host.serve(KEY, REVISION, Path(sys.argv[2]))
    async with host.lease(KEY) as leased:
        sys.stderr.write(f"pid={leased.worker.pid}\n")
    await asyncio.sleep(60)


if __name__ == "__main__":
    asyncio.run(main())
