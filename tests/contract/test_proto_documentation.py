"""What the contracts promise in words: every RPC says which errors it answers with."""

import re

from deltaic.errors import Code

_CODES = re.compile(r"\b[A-Z]{2,}(?:_[A-Z]+)*\b")


def test_there_are_rpcs_to_check(rpcs):
    assert len(rpcs) >= 19


def test_every_comment_ends_with_the_errors(rpcs):
    without = [rpc.path for rpc in rpcs if not re.search(r"Errors: [^.]*(?:\([^)]*\)[^.]*)*\.$", rpc.comment)]
    assert without == []


def test_the_errors_named_are_canonical_codes_or_said_to_be_none(rpcs):
    for rpc in rpcs:
        errors = re.sub(r"\([^)]*\)", "", rpc.comment.rpartition("Errors:")[2])
        named = _CODES.findall(errors)
        assert named or "none beyond the common ones" in errors, rpc.path
        assert set(named) <= {str(code) for code in Code}, rpc.path


def test_every_comment_starts_with_the_name_of_its_rpc(rpcs):
    assert [rpc.path for rpc in rpcs if not rpc.comment.startswith(f"{rpc.method.name} ")] == []


def test_the_errors_of_writing_methods_name_the_nodes_that_refuse_them(rpcs):
    by_path = {rpc.path: rpc.comment for rpc in rpcs}
    for method in ("ContentService/Write", "RegistryService/PublishRevision", "RegistryService/SetChannel"):
        assert "UNIMPLEMENTED" in by_path[f"/deltaic.v1.{method}"]
