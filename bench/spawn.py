"""Run one program and tell what it cost: spawn.py FACTS_FILE FOLDER PROGRAM [ARGUMENT...]

Stands between a bench and the program on purpose. Linux counts the memory of whoever forks a process into the peak of
that process, so a bench that holds arrays would measure itself; this program holds 8 MB.
"""

import json
import os
import sys
import time


def main(facts: str, folder: str, command: list[str]) -> None:
    os.chdir(folder)
    started = time.monotonic()
    child = os.posix_spawnp(command[0], command, os.environ)
    _, status, usage = os.wait4(child, 0)
    wall = time.monotonic() - started
    said = {
        "wall_s": wall,
        "cpu_s": usage.ru_utime + usage.ru_stime,
        "peak_rss_bytes": usage.ru_maxrss * 1024,
        "status": os.waitstatus_to_exitcode(status),
    }
    with open(facts, "w") as file:  # noqa: PTH123  # pathlib alone would be as large as the rest
        json.dump(said, file)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
