"""Names of models as clients of HTTP write them, and as they are shown to them."""

from deltaic.names import ChannelName, RevisionName, parse_asked, parse_target
from deltaic.v1 import inference_pb2


def resolve(text: str) -> str:
    """The full name of the channel, revision or tag that a client means. Raises BadName.

    `NAME` and `models/NAME` mean the channel `stable`; `NAME@CHANNEL` and `NAME@sha256:HEX` are short for
    `models/NAME/channels/CHANNEL` and `models/NAME/revisions/sha256:HEX`, which are understood too.
    """
    return str(parse_asked(text))


def shown(served: inference_pb2.ServedModel) -> str:
    """The shortest name that `resolve` takes back to what is served."""
    if not served.channel:
        name = RevisionName.parse(served.revision)
        return f"{name.model}@{name.revision}"
    channel = parse_target(served.channel)
    if isinstance(channel, ChannelName) and str(parse_target(channel.model)) != served.channel:
        return f"{channel.model}@{channel.channel}"
    return channel.model
