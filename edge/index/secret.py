"""What only the edges of a branch know, and what they make of it: digests that others cannot try words against.

Without a secret, tenants are still told apart, by a digest that everybody can make; prompts leave no trace at all.
"""

import hashlib
import hmac

from deltaic.v1 import inference_pb2

BLOCK = 256
MAX_BLOCKS = 32


class IndexSecret:
    """Keys of their own for each purpose, from the setting `index_secret`."""

    def __init__(self, secret: str = "") -> None:
        """An empty one is none."""
        self.known = bool(secret)
        self._secret = secret.encode()

    def key(self, purpose: str) -> bytes:
        """32 bytes for one purpose (HMAC-SHA256 of it)."""
        return hmac.digest(self._secret, f"deltaic index 1: {purpose}".encode(), "sha256")

    def tenant(self, tenant: str) -> str:
        """32 hexadecimal digits in place of a tenant's name."""
        return hmac.digest(self.key("tenant"), tenant.encode(), "sha256")[:16].hex()

    def prefixes(self, request: inference_pb2.GenerateRequest) -> tuple[str, ...]:
        """Digests of the request's first 1, 2, 3... blocks of BLOCK bytes; none without a secret.

        Each is 16 hexadecimal digits of a chain: what two requests of one tenant, with the same adapters, begin with
        alike has the same digests, and nothing shows without the key what that is.
        """
        if not self.known:
            return ()
        scope = inference_pb2.GenerateRequest(tenant=request.tenant, adapters=request.adapters)
        link = hmac.digest(self.key("prefix"), scope.SerializeToString(deterministic=True), "sha256")
        begun = inference_pb2.GenerateRequest(messages=request.messages, prompt=request.prompt, tools=request.tools)
        text = _as_templates_read(begun)
        digests = []
        for start in range(0, min(len(text) - BLOCK, (MAX_BLOCKS - 1) * BLOCK) + 1, BLOCK):
            link = hashlib.sha256(link + text[start : start + BLOCK]).digest()
            digests.append(link[:8].hex())
        return tuple(digests)


def known_blocks(digests: tuple[str, ...], seen: frozenset[str]) -> int:
    """How many blocks of a prompt with these digests somebody has read who has read `seen`."""
    return next((len(digests) - back for back, digest in enumerate(reversed(digests)) if digest in seen), 0)


def _as_templates_read(request: inference_pb2.GenerateRequest) -> bytes:
    """The tools, which most chat templates show first, then the turns in their order, or the raw prompt."""
    parts = [tool.SerializeToString(deterministic=True) for tool in request.tools]
    for message in request.messages:
        # Role and text at the front, in full: two turns that begin alike have bytes that begin alike.
        parts += [message.role.encode(), b"\0", message.content.encode(), b"\0"]
        parts += [call.SerializeToString(deterministic=True) for call in message.tool_calls]
    return b"".join(parts) + request.prompt.encode()
