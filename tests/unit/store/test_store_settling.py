"""Every set of files that a crash, a disk or a person can leave of one revision, and what a start makes of it."""

import itertools

import pytest

from deltaic.store.model_files import ModelFiles
from deltaic.store.places import RevisionPaths

_STATES = {
    ".gguf": ("absent", "whole", "cut", "grown"),
    ".manifest": ("absent", "whole", "rubbish", "of another revision"),
    ".part": ("absent", "whole", "half"),
    ".manifest.tmp": ("absent", "half"),
}


def _content(state: str, whole: bytes, other: bytes) -> bytes:
    return {
        "whole": whole,
        "cut": whole[: len(whole) // 2],
        "half": whole[: len(whole) // 2],
        "grown": whole + b"more",
        "rubbish": b"\xff" * 100,
        "of another revision": other,
    }[state]


@pytest.mark.parametrize("states", list(itertools.product(*_STATES.values())), ids=", ".join)
def test_every_leftover_has_one_meaning_and_can_be_finished(tmp_path, make_model, states):
    model, other = make_model(), make_model(seed=7)
    for ending, state in zip(_STATES, states, strict=True):
        if state != "absent":
            whole = model.manifest.data if "manifest" in ending else model.content
            (tmp_path / f"{model.hex}{ending}").write_bytes(_content(state, whole, other.manifest.data))
    files = ModelFiles(tmp_path)
    paths = RevisionPaths(tmp_path, model.hex)

    complete = states[:2] == ("whole", "whole")
    assert files.revisions() == ([model.manifest] if complete else [])
    left = {path for path in (paths.model, paths.manifest, paths.part, paths.unfinished_manifest) if path.exists()}
    if complete:
        assert left == {paths.model, paths.manifest}
        return
    assert left == ({paths.part} if states[0] != "absent" or states[2] != "absent" else set())
    with files.stage(model.manifest) as staging:
        if "whole" in (states[0], states[2] if states[0] == "absent" else ""):
            assert staging.missing == []
        model.write_missing(staging)
        assert staging.commit().read_bytes() == model.content
    assert {path.name for path in tmp_path.iterdir()} == {paths.model.name, paths.manifest.name}


def test_settling_twice_changes_nothing(tmp_path, make_model):
    model = make_model()
    paths = RevisionPaths(tmp_path, model.hex)
    paths.model.write_bytes(model.content)
    ModelFiles(tmp_path)
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    ModelFiles(tmp_path)
    assert (
        {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
        == before
        == {paths.part.name: before[paths.part.name]}
    )
