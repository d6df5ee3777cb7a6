"""What the plain tools share: files that a person names, and a disk's errors in our words."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import typer

from cli.texts import checked
from deltaic.errors import DeltaicError, InvalidArgument
from deltaic.store.disk import FULL_ERRNOS
from deltaic.store.errors import DiskFailed, DiskFull


def given_file(path: Path, what: str) -> Path:
    """The path, if a regular file is there. Raises InvalidArgument."""
    checked(str(path), "the name of the file")
    if not path.exists():
        raise InvalidArgument(f"no file at {path}", hint=f"name {what}")
    if not path.is_file():
        raise InvalidArgument(f"{path} is not a regular file", hint=f"name {what}")
    return path


def output_file(path: Path, *inputs: Path) -> Path:
    """The path to write to, if its folder is there and it is none of the inputs. Raises InvalidArgument."""
    checked(str(path), "the name of the output")
    if path.is_dir():
        raise InvalidArgument(f"{path} is a folder", hint="name a file with -o")
    if path.exists() and not path.is_file():
        raise InvalidArgument(f"{path} is not a regular file", hint="choose another name with -o")
    if not path.parent.is_dir():
        raise InvalidArgument(f"no folder {path.parent}", hint="make it first, or choose another place with -o")
    for given in inputs:
        if path.exists() and path.samefile(given):
            raise InvalidArgument(f"{path} is an input and would be lost", hint="choose another name with -o")
    return path


@contextmanager
def at_work(folder: Path, after_interrupt: str = "nothing was left behind") -> Iterator[None]:
    """Ctrl-C ends the command with 130 and a word; a disk that fails or is full is said in our words.

    Raises DiskFull, DiskFailed; an error that names its file passes as it is.
    """
    try:
        yield
    except KeyboardInterrupt:
        print(f"interrupted; {after_interrupt}", file=sys.stderr)
        raise typer.Exit(130) from None
    except DeltaicError:  # some of ours are OSErrors too, and say more
        raise
    except OSError as error:
        if error.errno in FULL_ERRNOS:
            raise DiskFull(f"no room in {folder}", hint="free space there and run it again") from None
        if error.filename is None:
            raise DiskFailed(
                f"cannot work in {folder}: {error.strerror or error}", hint="check the disk and who owns the folder"
            ) from None
        raise


def percent(part: int, whole: int) -> str:
    """A share for people: 3.25 %, and never 0.00 % for something."""
    share = 100 * part / whole if whole else 0.0
    return "<0.01 %" if 0 < share < 0.01 else f"{share:.2f} %"
