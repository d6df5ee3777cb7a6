"""What a node serves, in the words of the contract."""

from collections.abc import Iterable

from deltaic.engine.host import Served
from deltaic.names import ChannelName, parse_target
from deltaic.v1 import inference_pb2


def listed(serving: Iterable[Served]) -> inference_pb2.ListModelsResponse:
    """The answer of ListModels, by model and key."""
    served = sorted(serving, key=lambda one: (one.revision.model, one.key))
    return inference_pb2.ListModelsResponse(models=[_shown(one) for one in served])


def _shown(served: Served) -> inference_pb2.ServedModel:
    is_channel = isinstance(parse_target(served.key), ChannelName)
    return inference_pb2.ServedModel(
        model=str(served.revision.of_model),
        channel=served.key if is_channel else "",
        revision=str(served.revision),
        context_tokens=served.context_tokens,
        adapters=served.adapters,
    )
