"""Settings of an edge: flags, DELTAIC_EDGE_ variables, a TOML file."""

import re
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from pydantic import ByteSize, Field, field_validator
from pydantic_settings import SettingsConfigDict

from deltaic.engine.settings import EngineSettings
from deltaic.gateway.settings import MOST_BODY_BYTES, BodyBytes, HttpAddress
from deltaic.names import ChannelName, RevisionName
from deltaic.runtime.addresses import ListenAddress, NodeAddress, check_address
from deltaic.runtime.setting_words import Words
from deltaic.runtime.settings import NodeSettings, default_data_dir
from deltaic.transfer.fetch import MOST_STREAMS
from deltaic.transfer.settings import FetchRate, FetchStreams, Peers
from edge.index.servers import SCHEMES, parsed

_INDEX_SCHEMES = (*SCHEMES, "unix")


class EdgeSettings(NodeSettings):
    """Serve a branch: follow channels, answer from memory, feed the branch's devices, go on without the center."""

    model_config = SettingsConfigDict(env_prefix="DELTAIC_EDGE_")

    listen: ListenAddress = Field(
        "127.0.0.1:7410", description="Address to listen on, HOST:PORT; port 0 takes a free one."
    )
    advertise: str = Field(
        "",
        description="Address, HOST:PORT, where the other edges of the branch reach this one; empty is the address that "
        "it listens on, unless that stands for all.",
    )
    http: HttpAddress = Field(
        "",
        description="Where this edge speaks HTTP as OpenAI's API does, like 127.0.0.1:8080 or unix:/PATH; empty is "
        "nowhere.",
    )
    http_body_bytes: BodyBytes = Field(MOST_BODY_BYTES, description="Most bytes of one HTTP request, like 8MiB.")
    data_dir: Path = Field(
        default_factory=lambda: default_data_dir("edge"),
        description="Folder of the model files that this edge keeps; one edge at a time uses it.",
    )
    center: NodeAddress = Field("127.0.0.1:7400", description="The center that models come from: HOST:PORT.")
    channels: Words = Field(
        default_factory=list,
        description="Channels to follow, MODEL/CHANNEL, comma-separated or repeated; their models stay loaded, others "
        "are asked of the center.",
    )
    peers: Peers = Field(
        default_factory=list,
        description="Other edges, HOST:PORT, comma-separated or repeated: model files may also come from them, and "
        "requests go to them for what they have loaded, with or without an index. One that does not answer costs "
        "nothing.",
    )
    fetch_rate: FetchRate = Field(
        "",
        description="Most bytes a second that this node fetches, like 2MiB, or by local time of day: "
        "08:00-18:00=2MiB,18:00-08:00=unlimited. Empty is without limit.",
    )
    fetch_streams: FetchStreams = Field(
        MOST_STREAMS, description="Most streams of one fetch; fewer are open where more bring nothing. 4 MiB each."
    )
    branch: str = Field("branch", description="Name that the edges of one branch share in their index.")
    index_url: str = Field(
        "",
        description="Redis or Valkey of the branch, like redis://HOST:6379/0, redis+sentinel://HOST:PORT,HOST:PORT/NAME"
        " or redis+cluster://HOST:PORT,HOST:PORT (rediss for TLS, unix:// for a socket); empty starts an embedded "
        "Valkey. It only speeds things up: losing it loses nothing.",
        repr=False,
    )
    index_ca: Path | None = Field(
        None, description="File of certificates (PEM) that the index's TLS is checked against; by default the system's."
    )
    index_secret: str = Field(
        "",
        description="Secret that only the edges of the branch know, 16 characters or more: with it they share answers "
        "and beginnings of prompts in the index, sealed; without it both stay in each edge's own memory.",
        repr=False,
    )
    response_cache: Literal["off", "on"] = Field(
        "off",
        description="Whether an exact repetition of a deterministic request, by the same tenant, is answered with the "
        "answer of before.",
    )
    cache_bytes: ByteSize = Field(
        ByteSize(32 << 20),
        ge=0,
        description="Most bytes of answers kept for repetitions, in this edge's memory, and as many in the index.",
    )
    cache_seconds: float = Field(3600.0, gt=0, le=2_592_000, description="Seconds that such an answer is kept.")
    hot_bytes: ByteSize = Field(
        ByteSize(4 << 30),
        gt=0,
        description="Bytes of memory for loaded models, like 4GiB. Models of followed channels are loaded even beyond "
        "it; of the others, those make room whose absence costs the fewest seconds of loading.",
    )
    hot_vram_bytes: ByteSize = Field(
        ByteSize(0), ge=0, description="Bytes of GPU memory for loaded models; 0 is what is free when the edge starts."
    )
    pin: Words = Field(
        default_factory=list,
        description="Revisions to keep loaded once they are held, models/MODEL/revisions/DIGEST, comma-separated or "
        "repeated; models of followed channels are kept without.",
    )
    hot_residency_seconds: float = Field(
        5.0, ge=0, le=3600, description="Seconds that a loaded model stays at least before another may take its room."
    )
    hot_collate_seconds: float = Field(
        2.0,
        ge=0,
        le=600,
        description="Seconds that a request waits for the room of models that are in use before those take no further "
        "requests; what comes for them then waits its turn.",
    )
    hot_wait_seconds: float = Field(
        30.0, ge=0, le=3600, description="Seconds that a request waits for room in all before it is refused."
    )
    hot_prefetch_seconds: float = Field(
        30.0,
        ge=0,
        le=86_400,
        description="Seconds between looks for a model that is likely to be asked for and fits into free room; 0 loads "
        "none before it is asked for.",
    )
    deltas_bytes: ByteSize = Field(
        ByteSize(4 << 30),
        ge=0,
        description="Bytes of deltas kept in DATA_DIR/deltas for this edge's devices, the ones used longest ago making "
        "room; 0 makes and keeps none.",
    )
    delta_jobs: int = Field(
        1, ge=0, description="Processes that make one delta, at low priority; 0 takes one for each core."
    )
    delta_history: int = Field(
        1,
        ge=0,
        le=100,
        description="When this edge switches, deltas are made from this many of the revisions that it still holds; any "
        "other when a device needs it.",
    )
    delta_wait: float = Field(
        300.0,
        ge=0,
        le=3600,
        description="Seconds that an update waits for the center to make a delta before it fetches chunks.",
    )
    no_escalation: Words = Field(
        default_factory=list,
        description="Tenants, comma-separated or repeated, whose requests are answered in the branch or not at all; "
        "nothing of theirs is passed on to the center.",
    )
    hedge_share: float = Field(
        0.05,
        ge=0,
        le=0.5,
        description="Most requests, as a share of all, that are sent to a second place when the first takes unusually "
        "long to begin; 0 hedges none.",
    )
    request_seconds: float = Field(120.0, gt=0, description="Deadline of a request that comes without one.")
    report_seconds: float = Field(5.0, gt=0, description="Seconds between reports to the center: counts, no content.")
    drain_seconds: float = Field(10.0, ge=0, description="Seconds that running answers have when the edge stops.")
    adapters: Path | None = Field(
        None,
        description="Folder of LoRA adapters, MODEL/NAME.gguf, loaded with their models; by default DATA_DIR/adapters.",
    )
    engine: EngineSettings = Field(default_factory=EngineSettings, description="How models answer.")

    @field_validator("channels")
    @classmethod
    def _channels_have_names(cls, channels: list[str]) -> list[str]:
        return list(dict.fromkeys(str(ChannelName.parse(channel)) for channel in channels))

    @field_validator("pin")
    @classmethod
    def _pins_are_revisions(cls, pins: list[str]) -> list[str]:
        return list(dict.fromkeys(str(RevisionName.parse(pin)) for pin in pins))

    @field_validator("branch")
    @classmethod
    def _branch_is_a_word(cls, branch: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9._-]{1,63}", branch):
            raise ValueError("1 to 63 of letters, digits, '.', '_' and '-'")
        return branch

    @field_validator("index_url")
    @classmethod
    def _index_is_a_redis_server(cls, url: str) -> str:
        scheme = urlsplit(url).scheme
        if url and scheme not in _INDEX_SCHEMES:
            raise ValueError("write redis://HOST:PORT, rediss://HOST:PORT or unix:///PATH, or leave it empty")
        if "+" in scheme:
            parsed(url)
        return url

    @field_validator("index_secret")
    @classmethod
    def _secret_is_long(cls, secret: str) -> str:
        if secret and len(secret) < 16:
            raise ValueError("16 characters or more, like those of `openssl rand -hex 32`, or leave it empty")
        return secret

    @field_validator("advertise")
    @classmethod
    def _advertise_is_an_address(cls, address: str) -> str:
        return check_address(address) if address else address

    @property
    def followed(self) -> tuple[ChannelName, ...]:
        return tuple(ChannelName.parse(channel) for channel in self.channels)

    @property
    def pinned(self) -> tuple[RevisionName, ...]:
        return tuple(RevisionName.parse(pin) for pin in self.pin)
