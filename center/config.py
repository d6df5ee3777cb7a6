"""Settings of the center."""

from pathlib import Path

from pydantic import ByteSize, Field
from pydantic_settings import SettingsConfigDict

from center.reach import KeepPolicy
from deltaic.engine.settings import EngineSettings
from deltaic.gateway.settings import MOST_BODY_BYTES, BodyBytes, HttpAddress
from deltaic.runtime.addresses import ListenAddress
from deltaic.runtime.settings import NodeSettings, default_data_dir


def _below_xdg_data_home() -> Path:
    return default_data_dir("center")


class CenterSettings(NodeSettings):
    """Keep the library of models: accept revisions, move channels, serve chunks, answer what edges pass on."""

    model_config = SettingsConfigDict(env_prefix="DELTAIC_CENTER_")

    listen: ListenAddress = Field(
        "127.0.0.1:7400", description="Address to listen on, HOST:PORT; port 0 takes a free one."
    )
    http: HttpAddress = Field(
        "",
        description="Where this center speaks HTTP as OpenAI's API does, like 127.0.0.1:8080 or unix:/PATH; empty is "
        "nowhere.",
    )
    http_body_bytes: BodyBytes = Field(MOST_BODY_BYTES, description="Most bytes of one HTTP request, like 8MiB.")
    data_dir: Path = Field(
        default_factory=_below_xdg_data_home,
        description="Folder of everything that this center keeps; one center at a time uses it.",
    )
    chunks: str = Field(
        "",
        description="Where chunks rest: a folder, file:///FOLDER, s3://BUCKET/PREFIX, gs:// or az://; "
        "by default DATA_DIR/chunks.",
    )
    database: str = Field(
        "", description="SQLAlchemy URL of the catalog; by default SQLite in DATA_DIR/center.db.", repr=False
    )
    hot_bytes: ByteSize = Field(
        ByteSize(4 << 30), gt=0, description="Bytes of models kept loaded to answer what edges pass on, like 4GiB."
    )
    cache_bytes: ByteSize = Field(
        ByteSize(16 << 30),
        ge=0,
        description="Bytes of whole model files kept in DATA_DIR/models, made from chunks, beside those in use.",
    )
    keep_previous: int = Field(
        3, ge=0, description="Revisions that each channel named before, kept from collection so that it can roll back."
    )
    lease_days: float = Field(
        30.0, ge=0, description="Days for which a node's last report keeps the revisions that it names from collection."
    )
    upload_hours: float = Field(
        24.0,
        ge=0,
        description="Hours for which collection leaves alone what was sent, asked for or published; longer than any "
        "publish takes.",
    )
    collect_hours: float = Field(
        0.0, ge=0, description="Hours between collections; 0 collects only when asked: deltaic center gc."
    )
    deltas_bytes: ByteSize = Field(
        ByteSize(16 << 30),
        ge=0,
        description="Bytes of deltas kept in DATA_DIR/deltas, the ones used longest ago making room; 0 makes none.",
    )
    delta_jobs: int = Field(
        0, ge=0, description="Processes that make one delta, at low priority; 0 takes one for each core."
    )
    delta_history: int = Field(
        3,
        ge=0,
        le=100,
        description="When a channel moves, deltas are made from this many of the revisions that it named before; any "
        "other when a node needs it.",
    )
    grace: float = Field(5.0, ge=0, description="Seconds that calls have to finish when the center stops.")
    engine: EngineSettings = Field(default_factory=EngineSettings, description="Workers that answer.")

    @property
    def keep_policy(self) -> KeepPolicy:
        hour = 3_600_000_000
        return KeepPolicy(
            previous=self.keep_previous,
            lease_us=int(24 * hour * self.lease_days),
            grace_us=int(hour * self.upload_hours),
        )

    @property
    def chunks_address(self) -> str:
        return self.chunks or str(self.data_dir / "chunks")

    @property
    def database_url(self) -> str:
        return self.database or f"sqlite:///{self.data_dir / 'center.db'}"
