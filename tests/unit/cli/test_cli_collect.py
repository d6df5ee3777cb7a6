"""`deltaic center gc` as a person reads it, and that it never gets in the way of running a center."""

import pytest

from cli import collect, nodes
from cli.collect import fate_rows, main, summary_lines
from deltaic.v1 import registry_pb2

Keeper = registry_pb2.Keeper
DIGEST = "sha256:" + "81" * 32


def fate(*keepers: Keeper, count: int | None = None) -> registry_pb2.RevisionFate:
    revision = registry_pb2.Revision(name=f"models/smollm2/revisions/{DIGEST}", file_bytes=98_362_432)
    return registry_pb2.RevisionFate(
        revision=revision, keepers=keepers, keeper_count=len(keepers) if count is None else count
    )


def test_a_row_says_what_keeps_a_revision() -> None:
    kept = fate(
        Keeper(kind=Keeper.KIND_CHANNEL, name="models/smollm2/channels/stable"),
        Keeper(kind=Keeper.KIND_TAG, name="models/smollm2/tags/v1"),
        Keeper(kind=Keeper.KIND_NODE, name="edge-1"),
        Keeper(kind=Keeper.KIND_NODE, name="edge-2"),
        count=40,
    )
    (row,) = fate_rows([kept], dry_run=False)
    assert row[:3] == ("smollm2", DIGEST, "98,362,432")
    assert row[3] == "channel models/smollm2/channels/stable, tag models/smollm2/tags/v1, node edge-1, 37 more"


@pytest.mark.parametrize(("dry_run", "says"), [(True, "nothing: would be freed"), (False, "nothing: freed")])
def test_a_row_says_that_nothing_keeps_it(dry_run: bool, says: str) -> None:
    assert [row[3] for row in fate_rows([fate()], dry_run=dry_run)] == [says]


def test_the_end_says_what_was_freed_what_stays_and_what_stays_for_now() -> None:
    summary = registry_pb2.CollectSummary(
        freed_revisions=1, freed_blobs=12, freed_bytes=1_000, kept_revisions=2, kept_blobs=30, kept_bytes=5_000
    )
    assert list(summary_lines(summary, dry_run=False)) == [
        "freed 1 revision, 12 blobs of 1000 bytes",
        "kept 2 revisions, 30 blobs of 5000 bytes",
    ]
    summary.recent_blobs, summary.recent_bytes = 1, 7
    planned = list(summary_lines(summary, dry_run=True))
    assert planned[0].startswith("would free 1 revision")
    assert planned[2].startswith("left 1 blob of 7 bytes")


def test_the_arguments_behind_gc_are_its_own(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    asked = []

    async def said(center: str, *, dry_run: bool) -> collect.Collected:
        asked.append((center, dry_run))
        return collect.Collected([fate()], registry_pb2.CollectSummary(freed_revisions=1))

    monkeypatch.setattr(collect, "collect", said)
    assert main(["--dry-run", "--center", "there:1", "--json"]) == 0
    assert asked == [("there:1", True)]
    assert '"freedRevisions": "1"' in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "runs"),
    [
        (["gc", "--dry-run"], ("gc", ["--dry-run"])),
        (["--data-dir", "gc"], ("center", ["--data-dir", "gc"])),
        (["--help"], ("center", ["--help"])),
        ([], ("center", [])),
        (["nope"], ("center", ["nope"])),
    ],
)
def test_only_the_first_word_makes_another_command_of_center(
    monkeypatch: pytest.MonkeyPatch, words: list[str], runs: tuple[str, list[str]]
) -> None:
    import typer

    ran = []
    monkeypatch.setitem(nodes._INSTEAD, ("center", "gc"), lambda argv: ran.append(("gc", list(argv))) or 0)
    monkeypatch.setattr(nodes, "_center", lambda argv: ran.append(("center", list(argv))) or 0)
    app = typer.Typer()
    nodes.register(app)
    command = typer.main.get_command(app)
    assert command.main(["center", *words], standalone_mode=False) == 0
    assert ran == [runs]
