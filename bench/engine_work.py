"""What the engine bench asks: the same prompts, lengths and seeds for every side.

A question is made of common words in an order of its own, so two prompts share their chat template and nothing else.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from gguf import GGUFReader

PROMPT_TOKENS = (60, 200)
ANSWER_TOKENS = (64, 128)
# A chat template with its usual system prompt, and the sentence before the words.
_AROUND_TOKENS = 40
_ENDS = frozenset(
    ("</s>", "<|im_end|>", "<|endoftext|>", "<|end_of_text|>", "<|eot_id|>", "<|eom_id|>", "<|end|>", "<end_of_turn>")
)
_COMMON = """
time year people way day man thing woman life child world school state family student group country problem
hand part place case week company system program question work government number night point home water room
mother area money story fact month lot right study book eye job word business issue side kind head house
service friend father power hour game line end member law car city community name president team minute idea
body information back parent face others level office door health person art war history party result change
morning reason research girl guy moment air teacher force education foot boy age policy music market sense
nation plan college interest death experience effect use class control field development role effort rate
heart drug show leader light voice wife police mind price report decision son view relationship town road
arm difference value building action season society tax director position player record paper space ground
form event matter center couple site project activity star table need court oil situation cost industry
figure street image phone data picture practice piece land product doctor wall patient worker news test
movie north love step support stage baby computer
"""
"""Each is one token of most vocabularies, with the space before it."""
_WORDS = _COMMON.split()


@dataclass(frozen=True, slots=True)
class Question:
    """One request, whatever carries it."""

    user: str
    max_tokens: int
    seed: int = 0
    temperature: float = 0.8
    system: str = ""
    tenant: str = ""
    forbidden: Sequence[int] = ()
    """Tokens that must not be chosen: the ends of a turn, so that every side answers at the same length."""

    def messages(self) -> list[dict[str, str]]:
        """As OpenAI's clients send them."""
        system = [{"role": "system", "content": self.system}] if self.system else []
        return [*system, {"role": "user", "content": self.user}]


@dataclass(frozen=True, slots=True)
class Work:
    """Makes questions; a stream of them is the same for the same name."""

    temperature: float
    forbidden: Sequence[int]
    prompt_tokens: tuple[int, int] = PROMPT_TOKENS
    answer_tokens: tuple[int, int] = ANSWER_TOKENS

    def stream(self, name: str, *, tenant: str = "") -> Iterator[Question]:
        """Endless questions, usually of 60 to 200 prompt tokens."""
        source = random.Random(name)
        while True:
            words = source.randint(*self.prompt_tokens) - _AROUND_TOKENS
            yield self.question(
                f"{text(source, words)}. Write a long story about these.",
                source.randint(*self.answer_tokens),
                seed=source.getrandbits(31),
                tenant=tenant,
            )

    def all_alike(self, prompt_tokens: int, answer_tokens: int) -> "Work":
        """The same, with questions that are all equally much work."""
        return replace(self, prompt_tokens=(prompt_tokens, prompt_tokens), answer_tokens=(answer_tokens, answer_tokens))

    def question(self, user: str, max_tokens: int, *, seed: int = 1, system: str = "", tenant: str = "") -> Question:
        return Question(user, max_tokens, seed, self.temperature, system, tenant, self.forbidden)


def text(source: random.Random, words: int) -> str:
    """So many words; about as many tokens."""
    return " ".join(source.choices(_WORDS, k=words))


def ends_of_turn(model: Path) -> list[int]:
    """Tokens by which a model ends its answer, as its file names them. Takes seconds: it reads the whole vocabulary."""
    fields = GGUFReader(model).fields
    tokens = fields["tokenizer.ggml.tokens"]
    ends = {
        place for place, part in enumerate(tokens.data) if bytes(tokens.parts[part]).decode("utf-8", "replace") in _ENDS
    }
    for name in ("tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id"):
        if name in fields:
            ends.add(int(fields[name].parts[-1][0]))
    return sorted(ends)
