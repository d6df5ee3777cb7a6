"""A process of its own that decodes greedily with one CPU code: `python cpu_greedy.py MODEL VARIANT [SETTINGS]`."""

import heapq
import json
import sys
from pathlib import Path

from deltaic.engine.scheduling.scheduler import Feed, Step
from deltaic.engine.settings import EngineSettings
from deltaic.engine.worker.context import Context
from deltaic.engine.worker.model import Model
from deltaic.engine.worker.native_log import NativeLog
from deltaic.engine.worker.placing import load_placed
from deltaic.runtime.logs import configure_logs

PROMPT = "1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18"
TOKENS = 12


def main() -> None:
    path, variant, *rest = sys.argv[1:]
    settings = EngineSettings(
        slots=1, context_tokens=256, threads=1, cpu_variant=variant, **json.loads("".join(rest) or "{}")
    )
    configure_logs("warning", json=True)
    log = NativeLog()
    log.install()
    model, context, placed = load_placed(Path(path), settings, log, lambda model: Context(model, settings))
    tokens, gaps = greedy(model, context)
    backend = placed.backend
    print(json.dumps({"cpu": backend.cpu, "features": backend.features, "tokens": tokens, "gaps": gaps}))


def greedy(model: Model, context: Context) -> tuple[list[int], list[float]]:
    """The tokens, and how far the logit of each lies above the next best one."""
    native, fed, position, chosen, gaps = model.native, model.tokenize(PROMPT), 0, [], []
    for _ in range(TOKENS):
        output = context.decode(Step(feeds=(Feed(0, 0, position, fed, sample=True),)))[0]
        logits = native.llama_get_logits_ith(context.pointer, output)
        best, second = heapq.nlargest(2, range(model.vocabulary_size), key=logits.__getitem__)
        chosen.append(best)
        gaps.append(logits[best] - logits[second])
        position, fed = position + len(fed), (best,)
    return chosen, gaps


if __name__ == "__main__":
    main()
