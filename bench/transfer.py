"""Pulling a whole model beside curl and sha256sum, and over a line that is cut a thousand times.

make bench-transfer                       everything: 98 MB, 1 GB and 4 GB, then 1,000 cuts
make bench-transfer ARGS="--sizes 1"      one synthetic model of 1 GB, beside the demo model
"""

import argparse
import json
import os
import shutil
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from harness import (
    MIB,
    REPOSITORY,
    BenchFailed,
    Report,
    Usage,
    against_peer,
    finish,
    in_turn,
    measure,
    middle,
    require,
    scratch,
    within,
)
from serving import Serving, bench_program, nginx

BENCH = REPOSITORY / "bench"
DEMO = "smollm2-branch-assistant.Q4_1.gguf"
CHUNK_BYTES = 4 * MIB
PULL_MEMORY_MIB = 256.0
CUTS = 1_000
# On average below a chunk, so that most chunks are cut at least once.
CUT_BYTES = (64 * 1024, 1_600_000)
PROGRAMS = {"nginx": "nginx", "curl": "curl", "sha256sum": "coreutils", "openssl": "openssl", "sync": "coreutils"}
NOTES = """\
*Pull*: a process pulls a model from a ContentService on loopback into a folder of model files: manifest, chunks, each
verified when it arrives, the whole file hashed, `fsync` of the file and of its folder. *curl + sha256sum*: curl writes
the file that nginx serves with `sendfile`, then sha256sum reads it; nothing of it is durable when they end. Both write
to the same file system, after a `sync`. *In a node* leaves out the start of our process (Python and its imports), which
a running edge does not pay; curl's start is always counted. The rows without a bar are there to put the others in
proportion: `openssl` hashes with the processor's SHA instructions, as we do, where Debian's `sha256sum` does not; and
`sync` makes curl's file as durable as ours."""


@dataclass(frozen=True, slots=True)
class Published:
    """A model as both sides find it."""

    label: str
    model: Path
    store: Path
    revision: str
    manifest_bytes: str

    @property
    def size(self) -> int:
        return self.model.stat().st_size


def publish(label: str, model: Path, folder: Path) -> Published:
    """Fill a chunk store with a model. Both sides then serve from a warm page cache."""
    store = folder / "store"
    said = measure([sys.executable, BENCH / "content_node.py", store, model]).output.split()
    return Published(label, model, store, *said)


def pull(published: Published, port: int, folder: Path) -> tuple[Usage, dict[str, Any]]:
    """Our side once; the file is checked against the original and removed."""
    shutil.rmtree(folder, ignore_errors=True)
    os.sync()
    command: list[str | Path] = [
        sys.executable,
        BENCH / "pull.py",
        str(port),
        folder,
        published.revision,
        published.manifest_bytes,
    ]
    usage = measure(command)
    facts = json.loads(usage.output)
    if measure(["cmp", facts["file"], published.model]).output:
        raise BenchFailed("the file that was pulled is not the file that was published")
    shutil.rmtree(folder)
    return usage, facts


def curl(published: Published, address: str, folder: Path, then: str) -> Usage:
    """The peer once: curl to a file, then a shell command on it."""
    target = folder / "curled.gguf"
    os.sync()
    fetch = f"curl --silent --show-error --fail --output {target} {address}/{published.model.name}"
    usage = measure(["sh", "-c", f"{fetch} && {then.format(target)}"])
    target.unlink()
    return usage


