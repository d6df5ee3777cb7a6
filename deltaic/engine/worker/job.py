"""What the executor is asked to do: one checked request, free of protobuf, ready to be scheduled."""

from dataclasses import dataclass

from deltaic.engine.worker.grammar import Grammar
from deltaic.engine.worker.sampling import SamplingParameters
from deltaic.engine.worker.tools import ToolFormat

PRIORITY_LOW, PRIORITY_NORMAL, PRIORITY_HIGH = 1, 2, 3


@dataclass(frozen=True, slots=True)
class Job:
    """What a caller wants. `deadline` is monotonic seconds; infinity is none.

    `budget` is the most tokens to generate for each of `choices` answers; `adapters` are names with their scales.
    `top_logprobs` None reports no probabilities, 0 those of the chosen tokens. `tools` None: the answer is text alone.
    """

    prompt: tuple[int, ...]
    budget: int
    sampling: SamplingParameters
    stops: tuple[str, ...]
    deadline: float
    tenant: str = ""
    priority: int = PRIORITY_NORMAL
    adapters: tuple[tuple[str, float], ...] = ()
    choices: int = 1
    grammar: Grammar | None = None
    top_logprobs: int | None = None
    tools: ToolFormat | None = None
