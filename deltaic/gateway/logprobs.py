"""Log probabilities in the two shapes that clients know: that of chats and the older one of completions."""

from collections.abc import Sequence

from deltaic.v1 import inference_pb2 as pb


def chat_logprobs(tokens: Sequence[pb.TokenLogprob]) -> dict[str, object] | None:
    """{"content": [{"token", "logprob", "bytes", "top_logprobs"}]}; None without any."""
    if not tokens:
        return None
    content = [
        {**_entry(token.chosen), "top_logprobs": [_entry(candidate) for candidate in token.top]} for token in tokens
    ]
    return {"content": content, "refusal": None}


def legacy_logprobs(tokens: Sequence[pb.TokenLogprob], offset: int) -> dict[str, object] | None:
    """{"tokens", "token_logprobs", "top_logprobs", "text_offset"}; None without any.

    `offset`: characters of the answer before the first of these tokens.
    """
    if not tokens:
        return None
    texts = [_text(token.chosen) for token in tokens]
    offsets = []
    for text in texts:
        offsets.append(offset)
        offset += len(text)
    return {
        "tokens": texts,
        "token_logprobs": [token.chosen.logprob for token in tokens],
        "top_logprobs": [{_text(candidate): candidate.logprob for candidate in token.top} for token in tokens],
        "text_offset": offsets,
    }


def length_of(tokens: Sequence[pb.TokenLogprob]) -> int:
    """Characters of the tokens, as `legacy_logprobs` counts them."""
    return sum(len(_text(token.chosen)) for token in tokens)


def _entry(candidate: pb.TokenLogprob.Candidate) -> dict[str, object]:
    return {"token": _text(candidate), "logprob": candidate.logprob, "bytes": list(candidate.token)}


def _text(candidate: pb.TokenLogprob.Candidate) -> str:
    """A token may cut a character; its bytes say what it is, its text only looks like it."""
    return candidate.token.decode("utf-8", "replace")
