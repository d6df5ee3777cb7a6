"""The bench of deltas goes on where a peer does not come to an end."""

import pytest
from delta import Bench
from delta_pairs import pairs_of
from delta_sides import PEERS
from harness import Report, TooSlow, measure


def test_a_peer_that_takes_too_long_is_left_out_of_the_pair_and_said(tmp_path, monkeypatch):
    def quick(_pair, delta):
        delta.write_bytes(b"12345")

    def slow(_pair, _delta):
        raise TooSlow("it did not end within 900 s")

    for name in PEERS:
        monkeypatch.setitem(PEERS, name, slow if name == "HDiffPatch" else quick)
    report = Report("delta", "make bench-delta", notes="How.")
    (pair,) = pairs_of(["strong"], ["BF16"], tmp_path)
    pair.new.write_bytes(bytes(1000))
    bench = Bench(report, tmp_path, "light")
    sizes = bench._peer_sizes(pair, [])
    assert sizes == {"xdelta3": 5, "zstd": 5, "zstd --patch-from": 5}
    assert "Without HDiffPatch for strong, BF16: it did not end within 900 s." in report._facts["notes"]
    bench._sizes(pair, 2, sizes)
    assert [row.peer_name for row in report.rows if row.metric == "size"] == ["xdelta3", "zstd"]


def test_a_program_that_does_not_end_is_too_slow():
    with pytest.raises(TooSlow, match=r"did not end within 0\.2 s"):
        measure(["sleep", "5"], timeout=0.2)
