"""Listening to channels: reconnects for ever, says once that the line is down and once that it is back."""

from collections.abc import Callable, Sequence

import grpc
import structlog

from deltaic.errors import Code, DeltaicError
from deltaic.names import ChannelName
from deltaic.rpc.status import from_rpc_error
from deltaic.transfer.backoff import Backoff, Retry
from deltaic.transfer.channel_book import ChannelState
from deltaic.v1 import registry_pb2, registry_pb2_grpc

_log = structlog.get_logger(__name__)

_FIRST_DELAY_SECONDS = 0.2


class ChannelWatch:
    """Passes every state of the channels on to `on_channel`; a state may come more than once."""

    def __init__(
        self,
        upstream: grpc.aio.Channel,
        upstream_name: str,
        channels: Sequence[ChannelName],
        on_channel: Callable[[ChannelState], None],
        *,
        retry: Retry,
        timeout: float = 600.0,
    ) -> None:
        """`timeout` is how long one stream lasts before it is renewed, in seconds."""
        self._stub = registry_pb2_grpc.RegistryServiceStub(upstream)
        self._upstream_name = upstream_name
        self._channels = frozenset(channels)
        self._on_channel = on_channel
        self._retry = retry
        self._timeout = timeout
        self._backoff = Backoff(_FIRST_DELAY_SECONDS, retry.longest_delay, retry.random)
        self._said_down = False
        self.online = False
        """Whether upstream has sent something since the line last failed."""

    async def run(self) -> None:
        """Watch until cancelled."""
        while self._channels:  # no name at all would mean every channel
            try:
                await self._listen()
                self._backoff.reset()
            except grpc.RpcError as failure:
                error = from_rpc_error(failure, self._upstream_name)
                if error.code is not Code.DEADLINE_EXCEEDED:  # else the stream has had its time
                    self._down(error)
                    await self._retry.sleep(self._backoff.next_delay())
                    continue
            await self._retry.sleep(_FIRST_DELAY_SECONDS)

    async def _listen(self) -> None:
        request = registry_pb2.WatchChannelsRequest(names=sorted(str(each) for each in self._channels))
        call = self._stub.WatchChannels(request, timeout=self._timeout)
        try:
            async for response in call:
                self._up()
                self._pass_on(response.channel)
        finally:
            call.cancel()

    def _pass_on(self, message: registry_pb2.Channel) -> None:
        if not message.HasField("revision"):
            return  # it does not exist yet
        try:
            state = ChannelState.from_proto(message)
        except DeltaicError as error:
            _log.error("watch.bad_channel", upstream=self._upstream_name, error=error.message)
            return
        if state.channel in self._channels:
            self._on_channel(state)

    def _up(self) -> None:
        self._backoff.reset()
        if self._said_down:
            _log.info("watch.line_back", upstream=self._upstream_name)
        self.online, self._said_down = True, False

    def _down(self, error: DeltaicError) -> None:
        self.online = False
        if not self._said_down:
            _log.warning("watch.line_down", upstream=self._upstream_name, error=str(error))
        self._said_down = True
