"""The contracts as protoc sees them, comments included."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet, MethodDescriptorProto
from grpc_tools import protoc

PROTO = Path(__file__).resolve().parents[2] / "proto"
_SERVICE, _METHOD = 6, 2  # field numbers that make the path of a comment


@dataclass(frozen=True, slots=True)
class Rpc:
    """One RPC: its full name as gRPC calls it, its comment on one line, its descriptor."""

    path: str
    comment: str
    method: MethodDescriptorProto


@pytest.fixture(scope="session")
def proto_files(tmp_path_factory: pytest.TempPathFactory) -> Sequence[FileDescriptorProto]:
    """Every file below proto/, parsed anew, with its comments."""
    out = tmp_path_factory.mktemp("contracts") / "set.binpb"
    sources = [str(path.relative_to(PROTO)) for path in sorted(PROTO.rglob("*.proto"))]
    arguments = ["protoc", f"--proto_path={PROTO}", "--include_source_info", f"--descriptor_set_out={out}", *sources]
    assert protoc.main([arguments[0], _well_known(), *arguments[1:]]) == 0
    return list(FileDescriptorSet.FromString(out.read_bytes()).file)


def _well_known() -> str:
    return f"--proto_path={Path(protoc.__file__).parent / '_proto'}"


@pytest.fixture(scope="session")
def rpcs(proto_files: Sequence[FileDescriptorProto]) -> list[Rpc]:
    return [rpc for file in proto_files for rpc in _rpcs_of(file)]


def _rpcs_of(file: FileDescriptorProto) -> list[Rpc]:
    comments = {tuple(place.path): place.leading_comments for place in file.source_code_info.location}
    return [
        Rpc(
            f"/{file.package}.{service.name}/{method.name}",
            " ".join(comments.get((_SERVICE, s, _METHOD, m), "").split()),
            method,
        )
        for s, service in enumerate(file.service)
        for m, method in enumerate(service.method)
    ]
