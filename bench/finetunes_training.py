"""The ways in which a new version of a model comes about, as real training on the text of Python's standard library.

light    all weights, a small learning rate: one more day of the same
strong   all weights, ten times that
lora     low-rank adapters on attention and MLP matrices, merged in float32 into weights that are bfloat16
sparse   weights that are bfloat16 and steps so small that most of them round away, as in reinforcement learning
"""

import sysconfig
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

_BATCH, _TOKENS = 4, 128
_LORA_RANK, _LORA_SCALE = 16, 2.0
_LORA_PARTS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to train: `rate` is the highest learning rate, `share` how many of the weights may change.

    `published` starts from weights rounded to bfloat16; `adapters` trains these and nothing else.
    """

    rate: float
    published: bool = False
    adapters: bool = False
    share: float = 1.0


RECIPES = {
    "light": Recipe(2e-5),
    "strong": Recipe(2e-4),
    "lora": Recipe(5e-4, published=True, adapters=True),
    "sparse": Recipe(2e-4, published=True, share=0.05),
}


class Adapted(nn.Module):  # type: ignore[misc, unused-ignore]  # torch need not be installed
    """A linear layer plus a low-rank product that begins as zero."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.weight = linear.weight.requires_grad_(False)
        rows, columns = linear.weight.shape
        self.down = nn.Parameter(torch.empty(_LORA_RANK, columns))
        self.up = nn.Parameter(torch.zeros(rows, _LORA_RANK))
        nn.init.kaiming_uniform_(self.down, a=5**0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        low = functional.linear(functional.linear(x, self.down), self.up)
        return functional.linear(x, self.weight) + _LORA_SCALE * low

    def merged(self) -> torch.Tensor:
        return self.weight + _LORA_SCALE * (self.up @ self.down)


class Trainee:
    """A model that is trained in stages, and whose weights can be taken after each."""

    def __init__(self, start: Path, recipe: Recipe) -> None:
        folder, name = str(start.parent), start.name
        self._recipe = recipe
        self._model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32)
        self._texts = _batches(AutoTokenizer.from_pretrained(folder, gguf_file=name))
        self._adapted: dict[str, Adapted] = {}
        self._chosen: list[torch.Tensor] = []
        if recipe.published:
            self._round()
        if recipe.adapters:
            self._adapt()
        self._model.train()

    def train(self, steps: int, say: Say) -> None:
        """A stage: `steps` steps of AdamW with a learning rate that rises and falls."""
        trained = [each for each in self._model.parameters() if each.requires_grad]
        optimiser = torch.optim.AdamW(trained, lr=self._recipe.rate, weight_decay=0.0)
        for step, tokens in enumerate(islice(self._texts, steps)):
            for group in optimiser.param_groups:
                group["lr"] = self._recipe.rate * min(1.0, (step + 1) / 5) * (1 - 0.9 * step / steps)
            loss = self._model(input_ids=tokens, labels=tokens).loss
            loss.backward()
            nn.utils.clip_grad_norm_(trained, 1.0)
            if self._recipe.share < 1:
                self._choose(trained)
            optimiser.step()
            optimiser.zero_grad()
            say(f"step {step + 1} of {steps}: loss {loss.item():.3f}")
        if self._recipe.published and not self._recipe.adapters:
            self._round()

    def weights(self) -> dict[str, torch.Tensor]:
        """The weights as they would be published, adapters merged; by the names of transformers."""
        state = {name: value for name, value in self._model.state_dict().items() if not name.endswith((".up", ".down"))}
        with torch.no_grad():
            return state | {f"{name}.weight": layer.merged() for name, layer in self._adapted.items()}

    def _choose(self, trained: Sequence[nn.Parameter]) -> None:
        """Forget the gradients of all weights but those that had the largest ones in the first step."""
        gradients = [each.grad for each in trained if each.grad is not None]
        if not self._chosen:
            self._chosen = [_largest(each.abs(), self._recipe.share) for each in gradients]
        for each, chosen in zip(gradients, self._chosen, strict=True):
            each.mul_(chosen)

    def _round(self) -> None:
        with torch.no_grad():
            for each in self._model.parameters():
                each.copy_(each.to(torch.bfloat16).float())

    def _adapt(self) -> None:
        self._model.requires_grad_(False)
        for name, module in list(self._model.named_modules()):
            owner, _, part = name.rpartition(".")
            if part in _LORA_PARTS and isinstance(module, nn.Linear):
                self._adapted[name] = Adapted(module)
                setattr(self._model.get_submodule(owner), part, self._adapted[name])


def _largest(values: torch.Tensor, share: float) -> torch.Tensor:
    """Where about this share of the values lies, the largest."""
    some = values.flatten()[:: max(1, values.numel() // 100_000)]
    return values > torch.quantile(some, 1 - share)


def _batches(tokenizer: PreTrainedTokenizerBase) -> Iterator[torch.Tensor]:
    """Token numbers (batch, tokens) of standard library sources, again from the start at the end."""
    files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))[:200]
    text = "\n".join(each.read_text(errors="ignore")[:6000] for each in files)
    numbers: torch.Tensor = tokenizer(text, return_tensors="pt").input_ids[0]
    taken = _BATCH * _TOKENS
    while True:
        for start in range(0, len(numbers) - taken, taken):
            yield numbers[start : start + taken].view(_BATCH, _TOKENS)
