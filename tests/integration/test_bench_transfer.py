"""The programs of the transfer bench do what its figures claim: whole files, real cuts, chunks counted as they come."""

import json
import sys
from pathlib import Path

import pytest
import synthetic
from harness import REPOSITORY, BenchFailed, measure, require
from serving import bench_program, nginx

from deltaic.weights.gguf_layout import read_layout

BENCH = REPOSITORY / "bench"
CUTS = 25


def test_a_synthetic_model_is_a_valid_one_of_about_the_size_asked_for(tmp_path: Path) -> None:
    model = tmp_path / "noise.gguf"
    synthetic.write(model, 150_000_000)
    layout = read_layout(model)
    assert abs(layout.size - 150_000_000) < 40_000_000
    assert {segment.ggml_type for segment in layout.segments} == {"", "Q4_K"}


def test_a_pull_through_a_line_that_is_cut_brings_the_file_and_counts_what_it_cost(tmp_path: Path) -> None:
    model = tmp_path / "noise.gguf"
    synthetic.write(model, 50_000_000)
    store, folder = tmp_path / "store", tmp_path / "models"
    revision, size = measure([sys.executable, BENCH / "content_node.py", store, model]).output.split()
    with bench_program("content_node.py", store) as node:
        with bench_program("cutter.py", str(node.port), str(CUTS), "100000", "900000", "1") as line:
            pulled = measure([sys.executable, BENCH / "pull.py", str(line.port), folder, revision, size])
            assert 20 << 20 < node.peak_rss_bytes() < 1 << 30
    facts, happened = json.loads(pulled.output), json.loads(line.said)
    assert Path(facts["file"]).read_bytes() == model.read_bytes()
    assert happened["cuts"] == CUTS
    assert happened["connections"] > CUTS
    assert happened["down_bytes"] > model.stat().st_size
    assert facts["cuts"] > 0
    assert facts["chunks"] > 10
    assert facts["chunks_repeated"] == 0


def test_nginx_serves_the_same_bytes(tmp_path: Path) -> None:
    try:
        require({"nginx": "nginx", "curl": "curl"})
    except BenchFailed as error:
        pytest.skip(str(error))
    (tmp_path / "root").mkdir()
    served = tmp_path / "root" / "file.bin"
    served.write_bytes(bytes(range(256)) * 1000)
    with nginx(tmp_path / "root", tmp_path / "nginx") as address:
        measure(["curl", "--silent", "--fail", "--output", tmp_path / "got.bin", f"{address}/file.bin"])
    assert (tmp_path / "got.bin").read_bytes() == served.read_bytes()
