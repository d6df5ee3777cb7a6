"""A node that is played, and the gateway before it."""

from collections.abc import AsyncIterator

import pytest
from played_node import Face, PlayedNode, serving


@pytest.fixture
async def node() -> PlayedNode:
    return PlayedNode()


@pytest.fixture
async def face(node: PlayedNode) -> AsyncIterator[Face]:
    async with serving(node) as served:
        yield served
