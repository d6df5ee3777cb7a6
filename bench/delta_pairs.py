"""The pairs of files that deltas are measured on: what a node holds, and what it is to have."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from finetunes import FORMATS, VERSIONS, version_path

KINDS = ("light", "strong", "lora", "sparse", "requant")
FLOATS = ("BF16", "F16")

# Held and wanted: the same weights, exactly those of the BF16 file, and once those of the next version.
_ACROSS = (
    ("Q8_0", 1, "Q4_K_M", 1),
    ("BF16", 1, "Q4_K_M", 1),
    ("BF16", 1, "Q8_0", 1),
    ("Q8_0", 1, "Q4_K_M", 2),
)


@dataclass(frozen=True, slots=True)
class Pair:
    """`form` is the format of both, "" where they differ."""

    kind: str
    label: str
    form: str
    old: Path
    new: Path

    @property
    def case(self) -> str:
        return f"{self.kind}, {self.label}"

    @property
    def quantised(self) -> bool:
        return bool(self.form) and self.form not in FLOATS


def trained_kinds(kinds: Sequence[str]) -> list[str]:
    """The fine-tunes that pairs of these kinds are made of."""
    return sorted({"lora" if kind == "requant" else kind for kind in kinds})


def pairs_of(kinds: Sequence[str], formats: Sequence[str], folder: Path) -> Iterator[Pair]:
    """The pairs of these kinds, in these formats; across formats where both are chosen. Floats take longest: last."""
    trained = [kind for kind in kinds if kind != "requant"]
    quantised = [form for form in FORMATS if form in formats and form not in FLOATS]
    floats = [form for form in FLOATS if form in formats]
    yield from (_consecutive(kind, form, folder) for kind in trained for form in quantised)
    if "requant" in kinds:
        yield from _across(formats, folder)
    yield from (_consecutive(kind, form, folder) for form in floats for kind in trained)


def _consecutive(kind: str, form: str, folder: Path) -> Pair:
    return Pair(kind, form, form, *(version_path(folder, kind, number, form) for number in VERSIONS))


def _across(formats: Sequence[str], folder: Path) -> Iterator[Pair]:
    for held, old, wanted, new in _ACROSS:
        if held in formats and wanted in formats:
            label = f"{held} to {wanted}" + (" of the next version" if new != old else "")
            before, after = version_path(folder, "lora", old, held), version_path(folder, "lora", new, wanted)
            yield Pair("requant", label, "", before, after)
