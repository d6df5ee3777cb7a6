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
from statistics import median
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
ALLOWED_MIB = 256.0
"""For pulling and for serving, the same whatever the model's size."""
SMALL_BYTES = 500 * MIB
"""Below it the start of a Python process is most of its time, so only a node that runs already has a bar."""
LARGE_BYTES = 2_000 * MIB
"""Above it only the peer that has a bar is measured, for the sake of time."""
PEER = "curl + sha256sum"
THEN = {
    PEER: "sha256sum {0}",
    "curl + openssl sha256": "openssl dgst -sha256 {0}",
    "curl + sync + sha256sum": "sync {0} && sha256sum {0}",
}
CUTS = 1_000
# On average below a chunk, so that most chunks are cut at least once.
CUT_BYTES = (64 * 1024, 1_600_000)
PROGRAMS = {"nginx": "nginx", "curl": "curl", "sha256sum": "coreutils", "openssl": "openssl", "sync": "coreutils"}
NOTES = """\
*Pull*: a process pulls a model from a ContentService on loopback into a folder of model files: the manifest, every
chunk verified when it arrives, the hash of the whole file, `fsync` of the file and of its folder. *curl + sha256sum*:
curl writes the file that nginx serves with `sendfile`, then sha256sum reads it; nothing of it is durable when they end.
Both sides read from a warm page cache and write to the same file system, which is synced before each run; they take
turns, and the figures are medians. *In a node* leaves out the start of our process (Python and its imports), which a
running edge does not pay; curl's start is always counted. The rows without a bar put the others in proportion:
`openssl` hashes with the processor's SHA instructions, as we do and as Debian's `sha256sum` does not; `sync` makes
curl's file as durable as ours. Memory is allowed the same for every size. The cut line drops every connection each time
that a random number of bytes (64 KiB to 1.6 MB) has come down; what it carried is counted on the line, lost bytes and
headers included."""


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
    facts_of_it = (published.revision, published.manifest_bytes)
    usage = measure([sys.executable, BENCH / "pull.py", str(port), str(folder), *facts_of_it])
    facts = json.loads(usage.output)
    measure(["cmp", facts["file"], published.model])
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

    peers = {PEER: THEN[PEER]} if published.size > LARGE_BYTES else THEN
    with (
        nginx(published.model.parent, folder / "nginx") as address,
        bench_program("content_node.py", published.store) as node,
    ):
        sides = {name: partial(curl, published, address, folder, then) for name, then in peers.items()}
        seen = in_turn({"ours": partial(ours, node), **sides}, repetitions)
        serving_peak = node.peak_rss_bytes()
    add_times(report, published, seen, in_node)
    pulling_peak = middle(seen["ours"]).peak_rss_bytes
    for what, peak in ("pulling", pulling_peak), ("serving", serving_peak):
        report.add(within(f"peak memory, {what}", published.label, "MiB", peak / MIB, allowed=ALLOWED_MIB))


def add_times(report: Report, published: Published, seen: dict[str, list[Usage]], in_node: list[float]) -> None:
    """The rows of one model: the two bars first, then what puts them in proportion."""
    case = published.label
    ours, theirs, node_s = middle(seen["ours"]), middle(seen[PEER]), median(in_node)
    runs = {name: [usage.wall_s for usage in usages] for name, usages in seen.items()} | {"in a node": in_node}
    bar = None if published.size < SMALL_BYTES else 1.0
    against = partial(against_peer, case=case, unit="s")
    report.add(against("pull, in a node", ours=node_s, peer=theirs.wall_s, peer_name=PEER, bar=1.0, runs=runs))
    report.add(against("pull, whole process", ours=ours.wall_s, peer=theirs.wall_s, peer_name=PEER, bar=bar))
    for name in [each for each in seen if each not in ("ours", PEER)]:
        peer_s = middle(seen[name]).wall_s
        report.add(against("pull, in a node", ours=node_s, peer=peer_s, peer_name=name))
    report.add(against("CPU of the receiver", ours=ours.cpu_s, peer=theirs.cpu_s, peer_name=PEER))


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
    received = partial(against_peer, "payload of whole frames", case, "bytes", peer_name="its size")
    report.add(received(ours=facts["wire_bytes"], peer=published.size))
    report.add(within("verified chunks fetched again", case, "chunks", facts["chunks_repeated"], allowed=0))


def run(report: Report, folder: Path, sizes: list[float], cuts: int) -> None:
    """Everything, one model after the other; what is no longer needed goes at once."""
    demo = Path(os.environ.get("DELTAIC_MODELS") or Path.home() / ".cache" / "deltaic" / "models") / DEMO
    if not demo.exists():
        raise BenchFailed(f"{demo} is missing: run make models")
    place = folder / "demo"
    place.mkdir()
    bench_pull(report, publish("demo model, 98 MB", demo, place), place, 7)
    for number, size in enumerate(sizes):
        place = folder / f"{size:g}"
        place.mkdir()
        model = place / f"noise-{size:g}GB.gguf"
        measure([sys.executable, BENCH / "synthetic.py", model, str(size)])
        published = publish(f"synthetic, {size:g} GB", model, place)
        bench_pull(report, published, place, 3)
        if cuts and number == 0:
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
