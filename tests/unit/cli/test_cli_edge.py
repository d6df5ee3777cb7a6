"""`deltaic edge status` as a person reads it."""

from cli.edge_view import lines_of, view_of
from deltaic.v1 import fleet_pb2

NOW = 1_700_000_000.0
REVISION = "models/m/revisions/sha256:" + "ab" * 32


def status(**fields: object) -> fleet_pb2.NodeStatus:
    made = fleet_pb2.NodeStatus(report=fleet_pb2.NodeReport(node="edge@a", version="1"), serving=True, **fields)
    made.start_time.FromSeconds(int(NOW) - 3 * 86_400)
    made.line.upstream = "center:7400"
    made.line.since.FromSeconds(int(NOW) - 7_200)
    return made


def shown(message: fleet_pb2.NodeStatus) -> str:
    return "\n".join(text for text, _ in lines_of(message, NOW))


def test_it_says_since_when_the_line_is_cut_and_what_waits() -> None:
    text = shown(status(spool=fleet_pb2.SpoolStatus(entries=17, bytes=2_000, budget_bytes=64_000_000)))
    assert "edge@a  1, up 3 d" in text
    assert "center:7400 cut for 2 h" in text
    assert "17 entries wait for the center, 2.0 kB of 64.0 MB" in text


def test_it_shows_shares_and_what_was_saved() -> None:
    counts = fleet_pb2.PlaceCounts(local=6, center=2, neighbour=1, cache=1, refused=3)
    fetched = fleet_pb2.FetchCounts(wire_bytes={"center c": 5_000_000}, saved_by_deltas=9_000_000)
    text = shown(status(places=counts, fetched=fetched))
    assert "10 answered (local 60 %, neighbour 10 %, center 20 %, cache 10 %), 3 refused, 0 failed" in text
    assert "5.0 MB from center c; saved 9.0 MB by deltas" in text


def test_it_says_why_a_model_is_held_and_that_entries_were_lost() -> None:
    held = fleet_pb2.HeldModel(
        revision=REVISION, loaded=True, pinned=True, memory_bytes=10**8, why="followed as stable"
    )
    text = shown(status(held=[held], spool=fleet_pb2.SpoolStatus(lost=4)))
    assert f"m {'ab' * 6}  loaded, pinned  100.0 MB" in text
    assert "why     followed as stable" in text
    assert "4 LOST" in text


def test_words_of_others_cannot_move_the_cursor() -> None:
    held = fleet_pb2.HeldModel(revision=REVISION, why="a\x1b[2Jb\nc")
    assert "\x1b" not in shown(status(held=[held]))
    assert "\x1b" not in view_of(status(), NOW, "cut\x1b[2J").plain


def test_trouble_is_shown_under_what_was_seen_last() -> None:
    text = view_of(status(), NOW, "edge 127.0.0.1:7410 does not answer").plain
    assert text.startswith("edge@a")
    assert text.endswith("does not answer")
    assert view_of(fleet_pb2.NodeStatus(), NOW, "no answer").plain == "no answer"
