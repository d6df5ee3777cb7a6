"""Settings of a device: flags, DELTAIC_DEVICE_ variables, a TOML file."""

import ipaddress
from pathlib import Path
from typing import Literal

import phonenumbers
from pydantic import Field, field_validator
from pydantic_settings import SettingsConfigDict

from deltaic.engine.settings import EngineSettings
from deltaic.gateway.settings import MOST_BODY_BYTES, BodyBytes, HttpAddress
from deltaic.names import ChannelName
from deltaic.runtime.addresses import ListenAddress, NodeAddress
from deltaic.runtime.setting_words import Words
from deltaic.runtime.settings import NodeSettings, default_data_dir
from deltaic.transfer.fetch import MOST_STREAMS
from deltaic.transfer.settings import FetchRate, FetchStreams, Peers
from device.detectors import MOST_CHARACTERS, PHONE_REGIONS
from device.egress import Policy
from device.errors import ListensToNetwork


class DeviceSettings(NodeSettings):
    """Answer on this machine, with models that are kept current from an edge; let out only what is public."""

    model_config = SettingsConfigDict(env_prefix="DELTAIC_DEVICE_")

    listen: ListenAddress = Field(
        "127.0.0.1:7420", description="Where applications of this machine call: HOST:PORT or unix:/PATH."
    )
    allow_remote: bool = Field(
        False,
        description="Listen on an address that other machines reach; their prompts then cross the network in clear.",
    )
    http: HttpAddress = Field(
        "",
        description="Where this device speaks HTTP as OpenAI's API does, like 127.0.0.1:8080 or unix:/PATH; empty is "
        "nowhere.",
    )
    http_body_bytes: BodyBytes = Field(MOST_BODY_BYTES, description="Most bytes of one HTTP request, like 8MiB.")
    data_dir: Path = Field(
        default_factory=lambda: default_data_dir("device"),
        description="Folder of the models and of the decision log; one device at a time uses it.",
    )
    upstream: NodeAddress = Field(
        "127.0.0.1:7410", description="The edge (or center) that models come from: HOST:PORT."
    )
    channels: Words = Field(
        default_factory=list,
        description="Channels to follow, MODEL/CHANNEL, comma-separated or repeated; the device answers with their "
        "models.",
    )
    peers: Peers = Field(
        default_factory=list,
        description="More edges, HOST:PORT, comma-separated or repeated, that model files may also come from; no "
        "request goes to them.",
    )
    fetch_rate: FetchRate = Field(
        "",
        description="Most bytes a second that this node fetches, like 2MiB, or by local time of day: "
        "08:00-18:00=2MiB,18:00-08:00=unlimited. Empty is without limit.",
    )
    fetch_streams: FetchStreams = Field(
        MOST_STREAMS, description="Most streams of one fetch; fewer are open where more bring nothing. 4 MiB each."
    )
    prefer: Literal["device", "edge"] = Field(
        "device", description="Who answers a public request when both can. Other requests never leave."
    )
    patience: float = Field(
        10.0, gt=0, description="Seconds until the edge must begin to answer before the device answers itself."
    )
    offline_only: bool = Field(False, description="Send no request away, public ones included; models still come in.")
    phone_regions: Words = Field(
        default_factory=lambda: list(PHONE_REGIONS),
        description="Countries (ISO 3166), comma-separated or repeated, whose national telephone numbers the detectors "
        "know.",
    )
    most_characters: int = Field(
        MOST_CHARACTERS, ge=1, le=1_000_000, description="A public request with more characters is not sent away."
    )
    delta_wait: float = Field(
        300.0,
        ge=0,
        le=3600,
        description="Seconds that an update waits for the edge to make a delta before it fetches chunks.",
    )
    report_seconds: float = Field(5.0, gt=0, description="Seconds between reports to the edge: counts, no content.")
    drain_seconds: float = Field(10.0, ge=0, description="Seconds that running answers have when the device stops.")
    adapters: Path | None = Field(
        None,
        description="Folder of LoRA adapters, MODEL/NAME.gguf, loaded with their models; by default DATA_DIR/adapters.",
    )
    engine: EngineSettings = Field(default_factory=EngineSettings, description="How models answer.")

    @field_validator("channels")
    @classmethod
    def _channels_have_names(cls, channels: list[str]) -> list[str]:
        return list(dict.fromkeys(str(ChannelName.parse(channel)) for channel in channels))

    @field_validator("phone_regions")
    @classmethod
    def _regions_exist(cls, regions: list[str]) -> list[str]:
        for region in regions:
            if region not in phonenumbers.SUPPORTED_REGIONS:
                raise ValueError(f"{region!r} is not a country with telephone numbers; write ISO 3166 codes such as CN")
        return regions

    @property
    def policy(self) -> Policy:
        return Policy(self.offline_only, tuple(self.phone_regions), self.most_characters)

    def check_listen(self) -> None:
        """Raises ListensToNetwork for an address that is not of this machine alone, unless that is allowed."""
        for flag, listen in (("--listen", self.listen), ("--http", self.http), ("--metrics", self.metrics)):
            if listen and not self.allow_remote and not is_local(listen):
                raise ListensToNetwork(
                    f"a device listens on this machine only, and {listen} can be reached from others",
                    hint=f"use {flag} 127.0.0.1:PORT or unix:/PATH, or say --allow-remote true if you mean it",
                )


def is_local(listen: str) -> bool:
    """Whether only programs of this machine reach the address: loopback, or a Unix socket."""
    if listen.startswith(("unix:", "unix-abstract:")):
        return True
    host = listen.rpartition(":")[0].strip("[]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
