"""`deltaic inspect`: what is in a delta, tensor by tensor and codec by codec, or in a GGUF file."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.plain.delta_view import CodecShare, SegmentChange, codec_shares, segment_changes
from cli.plain.files import at_work, given_file, output_file, percent
from cli.plain.heat_map import draw, heat_map
from cli.screen import JsonOption, print_json
from cli.tables import print_line, print_rows
from deltaic.errors import InvalidArgument
from deltaic.weights.errors import BadDelta
from deltaic.weights.layout import Layout, LayoutSegment

if TYPE_CHECKING:
    from deltaic.weights.delta.index import DeltaIndex

_DELTA, _GGUF = b"DLTI", b"GGUF"
_NUMBERS = ("bytes", "changed", "delta bytes", "of it", "chunks", "makes bytes", "tensors", "share")


def register(app: typer.Typer) -> None:
    app.command("inspect", rich_help_panel="Files")(inspect)


def inspect(
    file: Annotated[Path, typer.Argument(help="A delta, or a GGUF file.")],
    picture: Annotated[
        Path | None,
        typer.Option("--picture", help="Draw the change of each tensor, layer by layer, into FILE.svg or FILE.png."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show what a delta changes, tensor by tensor and codec by codec; of a GGUF file, its tensors.

    "changed" is the share of bytes that are not as they were;
    "of it" is what the delta takes of the tensor's bytes.

    Example: [bold]deltaic inspect v1-v2.delta --picture v1-v2.svg[/bold]
    """
    given_file(file, "a delta or a GGUF file")
    with file.open("rb") as opened:
        magic = opened.read(4)
    if magic == _DELTA:
        _inspect_delta(file, picture, as_json)
    elif magic == _GGUF:
        if picture:
            raise InvalidArgument("only a delta has a picture", hint="leave --picture out for a GGUF file")
        _inspect_model(file, as_json)
    else:
        raise InvalidArgument(f"{file} is neither a delta nor a GGUF file", hint="name what deltaic diff has written")


def _inspect_delta(file: Path, picture: Path | None, as_json: bool) -> None:
    from deltaic.weights.delta.patch import read_index  # numpy: only where it is needed

    index = read_index(file)
    if (size := file.stat().st_size) != index.size:
        raise BadDelta(f"{file} has {size:,} bytes and should have {index.size:,}", hint="copy the delta again")
    changes, shares = segment_changes(index), codec_shares(index)
    if picture:
        target = output_file(picture, file)
        with at_work(target.parent):
            draw(heat_map(changes, _title(index)), target)
    if as_json:
        print_json(_as_json(index, changes, shares))
    else:
        _print_delta(index, changes, shares)
        if picture:
            print_line(f"picture: {picture}")


def _title(index: "DeltaIndex") -> str:
    source, target = index.source.hex[:12], index.target.hex[:12]
    return f"{source} to {target}: {index.size:,} bytes, {percent(index.size, index.target.size)}"


def _as_json(index: "DeltaIndex", changes: list[SegmentChange], shares: list[CodecShare]) -> dict[str, object]:
    return {
        "kind": "delta",
        "digest": str(index.digest),
        "source": str(index.source),
        "source_bytes": index.source.size,
        "target": str(index.target),
        "target_bytes": index.target.size,
        "delta_bytes": index.size,
        "index_bytes": len(index.data),
        "packs": len(index.packs),
        "segments": [asdict(change) for change in changes],
        "codecs": [asdict(share) for share in shares],
    }


def _print_delta(index: "DeltaIndex", changes: list[SegmentChange], shares: list[CodecShare]) -> None:
    columns = ("name", "type", "from", "bytes", "changed", "delta bytes", "of it", "codecs")
    rows = (
        (
            change.name or f"({change.kind})",
            change.type,
            change.source_type,
            f"{change.bytes:,}",
            _share(change.changed_percent),
            f"{change.delta_bytes:,}",
            _share(change.delta_percent),
            ", ".join(change.codecs),
        )
        for change in changes
    )
    print_rows(columns, rows, below=[columns[1:]], right=_NUMBERS)
    print_line("")
    by_codec = (
        (share.codec, f"{share.chunks:,}", f"{share.target_bytes:,}", f"{share.delta_bytes:,}") for share in shares
    )
    print_rows(("codec", "chunks", "makes bytes", "delta bytes"), by_codec, right=_NUMBERS)
    print_line("")
    print_line(f"from {index.source} ({index.source.size:,} bytes)")
    print_line(f"to   {index.target} ({index.target.size:,} bytes)")
    whole = percent(index.size, index.target.size)
    print_line(f"{index.size:,} bytes in all, {whole} of the target; {len(index.data):,} of them are the index", "bold")


def _share(value: float) -> str:
    return percent(round(value * 10_000), 1_000_000)


def _inspect_model(file: Path, as_json: bool) -> None:
    from deltaic.weights.gguf_layout import read_layout  # numpy and gguf: only where they are needed

    layout = read_layout(file)
    if as_json:
        segments = [_segment_json(segment) for segment in layout.segments]
        head = {"kind": "gguf", "architecture": layout.architecture, "bytes": layout.size}
        print_json(head | {"segments": segments})
        return
    columns = ("name", "type", "shape", "bytes", "offset")
    rows = (
        (
            segment.name or f"({segment.kind})",
            segment.ggml_type or str(segment.kind),
            " × ".join(map(str, segment.shape)),
            f"{segment.length:,}",
            f"{segment.offset:,}",
        )
        for segment in layout.segments
    )
    print_rows(columns, rows, below=[columns[1:]], right=("bytes", "offset"))
    print_line("")
    print_rows(("type", "tensors", "bytes", "share"), _type_rows(layout), right=_NUMBERS)
    print_line("")
    print_line(f"{layout.architecture}, {layout.size:,} bytes", "bold")


def _segment_json(segment: LayoutSegment) -> dict[str, object]:
    return asdict(segment) | {"kind": str(segment.kind), "shape": list(segment.shape)}


def _type_rows(layout: Layout) -> Iterator[tuple[str, str, str, str]]:
    sizes: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    for segment in layout.segments:
        sizes[segment.ggml_type or str(segment.kind)] += segment.length
        counts[segment.ggml_type or str(segment.kind)] += 1
    for name, size in sizes.most_common():
        yield name, f"{counts[name]:,}", f"{size:,}", percent(size, layout.size)
