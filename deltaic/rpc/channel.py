"""Channels to other nodes: retries by rule, keepalive, our interceptors."""

import json

import grpc

from deltaic.rpc.framing import frame_options
from deltaic.rpc.interceptors import client_calls
from deltaic.rpc.keepalive import keepalive_options
from deltaic.v1 import audit_pb2, content_pb2, fleet_pb2, inference_pb2, registry_pb2

MAX_FRAME_BYTES = 1 << 20

_FILES = (audit_pb2, content_pb2, fleet_pb2, inference_pb2, registry_pb2)


def open_channel(target: str, *, node: str) -> grpc.aio.Channel:
    """A channel to `host:port` or `unix:/path`; connecting happens at the first call. `node` names the caller.

    One connection per channel object: nothing is shared between channels of one process.
    """
    return grpc.aio.insecure_channel(
        target,
        options=[
            ("grpc.service_config", _service_config()),
            ("grpc.enable_retries", 1),
            ("grpc.use_local_subchannel_pool", 1),
            *keepalive_options(),
            *frame_options(),
            ("grpc.initial_reconnect_backoff_ms", 200),
            ("grpc.max_reconnect_backoff_ms", 5_000),
            ("grpc.enable_http_proxy", 0),
        ],
        interceptors=client_calls(node),
    )


def _service_config() -> str:
    """gRPC retries UNAVAILABLE of unary methods; streams resume by offset, so they are left alone."""
    unary = [
        {"service": service.full_name, "method": method.name}
        for file in _FILES
        for service in file.DESCRIPTOR.services_by_name.values()
        for method in service.methods
        if not method.client_streaming and not method.server_streaming
    ]
    policy = {
        "maxAttempts": 3,
        "initialBackoff": "0.1s",
        "maxBackoff": "1s",
        "backoffMultiplier": 2,
        "retryableStatusCodes": ["UNAVAILABLE"],
    }
    return json.dumps({"methodConfig": [{"name": unary, "retryPolicy": policy}]})
