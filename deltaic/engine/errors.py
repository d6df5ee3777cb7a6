"""Errors of the engine.

InvalidArgument
├── BadRequest            no prompt, both prompt and messages, a parameter out of its range
├── PromptTooLong         the prompt does not leave room for one token of answer
└── TemplateFailed        the model's chat template refuses the conversation or is broken
NotFound
└── NotServed             this host has no worker for the model
ResourceExhausted
└── QueueFull             too many requests wait for a slot
FailedPrecondition
├── WorkerFailed          a worker could not be started: the model file, the settings or the memory are wrong
├── CpuCodeUnusable       the engine's build has no CPU code that runs here, or not the one that was asked for
└── PlacementRefused      the model cannot be placed on the GPUs, or keep its keys and values, as asked
Unavailable
├── WorkerDied            the worker process died while it answered
├── WorkerRestarting      the worker process is being started again, and the caller's time ran out first
└── WorkerStopping        the worker is being stopped or replaced
DeadlineExceeded
└── OutOfTime             the deadline passed before the answer was complete
"""

from deltaic.errors import (
    DeadlineExceeded,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    Unavailable,
)


class BadRequest(InvalidArgument):
    reason = "BAD_REQUEST"


class PromptTooLong(InvalidArgument):
    reason = "PROMPT_TOO_LONG"


class TemplateFailed(InvalidArgument):
    reason = "TEMPLATE_FAILED"


class NotServed(NotFound):
    reason = "NOT_SERVED"


class QueueFull(ResourceExhausted):
    reason = "QUEUE_FULL"


class WorkerFailed(FailedPrecondition):
    reason = "WORKER_FAILED"


class CpuCodeUnusable(FailedPrecondition):
    reason = "CPU_CODE_UNUSABLE"


class PlacementRefused(FailedPrecondition):
    reason = "PLACEMENT_REFUSED"


class WorkerDied(Unavailable):
    reason = "WORKER_DIED"


class WorkerRestarting(Unavailable):
    reason = "WORKER_RESTARTING"


class WorkerStopping(Unavailable):
    reason = "WORKER_STOPPING"


class OutOfTime(DeadlineExceeded):
    reason = "DEADLINE_EXCEEDED"
