"""Texts whose state is at hand, found by what they begin with: a radix tree of tokens for each scope.

A text is held by a slot or by a stored state. Whoever holds a text holds every beginning of it, so a lookup follows the
tokens as far as any text goes; all that lies below that point shares so much with what is looked for.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from deltaic.engine.scheduling.request import Scope


@dataclass(slots=True, eq=False)
class Held:
    """A text and who holds it: a slot, or a stored state. `ready` are the tokens from its start that can be used."""

    scope: Scope
    tokens: tuple[int, ...]
    slot: int | None = None
    kept: int | None = None
    ready: int = 0


@dataclass(slots=True, eq=False)
class _Node:
    edge: tuple[int, ...] = ()
    children: dict[int, "_Node"] = field(default_factory=dict)
    held: list[Held] = field(default_factory=list)

    def below(self) -> Iterator[Held]:
        stack = [self]
        while stack:
            node = stack.pop()
            yield from node.held
            stack.extend(node.children.values())


class Prefixes:
    """All texts at hand. Scopes never see each other."""

    def __init__(self) -> None:
        self._roots: dict[Scope, _Node] = {}

    def add(self, held: Held) -> None:
        node, at = self._roots.setdefault(held.scope, _Node()), 0
        while at < len(held.tokens):
            child = node.children.get(held.tokens[at])
            if child is None:
                child = node.children[held.tokens[at]] = _Node(held.tokens[at:])
            else:
                shared = common(child.edge, held.tokens[at : at + len(child.edge)])
                if shared < len(child.edge):
                    child = _split(node, child, shared)
            at += len(child.edge)
            node = child
        node.held.append(held)

    def remove(self, held: Held) -> None:
        """Forget a text that was added; branches that lead nowhere go with it."""
        root = self._roots[held.scope]
        path, node, at = [], root, 0
        while at < len(held.tokens):
            path.append(node)
            node = node.children[held.tokens[at]]
            at += len(node.edge)
        node.held.remove(held)
        while path and not node.held:
            above = path.pop()
            _shrink(above, node)
            node = above
        if not root.held and not root.children:
            del self._roots[held.scope]

    def matches(self, scope: Scope, tokens: Sequence[int]) -> Iterator[tuple[int, Held]]:
        """What shares a beginning with `tokens`, and how many tokens: the longest first, each text once."""
        path, tokens = [], tuple(tokens)
        node, at = self._roots.get(scope), 0
        while node is not None:
            path.append((at, node))
            child = node.children.get(tokens[at]) if at < len(tokens) else None
            if child is None:
                break
            shared = common(child.edge, tokens[at : at + len(child.edge)])
            at += shared
            if shared < len(child.edge):
                path.append((at, child))
                break
            node = child
        seen: set[int] = set()
        for length, each in reversed(path):
            for held in each.below():
                if id(held) not in seen:
                    seen.add(id(held))
                    yield length, held


def common(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two texts share from the start."""
    low, high = 0, min(len(one), len(other))
    if one[:high] == other[:high]:
        return high
    while high - low > 1:
        middle = (low + high) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle
    return low


def _split(parent: _Node, child: _Node, at: int) -> _Node:
    """Cut the edge to `child` after `at` tokens; the node that is there now."""
    middle = _Node(child.edge[:at], {child.edge[at]: child})
    child.edge = child.edge[at:]
    parent.children[middle.edge[0]] = middle
    return middle


def _shrink(parent: _Node, node: _Node) -> None:
    """Remove a node that holds nothing, or join it with its only child."""
    if not node.children:
        del parent.children[node.edge[0]]
    elif len(node.children) == 1:
        (child,) = node.children.values()
        child.edge = node.edge + child.edge
        parent.children[child.edge[0]] = child
