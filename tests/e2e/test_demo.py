"""The demo is the product in one command; what it prints is what we promise."""

import json
import subprocess
import sys

import pytest

KEYS = {
    "revisions", "updates", "requests", "failed", "answered_by", "edge_share", "swap_seconds", "tokens_per_second",
    "time_to_first_token_ms", "sensitive_requests", "sensitive_bytes_out", "checks", "held",
    "answered_by_second_edge", "second_edge_center_bytes",
}  # fmt: skip


@pytest.mark.model
@pytest.mark.timeout(420)
def test_the_demo_keeps_every_promise() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "cli", "demo", "--json", "--seconds", "3"],
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert run.stdout, run.stderr
    found = json.loads(run.stdout)
    assert [check for check in found["checks"] if not check["held"]] == []
    assert run.returncode == 0
    assert found.keys() >= KEYS
    assert found["failed"] == 0
    assert found["sensitive_requests"] > 0
    assert found["sensitive_bytes_out"] == 0
    assert found["answered_by"].keys() == {"edge", "device", "center"}
    assert min(found["answered_by"].values()) > 0
    first, tuned, retemplated = found["updates"]
    assert found["answered_by_second_edge"] > 0
    assert found["second_edge_center_bytes"] < 0.2 * first["full_bytes"]
    assert len(set(found["revisions"])) == 3
    assert first["update_bytes"] > 0.8 * first["full_bytes"]
    assert [update["way"] for update in found["updates"]] == ["chunks", "delta", "chunks"]
    assert max(tuned["update_bytes"], tuned["device_update_bytes"]) < 0.2 * tuned["full_bytes"]
    assert retemplated["update_bytes"] < 0.01 * retemplated["full_bytes"]
