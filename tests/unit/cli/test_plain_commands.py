"""The plain tools as commands: files in, files out, and one clear line for each mistake."""

import json
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from cli import __main__ as command

CHANGED = "blk.0.attn_q.weight"


@dataclass(frozen=True)
class Ended:
    """A command that has run: its exit status and what it said."""

    returncode: int
    stdout: str
    stderr: str


Deltaic = Callable[..., Ended]


@pytest.fixture
def deltaic(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Deltaic:
    """Run the command in this process."""
    monkeypatch.setattr(command, "configure_logs", lambda *_, **__: None)
    monkeypatch.setenv("COLUMNS", "80")

    def run(*arguments: str) -> Ended:
        monkeypatch.setattr("sys.argv", ["deltaic", *arguments])
        with pytest.raises(SystemExit) as left:
            command.main()
        said = capsys.readouterr()
        return Ended(int(left.value.code or 0), said.out, said.err)

    return run


def one_line(ended: Ended) -> str:
    """What a user sees for a mistake."""
    assert ended.returncode == 1, ended
    assert ended.stderr.startswith("deltaic: ")
    assert ended.stderr.count("\n") == 1
    assert "internal error" not in ended.stderr
    return ended.stderr


@pytest.fixture
def versions(tiny_gguf, tmp_path: Path) -> tuple[Path, Path]:
    """Two versions of a model in one folder."""
    old = tiny_gguf("old.gguf", folder=tmp_path)
    return old, tiny_gguf("new.gguf", folder=tmp_path, changed=(CHANGED,))


@pytest.fixture
def delta(deltaic: Deltaic, versions: tuple[Path, Path], tmp_path: Path) -> Path:
    assert deltaic("diff", *map(str, versions), "-o", str(tmp_path / "d.delta"), "-j", "1").returncode == 0
    return tmp_path / "d.delta"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_delta_brings_one_file_to_the_other(deltaic: Deltaic, versions: tuple[Path, Path], tmp_path: Path) -> None:
    old, new = versions
    made = json.loads(deltaic("diff", str(old), str(new), "--json", "-j", "1").stdout)
    assert Path(made["delta"]) == tmp_path / "new.delta", "beside B, and named after it"
    assert made["delta_bytes"] == (tmp_path / "new.delta").stat().st_size
    assert made["percent"] == pytest.approx(100 * made["delta_bytes"] / new.stat().st_size, abs=0.001)
    patched = deltaic("patch", str(old), made["delta"], "-o", str(tmp_path / "again.gguf"))
    assert patched.returncode == 0
    assert f"verified: {made['target']}" in patched.stdout
    assert (tmp_path / "again.gguf").read_bytes() == new.read_bytes()
    assert names(tmp_path) == ["again.gguf", "new.delta", "new.gguf", "old.gguf"]
    shown = deltaic("diff", str(old), str(new), "--jobs", "1")
    assert f"{made['delta_bytes']:,} bytes, " in shown.stdout
    assert (shown.stderr, patched.stderr) == ("", ""), "no bars in a pipe"


def test_diff_overwrites_no_input_and_nothing_that_is_no_delta(
    deltaic: Deltaic, versions: tuple[Path, Path], tmp_path: Path
) -> None:
    old, new = map(str, versions)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    for output in (old, new):
        assert "is an input and would be lost" in one_line(deltaic("diff", old, new, "-o", output))
    (tmp_path / "letter.txt").write_text("dear")
    assert "is no delta" in one_line(deltaic("diff", old, new, "-o", str(tmp_path / "letter.txt")))
    assert "no folder" in one_line(deltaic("diff", old, new, "-o", str(tmp_path / "none" / "d.delta")))
    assert "no file at" in one_line(deltaic("diff", old, str(tmp_path / "none.gguf")))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before | {"letter.txt": b"dear"}


def test_diff_of_what_is_no_model_is_one_line(deltaic: Deltaic, versions: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no model at all, but long enough to hold a header of some kind")
    assert "GGUF" in one_line(deltaic("diff", str(versions[0]), str(tmp_path / "notes.txt")))
    assert names(tmp_path) == ["new.gguf", "notes.txt", "old.gguf"]


def test_a_delta_on_the_wrong_file_is_said_to_be_just_that(
    deltaic: Deltaic, versions: tuple[Path, Path], delta: Path, tiny_gguf, tmp_path: Path
) -> None:
    target = tmp_path / "kept.gguf"
    target.write_text("what was there")
    other = tiny_gguf("other.gguf", folder=tmp_path, seed=5)
    before = names(tmp_path)
    line = one_line(deltaic("patch", str(other), str(delta), "-o", str(target)))
    assert "other.gguf is not the file that this delta is from; apply it to the file with sha256:" in line
    other.write_bytes(other.read_bytes() + b"?")
    assert "this delta is from a file of" in one_line(deltaic("patch", str(other), str(delta), "-o", str(target)))
    assert names(tmp_path) == before
    assert target.read_text() == "what was there"


def test_a_damaged_delta_makes_nothing(
    deltaic: Deltaic, versions: tuple[Path, Path], delta: Path, tmp_path: Path
) -> None:
    old, _ = versions
    good = delta.read_bytes()
    before = names(tmp_path)
    for bad, says in (
        (b"", "not a delta"),
        (b"no delta at all, but long enough", "not a delta"),
        (good[:-1], "payload"),
        (good[:100], "cut"),
        (good[:4] + b"\x09" + good[5:], "format version 9"),
    ):
        delta.write_bytes(bad)
        line = one_line(deltaic("patch", str(old), str(delta), "-o", str(tmp_path / "out.gguf")))
        assert says in line
        assert "internal error" not in line
        assert names(tmp_path) == before


@pytest.mark.parametrize("place", [0.1, 0.3, 0.5, 0.7, 0.9, 0.999])
def test_a_delta_with_a_flipped_bit_ends_in_an_error_or_in_the_right_file(
    deltaic: Deltaic, versions: tuple[Path, Path], delta: Path, tmp_path: Path, place: float
) -> None:
    old, new = versions
    data = bytearray(delta.read_bytes())
    data[int(place * len(data))] ^= 0x10
    delta.write_bytes(data)
    before = names(tmp_path)
    ended = deltaic("patch", str(old), str(delta), "-o", str(tmp_path / "out.gguf"))
    if ended.returncode == 0:  # the bit did not matter, for example in what only people read
        assert (tmp_path / "out.gguf").read_bytes() == new.read_bytes()
    else:
        assert one_line(ended)
        assert names(tmp_path) == before


def test_patch_overwrites_no_input(deltaic: Deltaic, versions: tuple[Path, Path], delta: Path) -> None:
    old, _ = versions
    for output in (old, delta):
        line = one_line(deltaic("patch", str(old), str(delta), "-o", str(output)))
        assert "is an input and would be lost" in line


def test_inspect_shows_every_tensor_whole_in_a_pipe(deltaic: Deltaic, delta: Path, tmp_path: Path) -> None:
    picture = tmp_path / "p.svg"
    shown = deltaic("inspect", str(delta), "--picture", str(picture)).stdout.splitlines()
    assert shown[0].split() == ["name", "type", "from", "bytes", "changed", "delta", "bytes", "of", "it", "codecs"]
    (row,) = [line for line in shown if line.startswith(CHANGED)]
    assert row.split()[1] == "Q4_1"
    ends = {len(line) for line in shown[1:] if line.endswith("reuse")}
    assert len(ends) == 1, "columns stand under each other"
    assert any(line.startswith("codec ") for line in shown)
    assert f"{delta.stat().st_size:,} bytes in all" in shown[-2]
    assert shown[-1] == f"picture: {picture}"
    assert CHANGED in picture.read_text()
    said = json.loads(deltaic("inspect", str(delta), "--json").stdout)
    assert said["delta_bytes"] == delta.stat().st_size
    assert {one["name"] for one in said["segments"] if one["delta_bytes"]} >= {CHANGED}


def test_inspect_shows_the_tensors_of_a_model(deltaic: Deltaic, versions: tuple[Path, Path]) -> None:
    shown = deltaic("inspect", str(versions[0])).stdout
    assert "blk.0.attn_q.weight" in shown
    assert "32 × 16" in " ".join(shown.split()) or "× 16" in shown
    assert f"llama, {versions[0].stat().st_size:,} bytes" in shown
    said = json.loads(deltaic("inspect", str(versions[0]), "--json").stdout)
    assert sum(one["length"] for one in said["segments"]) == said["bytes"] == versions[0].stat().st_size
    assert "only a delta has a picture" in one_line(deltaic("inspect", str(versions[0]), "--picture", "p.svg"))


def test_inspect_refuses_what_it_does_not_know(deltaic: Deltaic, delta: Path, tmp_path: Path) -> None:
    assert "neither a delta nor a GGUF file" in one_line(deltaic("inspect", __file__))
    assert "FILE.svg or FILE.png" in one_line(deltaic("inspect", str(delta), "--picture", str(tmp_path / "p.jpg")))
    assert "would be lost" in one_line(deltaic("inspect", str(delta), "--picture", str(delta)))
    delta.write_bytes(delta.read_bytes()[:-1])
    assert "copy the delta again" in one_line(deltaic("inspect", str(delta)))


@pytest.mark.parametrize("how", [("tensor",), ("layer",), ("size", "--size", "3kB")])
def test_pieces_pass_sha256sum_and_make_the_file_again(
    deltaic: Deltaic, how: tuple[str, ...], versions: tuple[Path, Path], tmp_path: Path
) -> None:
    old, _ = versions
    made = json.loads(deltaic("split", str(old), "--by", *how, "--json").stdout)
    folder = tmp_path / "old.gguf.pieces"
    assert Path(made["folder"]) == folder
    subprocess.run(["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"], cwd=folder, check=True)
    assert deltaic("split", str(old), "--by", *how).stdout.count("were there already") == 1
    again = tmp_path / "again.gguf"
    joined = deltaic("join", str(folder), "-o", str(again))
    assert f"verified: {made['digest']}" in joined.stdout
    assert again.read_bytes() == old.read_bytes()
    assert json.loads(deltaic("join", str(folder), "-o", str(again), "--json").stdout)["written_bytes"] == 0


def test_join_names_what_is_missing_and_what_to_do(
    deltaic: Deltaic, versions: tuple[Path, Path], tmp_path: Path
) -> None:
    folder, target = tmp_path / "pieces", str(tmp_path / "again.gguf")
    assert deltaic("split", str(versions[0]), "--by", "tensor", "-o", str(folder)).returncode == 0
    piece = next(folder.glob("*attn_q*"))
    saved = piece.read_bytes()
    piece.unlink()
    line = one_line(deltaic("join", str(folder), "-o", target))
    assert f"{piece.name} is missing; copy these pieces again and run join again" in line
    piece.write_bytes(saved)
    assert json.loads(deltaic("join", str(folder), "-o", target, "--json").stdout)["written_bytes"] == len(saved)


def test_hostile_pieces_write_nothing_elsewhere(deltaic: Deltaic, versions: tuple[Path, Path], tmp_path: Path) -> None:
    folder = tmp_path / "in" / "pieces"
    assert deltaic("split", str(versions[0]), "--by", "layer", "-o", str(folder)).returncode == 0
    index = json.loads((folder / "pieces.json").read_bytes())
    for change in ({"file": "../../escaped.gguf"}, {"pieces": [{**index["pieces"][0], "name": "../x.piece"}]}):
        (folder / "pieces.json").write_text(json.dumps(index | change))
        line = one_line(deltaic("join", str(folder)))
        assert "not a plain file name" in line or "not a name of a piece" in line
    assert not (tmp_path / "escaped.gguf").exists()


def test_mistakes_with_split_are_one_line(deltaic: Deltaic, versions: tuple[Path, Path], tmp_path: Path) -> None:
    old = str(versions[0])
    assert "--by size" in one_line(deltaic("split", __file__, "--by", "layer", "-o", str(tmp_path / "p")))
    assert "like 500MB or 1GiB" in one_line(deltaic("split", old, "--by", "size", "--size", "much"))
    assert "choose larger pieces" in one_line(deltaic("split", old, "--by", "size", "--size", "0"))
    assert "choose an empty folder" in one_line(deltaic("split", old, "--by", "layer", "-o", str(tmp_path)))
    assert "is a file" in one_line(deltaic("split", old, "--by", "layer", "-o", old))
    assert "no folder at" in one_line(deltaic("join", str(tmp_path / "none")))
    assert "that deltaic split has made" in one_line(deltaic("join", str(tmp_path)))
    assert deltaic("split", old, "--by", "colour").returncode == 2


@pytest.mark.parametrize("command", ["diff", "patch", "inspect", "split", "join", "verify"])
def test_help_teaches_with_an_example(deltaic: Deltaic, command: str) -> None:
    shown = deltaic(command, "--help").stdout
    assert f"Example: deltaic {command} " in shown
    assert max(len(line) for line in shown.splitlines()) <= 80
