"""What every method has in common: a declared role, pages where there can be many, code that can be imported."""

import importlib

import pytest

from deltaic.trust.roles import METHOD_ROLES

# What a node serves is bounded by its memory, so it is listed whole.
_LISTED_WHOLE = {"/deltaic.v1.InferenceService/ListModels"}


def _lists(rpcs):
    return [rpc for rpc in rpcs if rpc.method.name.startswith("List") and rpc.path not in _LISTED_WHOLE]


def _message(proto_files, full_name):
    return next(
        {field.name: field for field in message.field}
        for file in proto_files
        for message in file.message_type
        if f".{file.package}.{message.name}" == full_name
    )


def test_every_method_declares_its_roles_and_nothing_else_does(rpcs):
    assert set(METHOD_ROLES) == {rpc.path for rpc in rpcs}


def test_no_method_is_declared_for_nobody():
    assert [method for method, roles in METHOD_ROLES.items() if not roles] == []


def test_there_are_lists_to_check(rpcs):
    assert len(_lists(rpcs)) >= 4


def test_every_list_is_asked_for_page_by_page(rpcs, proto_files):
    for rpc in _lists(rpcs):
        request = _message(proto_files, rpc.method.input_type)
        assert {"page_size", "page_token"} <= set(request), rpc.path


def test_every_page_says_where_the_next_one_starts(rpcs, proto_files):
    for rpc in _lists(rpcs):
        answer = _message(proto_files, rpc.method.output_type)
        repeated = [field for field in answer.values() if field.label == field.LABEL_REPEATED]
        assert "next_page_token" in answer, rpc.path
        assert len(repeated) == 1, rpc.path


@pytest.mark.parametrize("subject", ["audit", "content", "fleet", "inference", "registry", "worker"])
def test_the_generated_code_has_what_the_contract_has(subject, proto_files):
    contract = next(file for file in proto_files if file.name == f"deltaic/v1/{subject}.proto")
    messages = importlib.import_module(f"deltaic.v1.{subject}_pb2")
    stubs = importlib.import_module(f"deltaic.v1.{subject}_pb2_grpc")
    for message in contract.message_type:
        fields = {field.name: field.number for field in message.field}
        generated = getattr(messages, message.name).DESCRIPTOR.fields
        assert {field.name: field.number for field in generated} == fields
    for service in contract.service:
        for suffix in ("Stub", "Servicer"):
            assert hasattr(stubs, f"{service.name}{suffix}")


def test_every_contract_has_a_subject_that_is_tested(proto_files):
    subjects = {file.name.removeprefix("deltaic/v1/").removesuffix(".proto") for file in proto_files}
    assert subjects == {"audit", "content", "fleet", "inference", "registry", "worker"}
