"""Resource names: `models/{model}`, `.../revisions/{revision}`, `.../channels/{channel}`, `.../tags/{tag}`.

A revision is named by the digest of its manifest, a channel and a tag by a word. None is ever accepted for another: a
caller resolves a channel or a tag once and then uses the digest.
"""

import re
from dataclasses import dataclass

from deltaic.errors import BadName

_WORD = r"[a-z0-9](?:[a-z0-9._-]{0,61}[a-z0-9])?"
_MODEL = re.compile(rf"models/({_WORD})")
_CHANNEL = re.compile(rf"models/({_WORD})/channels/({_WORD})")
_TAG = re.compile(rf"models/({_WORD})/tags/({_WORD})")
_DIGITS = re.compile(r"[0-9a-f]{1,64}")
_REVISION = re.compile(rf"models/({_WORD})/revisions/(sha256:[0-9a-f]{{64}})")
_WORDS_ARE = "1 to 63 of a-z, 0-9, '.', '_' and '-', starting and ending with a letter or digit"

DEFAULT_CHANNEL = "stable"


@dataclass(frozen=True, slots=True, order=True)
class ModelName:
    """`models/{model}`."""

    model: str

    @classmethod
    def parse(cls, text: str) -> "ModelName":
        """Accept `models/x` or the bare word `x`. Raises BadName."""
        bare = text if text.startswith("models/") else f"models/{text}"
        if match := _MODEL.fullmatch(bare):
            return cls(match[1])
        raise BadName(f"not a model name: {text!r}", hint=f"write NAME or models/NAME, NAME being {_WORDS_ARE}")

    def __str__(self) -> str:
        return f"models/{self.model}"


@dataclass(frozen=True, slots=True, order=True)
class ChannelName:
    """`models/{model}/channels/{channel}`."""

    model: str
    channel: str

    @classmethod
    def parse(cls, text: str) -> "ChannelName":
        """Accept the full name, or `model/channel` as people type it. Raises BadName."""
        short = text.split("/")
        full = f"models/{short[0]}/channels/{short[1]}" if len(short) == 2 and short[0] != "models" else text
        if match := _CHANNEL.fullmatch(full):
            return cls(match[1], match[2])
        raise BadName(f"not a channel name: {text!r}", hint=f"write MODEL/CHANNEL, each {_WORDS_ARE}")

    @property
    def of_model(self) -> ModelName:
        return ModelName(self.model)

    def __str__(self) -> str:
        return f"models/{self.model}/channels/{self.channel}"


@dataclass(frozen=True, slots=True, order=True)
class TagName:
    """`models/{model}/tags/{tag}`. No tag reads as the start of a digest, which people may type in its place."""

    model: str
    tag: str

    @classmethod
    def parse(cls, text: str) -> "TagName":
        """Accept the full name, or `model/tag` as people type it. Raises BadName."""
        short = text.split("/")
        full = f"models/{short[0]}/tags/{short[1]}" if len(short) == 2 and short[0] != "models" else text
        match = _TAG.fullmatch(full)
        if not match:
            raise BadName(f"not a tag name: {text!r}", hint=f"write MODEL/TAG, each {_WORDS_ARE}")
        if _DIGITS.fullmatch(match[2]):
            raise BadName(
                f"the tag {match[2]!r} reads as the start of a digest",
                hint=f"add a letter after f, a dot or a dash, like v{match[2]}",
            )
        return cls(match[1], match[2])

    @property
    def of_model(self) -> ModelName:
        return ModelName(self.model)

    def __str__(self) -> str:
        return f"models/{self.model}/tags/{self.tag}"


@dataclass(frozen=True, slots=True, order=True)
class RevisionName:
    """`models/{model}/revisions/sha256:{hex}`."""

    model: str
    revision: str

    @classmethod
    def parse(cls, text: str) -> "RevisionName":
        """Raises BadName, with a word of its own when the text is a channel or a tag."""
        if match := _REVISION.fullmatch(text):
            return cls(match[1], match[2])
        if _TAG.fullmatch(text):
            raise BadName(f"a tag is not a revision: {text!r}", hint="resolve the tag first, then use its digest")
        if _CHANNEL.fullmatch(text):
            raise BadName(
                f"a channel is not a revision: {text!r}", hint="resolve the channel first, then use its digest"
            )
        raise BadName(f"not a revision name: {text!r}", hint="write models/NAME/revisions/sha256:HEX")

    @property
    def of_model(self) -> ModelName:
        return ModelName(self.model)

    @property
    def hex(self) -> str:
        """The 64 hexadecimal digits: what files of this revision are called."""
        return self.revision.removeprefix("sha256:")

    def __str__(self) -> str:
        return f"models/{self.model}/revisions/{self.revision}"


def parse_target(text: str) -> ChannelName | RevisionName:
    """What a request means by `model`: a revision, a channel, or a bare model's channel `stable`. Raises BadName.

    `NAME@CHANNEL` and `NAME@sha256:HEX` are short for `models/NAME/channels/CHANNEL` and
    `models/NAME/revisions/sha256:HEX`.
    """
    model, at, which = text.removeprefix("models/").partition("@")
    if at:
        text = f"models/{model}/{'revisions' if which.startswith('sha256:') else 'channels'}/{which}"
    if "/revisions/" in text:
        return RevisionName.parse(text)
    if text.count("/") == 3 or (text.count("/") == 1 and not text.startswith("models/")):
        return ChannelName.parse(text)
    return ChannelName(ModelName.parse(text).model, DEFAULT_CHANNEL)


def parse_asked(text: str) -> ChannelName | RevisionName | TagName:
    """As `parse_target`, for nodes that can resolve a tag too, by its full name. Raises BadName."""
    return TagName.parse(text) if "/tags/" in text else parse_target(text)
