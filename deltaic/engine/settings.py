"""What an operator may choose about answering. The same values reach the worker process as flags."""

import os
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ByteSize, ConfigDict, Field, model_validator

_MOST_THREADS = 8

KvType = Literal["f16", "q8_0", "q4_0"]
GpuLayers = Annotated[int, Field(ge=-1, le=10_000)]


class EngineSettings(BaseModel):
    """Settings of every worker that a node starts."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    slots: int = Field(4, ge=1, le=64, description="Requests that one worker answers at the same time.")
    context_tokens: int = Field(
        2048, ge=64, description="Tokens of one request, prompt and answer together; at most what the model knows."
    )
    threads: int = Field(
        0, ge=0, le=256, description="Threads of one worker; 0 takes every core it may run on, at most 8."
    )
    queue: int = Field(64, ge=0, description="Requests that may wait for a slot before further ones are refused.")
    cpu_variant: str = Field(
        "auto",
        pattern=r"^[A-Za-z0-9._-]{1,40}$",
        description="CPU code to compute with, by a name that `deltaic engine info` lists; auto takes the best that "
        "was proven to run here.",
    )
    gpu_layers: Literal["auto"] | GpuLayers = Field(
        "auto",
        description="Layers of the model on GPUs: auto is as many as their free memory holds, -1 is all, 0 is none.",
    )
    split_mode: Literal["auto", "none", "layer", "row"] = Field(
        "auto",
        description="How several GPUs share a model: none is main_gpu alone, layer gives each some layers, row cuts "
        "every layer; auto is one GPU if the model fits it, else layer.",
    )
    main_gpu: int = Field(0, ge=0, description="GPU of split mode none, counted as llama.cpp does.")
    kv_type_k: KvType = Field(
        "f16", description="Type that keys are kept in: q8_0 takes half the memory of f16, q4_0 about a quarter."
    )
    kv_type_v: KvType = Field("f16", description="The same of values; other than f16 it needs flash attention.")
    flash_attention: Literal["auto", "on", "off"] = Field(
        "auto", description="Attention in one pass, with less memory; auto uses it where model and backend can."
    )
    batch_tokens: int = Field(
        512, ge=16, le=8192, description="Most tokens of one decode call; more reads prompts a little faster."
    )
    prefill_chunk: int = Field(
        384,
        ge=1,
        le=8192,
        description="Prompts up to so many tokens are read in one piece beside running answers; longer ones in chunks.",
    )
    gap: float = Field(
        2.2,
        ge=1.1,
        le=100,
        description="How many times longer than usual the time between two tokens may be while a long prompt is read.",
    )
    prefix_bytes: Literal["auto"] | ByteSize = Field(
        "auto",
        description="Bytes of memory for states of prompts and of parked requests, like 1GiB; auto is as many as the "
        "slots take, 0 keeps none.",
    )
    prefix_dir: str = Field(
        "",
        description="Folder where states of prompts wait for a worker that is started again; empty keeps none. They "
        "are readable there: use it on an encrypted disk only.",
    )
    patience: float = Field(
        20.0, gt=0, description="Seconds of waiting after which a request counts as one priority class higher."
    )
    start_timeout: float = Field(60.0, gt=0, description="Seconds for a worker to load its model and decode a token.")
    drain_timeout: float = Field(30.0, ge=0, description="Seconds that running answers have when a worker is replaced.")

    hang_timeout: float = Field(
        30.0,
        gt=0,
        description="Seconds without a step or a sign of life after which a worker is killed and started again; longer "
        "than any step takes.",
    )
    memory_bytes: ByteSize = Field(
        ByteSize(0),
        ge=0,
        description="Bytes of memory for all workers of this node, like 16GiB; 0 is what is available when one starts.",
    )

    @model_validator(mode="after")
    def _values_can_be_read(self) -> Self:
        if self.kv_type_v != "f16" and self.flash_attention == "off":
            raise ValueError(f"kv_type_v {self.kv_type_v} needs flash attention: set it to auto or on, or use f16")
        return self

    def resolved_threads(self) -> int:
        """`threads`, or the cores that this process may run on, at most 8.

        One worker answers at a time on most nodes, and decoding a small model gains nothing from more than 8 threads.
        A node that keeps several models hot sets `threads` itself.
        """
        return self.threads or min(len(os.sched_getaffinity(0)), _MOST_THREADS)

    def flags(self) -> list[str]:
        """These settings as flags of `python -m deltaic.engine.worker`."""
        return [
            part for name, value in self.model_dump().items() for part in (f"--{name.replace('_', '-')}", str(value))
        ]
