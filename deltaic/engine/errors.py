"""Errors of the engine.

InvalidArgument
├── BadRequest            no prompt, both prompt and messages, a parameter out of its range
├── BadAdapter            the file is no LoRA adapter, or one for another model; its name is unusable
├── GrammarInvalid        a grammar that does not parse, is too large, or allows nothing
├── SchemaInvalid         a JSON schema that is none, or that cannot be followed
├── PromptTooLong         the prompt does not leave room for one token of answer
└── TemplateFailed        the model's chat template refuses the conversation or is broken
NotFound
├── NotServed             this host has no worker for the model
└── NoAdapter             the worker has no adapter of that name, or there is no such file
AlreadyExists
└── AdapterNameTaken      another file is loaded under that name
ResourceExhausted
├── QueueFull             too many requests wait for a slot
└── DeadlineTooShort      the answer is not expected to be complete by its deadline
FailedPrecondition
├── NoAdaptersHere        this worker loads no adapters
├── CpuCodeUnusable       the engine's build has no CPU code that runs here, or not the one that was asked for
├── PlacementRefused      the model cannot be placed on the GPUs, or keep its keys and values, as asked
└── WorkerFailed          a worker could not be started: the model file, the settings or the memory are wrong
    └── NotEnoughMemory   it was not started, because what it needs is not there; what runs was left alone
Unavailable
├── WorkerDied            the worker process died while it answered
│   ├── WorkerHung        it stopped decoding and was ended by its supervisor
│   └── WorkerKilledForMemory  the kernel ended it because memory ran out
├── WorkerRestarting      the worker process is being started again, and the caller's time ran out first
└── WorkerStopping        the worker is being stopped or replaced
DeadlineExceeded
└── OutOfTime             the deadline passed before the answer was complete
"""

from deltaic.errors import (
    AlreadyExists,
    DeadlineExceeded,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    Unavailable,
)


class BadRequest(InvalidArgument):
    reason = "BAD_REQUEST"


class BadAdapter(InvalidArgument):
    reason = "BAD_ADAPTER"


class GrammarInvalid(InvalidArgument):
    reason = "GRAMMAR_INVALID"


class SchemaInvalid(InvalidArgument):
    reason = "SCHEMA_INVALID"


class PromptTooLong(InvalidArgument):
    reason = "PROMPT_TOO_LONG"


class TemplateFailed(InvalidArgument):
    reason = "TEMPLATE_FAILED"


class NotServed(NotFound):
    reason = "NOT_SERVED"


class NoAdapter(NotFound):
    reason = "NO_ADAPTER"


class AdapterNameTaken(AlreadyExists):
    reason = "ADAPTER_NAME_TAKEN"


class QueueFull(ResourceExhausted):
    reason = "QUEUE_FULL"


class NoAdaptersHere(FailedPrecondition):
    reason = "NO_ADAPTERS_HERE"


class DeadlineTooShort(ResourceExhausted):
    reason = "DEADLINE_TOO_SHORT"


class WorkerFailed(FailedPrecondition):
    reason = "WORKER_FAILED"


class NotEnoughMemory(WorkerFailed):
    reason = "NOT_ENOUGH_MEMORY"


class CpuCodeUnusable(FailedPrecondition):
    reason = "CPU_CODE_UNUSABLE"


class PlacementRefused(FailedPrecondition):
    reason = "PLACEMENT_REFUSED"


class WorkerDied(Unavailable):
    reason = "WORKER_DIED"


class WorkerHung(WorkerDied):
    reason = "WORKER_HUNG"


class WorkerKilledForMemory(WorkerDied):
    reason = "WORKER_KILLED_FOR_MEMORY"


class WorkerRestarting(Unavailable):
    reason = "WORKER_RESTARTING"


class WorkerStopping(Unavailable):
    reason = "WORKER_STOPPING"


class OutOfTime(DeadlineExceeded):
    reason = "DEADLINE_EXCEEDED"
