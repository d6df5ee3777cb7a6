"""The keys of a branch's index in Redis or Valkey. docs/formats/index.md says what the values are.

    deltaic:{BRANCH}:                        the braces are a Cluster hash tag: one branch, one slot
    ├── nodes                      zset    node -> second when it wrote last (since the epoch)  NODES_TTL
    ├── node:NODE                  hash    role, version, address, started, written             NODE_TTL
    ├── node:NODE:of:MODEL         string  JSON: what the node has of each revision of a model  NODE_TTL
    ├── requests:NODE:MODEL        string  JSON: minute -> outcome -> requests                  REQUESTS_TTL
    ├── served:NODE:WINDOW:TENANT  string  tokens computed for a tenant in a window             SERVED_TTL
    ├── lease:NAME                 hash    node, token                                          its own seconds
    ├── fence                      string  the last token of any lease                          FENCE_TTL
    ├── answer:HEX:KEY             string  an answer of revision HEX, sealed by who made it     cache_seconds
    ├── answers:HEX                zset    KEY:BYTES of its answers -> millisecond of their end cache_seconds
    └── answers                    hash    HEX -> bytes of its answers                          cache_seconds

It is an index, never the truth. Each node writes only what it knows of itself, and always as absolute values: a write
may be lost, repeated or flushed away, and the next one makes it whole. A node that finds its own key gone writes
everything again. What is read on the way of a request is a string, read up to a bound. What several nodes change at
once (leases, answers) is changed by functions, in one step each.
"""

from dataclasses import dataclass

from deltaic.names import RevisionName
from edge.index.index import SHARE_SECONDS

NODES_TTL = 3600
REQUESTS_TTL = 7200
SERVED_TTL = 3 * SHARE_SECONDS
FENCE_TTL = 86_400


@dataclass(frozen=True, slots=True)
class Keys:
    """The tree above, for one node of one branch."""

    branch: str
    node: str

    @property
    def base(self) -> str:
        return f"deltaic:{{{self.branch}}}:"

    @property
    def nodes(self) -> str:
        return f"{self.base}nodes"

    @property
    def of_node(self) -> str:
        return f"{self.base}node:{self.node}"

    def of_model(self, model: str, node: str | None = None) -> str:
        """What `node`, by default this one, has of a model (the bare word)."""
        return f"{self.base}node:{node or self.node}:of:{model}"

    def requests(self, model: str, node: str | None = None) -> str:
        return f"{self.base}requests:{node or self.node}:{model}"

    def served(self, window: int, tenant: str, node: str | None = None) -> str:
        """`tenant` as `IndexSecret.tenant` writes it."""
        return f"{self.base}served:{node or self.node}:{window}:{tenant}"

    def lease(self, name: str) -> str:
        return f"{self.base}lease:{name}"

    @property
    def fence(self) -> str:
        return f"{self.base}fence"

    def answer(self, revision: RevisionName, key: str) -> str:
        return f"{self.base}answer:{revision.hex}:{key}"

    def answers_of(self, revision: RevisionName) -> str:
        return f"{self.base}answers:{revision.hex}"

    @property
    def answers(self) -> str:
        return f"{self.base}answers"