def bench_pull(report: Report, published: Published, folder: Path, repetitions: int) -> None:
    """Time and memory of pulling one model."""
    in_node: list[float] = []

    def ours(node: Serving) -> Usage:
        usage, facts = pull(published, node.port, folder / "models")
        in_node.append(facts["seconds"])
        return usage

    peer = "curl + sha256sum"
    others = {
        peer: "sha256sum {0}",
        "curl + openssl sha256": "openssl dgst -sha256 {0}",
        "curl + sync + sha256sum": "sync {0} && sha256sum {0}",
    }
    with (
        nginx(published.model.parent, folder / "nginx") as address,
        bench_program("content_node.py", published.store) as node,
    ):
        sides = {name: partial(curl, published, address, folder, then) for name, then in others.items()}
        seen = in_turn({"ours": partial(ours, node), **sides}, repetitions)
        serving_peak = node.peak_rss_bytes()
    walls = {name: [usage.wall_s for usage in usages] for name, usages in seen.items()}
    whole, node_s = middle(seen["ours"]), sorted(in_node)[len(in_node) // 2]
    small = published.size < 500 * MIB
    theirs = middle(seen[peer])
    case = published.label
    report.add(against_peer("pull, in a node", case, "s", node_s, theirs.wall_s, peer_name=peer, bar=1.0, runs=walls))
    bar = None if small else 1.0
    report.add(against_peer("pull, whole process", case, "s", whole.wall_s, theirs.wall_s, peer_name=peer, bar=bar))
    for name in list(others)[1:]:
        report.add(against_peer("pull, in a node", case, "s", node_s, middle(seen[name]).wall_s, peer_name=name))
    report.add(against_peer("CPU of the receiver", case, "s", whole.cpu_s, theirs.cpu_s, peer_name=peer))
    report.add(within("peak memory, pulling", case, "MiB", whole.peak_rss_bytes / MIB, allowed=PULL_MEMORY_MIB))
    report.add(within("peak memory, serving", case, "MiB", serving_peak / MIB, allowed=PULL_MEMORY_MIB))


def bench_cuts(report: Report, published: Published, folder: Path, cuts: int) -> None:
    """Bytes that come down a line which is cut at random, and chunks that come twice."""
    smallest, largest = CUT_BYTES
    line = (str(cuts), str(smallest), str(largest), "7")
    with (
        bench_program("content_node.py", published.store) as node,
        bench_program("cutter.py", str(node.port), *line) as cutter,
    ):
        _, facts = pull(published, cutter.port, folder / "models")
    happened = json.loads(cutter.said)
    if happened["cuts"] != cuts:
        raise BenchFailed(f"the model came through after {happened['cuts']} of {cuts} cuts: take a larger one")
    case = f"{published.label}, {cuts:,} cuts"
    allowed = published.size + cuts * CHUNK_BYTES
    report.add(within("bytes that the line carried", case, "bytes", happened["down_bytes"], allowed=allowed))
    report.add(
        against_peer(
            "bytes that the line carried", case, "bytes", happened["down_bytes"], published.size, peer_name="its size"
        )
    )
    report.add(within("verified chunks fetched again", case, "chunks", facts["chunks_repeated"], allowed=0))


def run(report: Report, folder: Path, sizes: list[float], cuts: int) -> None:
    """Everything, one model after the other; what is no longer needed goes at once."""
    demo = Path(os.environ.get("DELTAIC_MODELS", Path.home() / ".cache" / "deltaic" / "models")) / DEMO
    if not demo.exists():
        raise BenchFailed(f"{demo} is missing: run make models")
    (folder / "demo").mkdir()
    bench_pull(report, publish("demo model, 98 MB", demo, folder / "demo"), folder / "demo", 7)
    cut_from = None
    for size in sizes:
        place = folder / f"{size:g}"
        place.mkdir()
        model = place / f"noise-{size:g}GB.gguf"
        measure([sys.executable, BENCH / "synthetic.py", model, str(size)])
        published = publish(f"synthetic, {size:g} GB", model, place)
        bench_pull(report, published, place, 5 if size < 2 else 3)
        if cuts and cut_from is None:
            cut_from = published
            bench_cuts(report, published, place, cuts)
        shutil.rmtree(place)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=float, nargs="*", default=[1.0, 4.0], help="synthetic models, in gigabytes")
    parser.add_argument("--cuts", type=int, default=CUTS, help="of the line, while the first of them is pulled")
    options = parser.parse_args()
    report = Report("transfer", "make bench-transfer", notes=NOTES)
    try:
        require(PROGRAMS)
        # The model, the chunk store, and the file that one side writes.
        with scratch(int(max([*options.sizes, 0.1]) * 3.2e9)) as folder:
            run(report, folder, options.sizes, options.cuts)
    except BenchFailed as error:
        print(f"bench-transfer: {error}", file=sys.stderr)
        return 1
    return finish(report)


if __name__ == "__main__":
    raise SystemExit(main())
