"""Settings of the service, read once from REID_* variables: what an operator may choose, and its limits."""

import json
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from service.errors import BadSettings

MEBIBYTE = 1024 * 1024

DRIVERS = ("sqlite", "sqlite+pysqlite", "postgresql+psycopg")
URL_HINT = "write sqlite:////folder/gallery.sqlite3 or postgresql+psycopg://user:password@host/name"

Days = Annotated[float, Field(gt=0, le=100_000)]


def _from_json(value: object) -> object:
    try:
        return json.loads(value) if isinstance(value, str) else value
    except ValueError:
        raise ValueError('expected JSON, such as {"door": 30}') from None


def _usable_url(url: str) -> str:
    """Let a URL through that names a database we can use; it is not repeated, as it may have a password."""
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        raise ValueError(f"it is no database URL; {URL_HINT}") from None
    if parsed.drivername not in DRIVERS:
        raise ValueError(f"{parsed.drivername} is not supported; {URL_HINT}")
    if parsed.get_backend_name() == "sqlite" and parsed.database in (None, "", ":memory:"):
        raise ValueError(
            "a gallery in memory would be lost; name a file, as sqlite:////folder/gallery.sqlite3"
        )
    return url


def _off(value: object) -> object:
    return None if isinstance(value, str) and value.strip().lower() in ("none", "off") else value


class Settings(BaseSettings):
    """What an operator may choose; every field is the variable REID_<NAME>."""

    model_config = SettingsConfigDict(env_prefix="REID_", env_ignore_empty=True, frozen=True)

    data_dir: Path = Path("data")
    database_url: Annotated[str, AfterValidator(_usable_url)] = Field(
        default_factory=lambda data: f"sqlite:///{data['data_dir'] / 'gallery.sqlite3'}",
        description="SQLAlchemy URL; by default an SQLite file in the data directory.",
    )
    models_dir: Path = Field(
        default_factory=lambda data: data["data_dir"] / "models",
        description="Where checkpoints are kept, named by their version.",
    )
    default_checkpoint: Path | None = Field(
        default=None,
        description="What a new gallery starts with; by default the checkpoint that ships.",
    )
    device: Literal["auto", "cpu", "cuda", "torch-cpu"] = "auto"
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    index: Literal["auto", "exact", "hnsw", "ivf"] = Field(
        default="auto",
        description="How galleries are searched; auto is exact until that takes 20 ms, then ivf.",
    )
    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)
    workers: int = Field(default=1, ge=1, le=64, description="Processes that serve; each has the index.")
    max_upload_bytes: int = Field(default=10 * MEBIBYTE, ge=1, description="Of one image.")
    max_pixels: int = Field(default=40_000_000, ge=1, description="Of one image, by its header.")
    min_side: int = Field(default=16, ge=1, description="Pixels on the shorter side of a crop.")
    max_archive_bytes: int = Field(
        default=4096 * MEBIBYTE, ge=1, description="Of a posted tar or zip, packed and unpacked."
    )
    near_duplicate: Annotated[float | None, BeforeValidator(_off)] = Field(
        default=0.98,
        ge=0,
        le=1,
        description="Cosine from which a new item is nearly the same as one of its camera; none or off.",
    )
    target_fmr: float = Field(
        default=1e-3,
        ge=1e-4,
        le=1e-1,
        description="Share of pairs of different people that may be called a match.",
    )
    max_checkpoint_bytes: int = Field(default=512 * MEBIBYTE, ge=1)
    backfill_share: float = Field(
        default=0.5, gt=0, le=1, description="Of the processor, for embedding the gallery anew."
    )
    keep_versions: int = Field(
        default=2, ge=1, le=100, description="How many versions' embeddings are kept, the active one's too."
    )
    keep_crops: bool = Field(
        default=True, description="Without crops no image is shown, and the network cannot be changed."
    )
    track_gap_s: float = Field(
        default=3_600,
        ge=0,
        le=1e9,
        description="A longer gap between sightings under a camera's track id begins another track.",
    )
    retention_days: Days | None = Field(
        default=None, description="Items that are older are erased; by default none are."
    )
    retention_days_by_camera: Annotated[dict[str, Days], NoDecode, BeforeValidator(_from_json)] = Field(
        default={}, description="The same for single cameras, longer or shorter: a JSON object."
    )

    retention_max_share: float = Field(
        default=0.2,
        ge=0,
        le=1,
        description="Share of the gallery; an expiry of more, if of more than 100 items, waits for a person.",
    )

    @property
    def crops_dir(self) -> Path:
        """Return where the crops' bytes are kept."""
        return self.data_dir / "crops"

    @property
    def snapshots_dir(self) -> Path:
        """Return where snapshots of the index are kept; may be deleted at any time."""
        return self.data_dir / "snapshots"

    @property
    def cache_dir(self) -> Path:
        """Return where compiled networks are kept; may be deleted at any time."""
        return self.data_dir / "cache"


def read_settings() -> Settings:
    """Read the settings from the environment.

    Raises:
        BadSettings: naming every variable that has no usable value, and why.
    """
    try:
        return Settings()
    except ValidationError as error:
        reasons = [
            f"REID_{'_'.join(map(str, e['loc'])).upper()}: {e['msg'].removeprefix('Value error, ')}"
            for e in error.errors()
        ]
        raise BadSettings("; ".join(reasons)) from None
