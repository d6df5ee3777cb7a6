"""The commands as a person and as a script use them, against a real center and a real edge."""

import json
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cli.demo.processes import Node
from tests.e2e.conftest import Deltaic, one_line

pytestmark = [pytest.mark.model, pytest.mark.timeout(240)]

GHOST = "sha256:" + "0" * 64


@pytest.fixture
async def edge(center: Node) -> AsyncIterator[Node]:
    """An edge below the center that follows smollm2/stable."""
    node = Node("edge", center.folder, ("--center", center.address, "--channels", "smollm2/stable", "--name", "edge-1"))
    await node.start()
    yield node
    await node.stop()


async def test_a_model_from_publish_to_answer(
    deltaic: Deltaic, center: Node, edge: Node, demo_model_path: Path
) -> None:
    def ask_center(*arguments: str) -> object:
        shown = deltaic(*arguments, "--json", DELTAIC_CENTER=center.address)
        assert shown.returncode == 0, shown.stderr
        return json.loads(shown.stdout)

    published = ask_center("publish", str(demo_model_path), "-m", "smollm2", "-d", "the first")
    again = ask_center("publish", str(demo_model_path), "-m", "smollm2")
    assert again["revision"] == published["revision"]
    assert again["sent_bytes"] == 0

    (channel,) = ask_center("channels")
    assert channel["revision"]["name"] == published["revision"]
    (listed,) = ask_center("revisions", "smollm2")
    assert listed["description"] == "the first"

    answer = _until_answered(deltaic, edge)
    assert answer["node"] == "edge-1"
    assert answer["answered_by"] == "NODE_ROLE_EDGE"
    assert answer["revision"] == published["revision"]
    (served,) = json.loads(deltaic("models", "--json", DELTAIC_NODE=edge.address).stdout)
    assert served["revision"] == published["revision"]

    tuned = demo_model_path.with_name("smollm2-branch-assistant.Q4_1.gguf")
    second = ask_center("publish", str(tuned), "-m", "smollm2", "--channel", "")
    move = ("move", "smollm2/stable", second["revision"].rpartition("/")[2])
    assert "not what you have read" in one_line(deltaic(*move, "--etag", "outdated", "--center", center.address))
    assert ask_center("channels")[0]["etag"] == channel["etag"]
    assert ask_center(*move, "--etag", channel["etag"])["revision"]["name"] == second["revision"]
    assert GHOST in one_line(deltaic("move", "smollm2/stable", GHOST, "--center", center.address))

    assert ask_center("tag", "smollm2/v1.0", published["revision"])["name"] == "models/smollm2/tags/v1.0"
    assert ask_center("move", "smollm2/canary", "v1.0")["revision"]["name"] == published["revision"]
    taken = deltaic("tag", "smollm2/v1.0", second["revision"], "--center", center.address)
    assert "never moves" in one_line(taken)
    collected = ask_center("center", "gc", "--dry-run")
    assert [len(fate["keepers"]) > 0 for fate in collected["revisions"]] == [True, True]
    assert "would free 0 revisions" in deltaic("center", "gc", "--dry-run", "--center", center.address).stdout

    actions = [entry["action"] for entry in ask_center("audit") if not entry["action"].startswith("EDGE_")]
    assert actions == [*["REVISION_PUBLISHED", "CHANNEL_MOVED"] * 2, "TAG_CREATED", "CHANNEL_MOVED"]
    assert "chain of hashes holds" in deltaic("audit", "--center", center.address).stdout

    nodes = ask_center("status")
    assert [node["node"] for node in nodes] == ["edge-1"]
    assert "smollm2/stable" in deltaic("status", "--at", edge.address).stdout


def _until_answered(deltaic: Deltaic, edge: Node) -> dict[str, str]:
    """Ask until the edge itself answers: before it holds the model, the center does."""
    for _ in range(40):
        shown = deltaic("ask", "smollm2", "Say hello.", "-n", "8", "--json", "--node", edge.address)
        if shown.returncode == 0 and (answer := json.loads(shown.stdout))["answered_by"] == "NODE_ROLE_EDGE":
            return answer
    pytest.fail(f"the edge never answered: {shown.stderr}")


async def test_a_prompt_longer_than_the_context(
    deltaic: Deltaic, center: Node, edge: Node, demo_model_path: Path
) -> None:
    assert deltaic("publish", str(demo_model_path), "-m", "smollm2", "--center", center.address).returncode == 0
    _until_answered(deltaic, edge)
    line = one_line(deltaic("ask", "smollm2", "word " * 5000, "--node", edge.address))
    assert re.search(r"prompt.*\d.*tokens", line), line
    assert "2048" in line.replace(",", "")


async def test_health_of_nodes(deltaic: Deltaic, center: Node) -> None:
    assert deltaic("health", center.address).returncode == 0
    await center.stop()
    assert "no answer" in one_line(deltaic("health", center.address))
