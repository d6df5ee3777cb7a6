"""GET /v1/models, /v1/models/{name}, /healthz, /metrics."""

import json
import time
from collections.abc import Callable

from deltaic.gateway.answering import Answering
from deltaic.gateway.errors import ModelNotListed, NoSuchRoute
from deltaic.gateway.exchange import Exchange
from deltaic.gateway.model_names import resolve, shown
from deltaic.v1 import inference_pb2 as pb

Health = Callable[[], dict[str, object]]
"""The body of /healthz; its `status` is "ok" when a load balancer should send requests."""

_METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Listing:
    """What is asked with GET."""

    def __init__(
        self, answering: Answering, metrics: Callable[[], bytes] | None = None, health: Health | None = None
    ) -> None:
        """`metrics` writes Prometheus' text format; `health` says more than that the node answers."""
        self._answering = answering
        self._metrics = metrics
        self._health = health
        self._since = int(time.time())

    async def models(self, exchange: Exchange) -> None:
        served = (await self._answering.list_models(exchange.seconds)).models
        await exchange.answer(200, _json({"object": "list", "data": [self._entry(model) for model in served]}))

    async def model(self, exchange: Exchange) -> None:
        """Raises BadName, ModelNotListed."""
        name = exchange.path_parameter("name")
        full = resolve(name)
        for model in (await self._answering.list_models(exchange.seconds)).models:
            if full in (model.channel, model.revision):
                await exchange.answer(200, _json(self._entry(model) | {"id": name}))
                return
        raise ModelNotListed(f"{full} is not served by this node", hint="GET /v1/models lists what is")

    async def health(self, exchange: Exchange) -> None:
        """200 when the node behind this gateway answers, 503 and why when it should not be asked. Raises as it does."""
        if self._health is not None:
            body = self._health()
            await exchange.answer(200 if body["status"] == "ok" else 503, _json(body))
            return
        await self._answering.list_models(exchange.seconds)
        await exchange.answer(200, _json({"status": "ok"}))

    async def metrics(self, exchange: Exchange) -> None:
        """Raises NoSuchRoute when the node has none."""
        if self._metrics is None:
            raise NoSuchRoute("this node has no metrics here")
        await exchange.answer(200, self._metrics(), {"content-type": _METRICS_TYPE})

    def _entry(self, model: pb.ServedModel) -> dict[str, object]:
        """`created` is when this gateway began; a node does not know when a model was made."""
        facts = {
            "model": model.model,
            "channel": model.channel or None,
            "revision": model.revision,
            "context_tokens": model.context_tokens,
            "adapters": list(model.adapters),
        }
        entry = {"id": shown(model), "object": "model", "created": self._since, "owned_by": "deltaic"}
        return entry | {"deltaic": facts}


def _json(body: dict[str, object]) -> bytes:
    return json.dumps(body).encode()
