"""The settings of the service, read once from the environment variables REID_*."""

import os
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from model.files import open_regular
from service.errors import BadSettings
from service.errors.requests import reason_of
from service.setting_types import (
    Days,
    ExpectedStrangers,
    Folder,
    Rate,
    at_least,
    from_commas,
    from_json,
    in_one_form,
    none_if_off,
    plain_hosts,
    plain_networks,
    plain_origins,
    url_of_file,
    usable_url,
    whole_port,
)

MEBIBYTE = 1024 * 1024

SECRETS = ("database_url",)
"""Settings that a file may hold: REID_DATABASE_URL_FILE names the file of REID_DATABASE_URL."""

MAX_SECRET_BYTES = 65_536


class Settings(BaseSettings):
    """The settings of a service. The variable of a field is REID_ and the name of the field in capitals."""

    model_config = SettingsConfigDict(env_prefix="REID_", env_ignore_empty=True, frozen=True)

    data_dir: Folder = Field(
        default=Path("data"), description="Folder of the database, crops, networks, snapshots and cache."
    )
    database_url: Annotated[str, AfterValidator(usable_url)] = Field(
        default_factory=lambda data: url_of_file(data["data_dir"] / "gallery.sqlite3"),
        description="SQLAlchemy URL of the database; by default an SQLite file in the data folder.",
    )
    models_dir: Folder = Field(
        default_factory=lambda data: data["data_dir"] / "models",
        description="Folder of the checkpoints, which are named by their version.",
    )
    default_checkpoint: Folder | None = Field(
        default=None,
        description="Checkpoint of a new gallery; by default the checkpoint that ships with the program.",
    )
    device: Literal["auto", "cpu", "cuda", "torch-cpu"] = Field(
        default="auto",
        description="What runs the network: cpu is OpenVINO, cuda and torch-cpu are torch; "
        "auto takes a GPU if there is one.",
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        default="auto", description="Arithmetic of the network."
    )
    index: Literal["auto", "exact", "hnsw", "ivf"] = Field(
        default="auto",
        description="Kind of index; auto is exact until an exact search takes 20 ms, then ivf.",
    )
    host: str = Field(default="127.0.0.1", description="Address to listen on.")
    allowed_hosts: Annotated[
        tuple[str, ...], NoDecode, BeforeValidator(from_commas), AfterValidator(plain_hosts)
    ] = Field(
        default=(),
        description="Hosts that clients may write, besides REID_HOST and names of this machine, with commas.",
    )
    cors_origins: Annotated[
        tuple[str, ...], NoDecode, BeforeValidator(from_commas), AfterValidator(plain_origins)
    ] = Field(default=(), description="Other origins whose pages may use the API, with commas.")
    allow_open: bool = Field(
        default=False,
        description="Answer everybody who reaches the port as long as the gallery has no key.",
    )
    tls_cert: Folder | None = Field(
        default=None, description="File of the certificate and its chain, in PEM; the service then has TLS."
    )
    tls_key: Folder | None = Field(default=None, description="File of the certificate's private key, in PEM.")
    trusted_proxies: Annotated[
        tuple[str, ...], NoDecode, BeforeValidator(from_commas), AfterValidator(plain_networks)
    ] = Field(
        default=(),
        description="Proxies whose X-Forwarded-For, -Proto and -Prefix hold: addresses, networks or *, "
        "with commas.",
    )
    port: Annotated[int, BeforeValidator(whole_port)] = Field(
        default=8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one."
    )
    drain_s: float = Field(
        default=20,
        ge=0,
        le=3_600,
        description="Seconds after SIGTERM or Ctrl-C from which uploads that are not complete are cut off.",
    )
    log_format: Literal["console", "json"] = Field(
        default="console", description="Form of the log lines; json is one object a line, for programs."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info",
        description="Least severe log lines that are written; debug adds probes and pictures.",
    )
    workers: int = Field(default=1, ge=1, le=64, description="Server processes; each holds the whole index.")
    max_upload_bytes: int = Field(default=10 * MEBIBYTE, ge=1, description="Most bytes of one image.")
    max_pixels: int = Field(default=4_000_000, ge=1, description="Most pixels of one image, by its header.")
    max_decoding_bytes: int = Field(
        default=256 * MEBIBYTE,
        ge=MEBIBYTE,
        description="Most bytes of all images that a process decodes at a time.",
    )
    min_side: int = Field(default=16, ge=1, description="Fewest pixels on the shorter side of a crop.")
    max_archive_bytes: int = Field(
        default=4096 * MEBIBYTE, ge=1, description="Most bytes of a posted tar or zip, packed and unpacked."
    )
    min_free_bytes: int | None = Field(
        default=None,
        ge=0,
        description="Bytes that stay free on each disk; by default 256 MiB, or 5 % of a small disk.",
    )
    max_gallery_bytes: int | None = Field(
        default=None, ge=1, description="Most bytes of crops, networks and database together."
    )
    near_duplicate: Annotated[float | None, BeforeValidator(none_if_off)] = Field(
        default=0.98,
        ge=0,
        le=1,
        description="Cosine from which a new item is a near duplicate of an item of its camera; none or off.",
    )
    target_fmr: float = Field(
        default=1e-3,
        ge=1e-4,
        le=1e-1,
        description="Share of pairs of different people that /verify may call a match.",
    )
    match_strangers: ExpectedStrangers = Field(
        default=0.05,
        description="A search calls a score a match if fewer strangers than this are expected.",
    )
    unsure_strangers: Annotated[ExpectedStrangers, at_least("match_strangers")] = Field(
        default=1.0, description="A search calls a score unsure if fewer strangers than this are expected."
    )
    max_checkpoint_bytes: int = Field(
        default=512 * MEBIBYTE, ge=1, description="Most bytes of a posted checkpoint."
    )
    backfill_share: float = Field(
        default=0.5,
        gt=0,
        le=1,
        description="Share of the processor that a backfill uses to embed the gallery again.",
    )
    keep_versions: int = Field(
        default=2,
        ge=1,
        le=100,
        description="How many model versions keep their embeddings, the active version included.",
    )
    keep_jobs_days: Days = Field(
        default=30, description="How long jobs that have ended are kept, with their failed files."
    )
    max_jobs: int = Field(default=100, ge=1, description="Most imports that may wait at a time.")
    max_jobs_per_key: int = Field(
        default=20, ge=1, description="Most imports of one key that may wait at a time."
    )
    rate_per_address: Rate = Field(
        default=60_000, description="Most requests a minute from one address, to one process; none or off."
    )
    rate_per_key: Rate = Field(
        default=None, description="Most requests a minute with one key, to one process; none or off."
    )
    keep_repaired_days: Days = Field(
        default=30, description="How long embeddings are kept that `reid check --repair` has replaced."
    )
    keep_crops: bool = Field(
        default=True,
        description="Keep crops; without crops no image is shown, and no other network can take over.",
    )
    track_gap_s: float = Field(
        default=3_600,
        ge=0,
        le=1e9,
        description="A longer gap between sightings under a camera's track id begins another track.",
    )
    retention_days: Days | None = Field(
        default=None, description="Age in days from which items are erased; by default no item is erased."
    )
    retention_days_by_camera: Annotated[
        dict[str, Days], NoDecode, BeforeValidator(from_json), AfterValidator(in_one_form)
    ] = Field(
        default={}, description='retention_days of single cameras, as a JSON object such as {"door": 30}.'
    )

    audit_key_file: Folder | None = Field(
        default=None,
        description="File of the secret that seals the audit; by default audit.key in the data folder.",
    )
    audit_days: Days = Field(default=730, description="How long rows of the audit are kept.")
    audit_keep_queries: bool = Field(
        default=False, description="Whether the crops that were searched for are kept with the audit."
    )
    retention_max_share: float = Field(
        default=0.2,
        ge=0,
        le=1,
        description="Share of the gallery; an expiry of more, if of more than 100 items, waits for a person.",
    )

    @property
    def audit_keep(self) -> timedelta:
        """Return how long rows of the audit are kept."""
        return timedelta(days=self.audit_days)

    @property
    def crops_dir(self) -> Path:
        """Return the folder of the crops."""
        return self.data_dir / "crops"

    @property
    def snapshots_dir(self) -> Path:
        """Return the folder of the snapshots of the index, which may be deleted at any time."""
        return self.data_dir / "snapshots"

    @property
    def cache_dir(self) -> Path:
        """Return the folder of compiled networks, which may be deleted at any time."""
        return self.data_dir / "cache"


def unknown_variables() -> list[str]:
    """Return the REID_* variables of the environment that no setting has, such as a misspelt one.

    REID_URL and REID_API_KEY belong to the commands. Kubernetes sets REID_SERVICE_* and REID_PORT_* for a
    Service named reid.
    """
    known = {f"REID_{name.upper()}" for name in Settings.model_fields} | {"REID_URL", "REID_API_KEY"}
    known |= {f"REID_{name.upper()}_FILE" for name in SECRETS}
    return [
        name
        for name in sorted(os.environ)
        if name.upper().startswith("REID_")
        and name.upper() not in known
        and not name.startswith(("REID_SERVICE_", "REID_PORT_"))
    ]


def read_settings() -> Settings:
    """Read the settings from the environment, and from the files of secrets that the environment names.

    Raises:
        BadSettings: a variable has no usable value; the message names each such variable and the reason.
    """
    try:
        return Settings.model_validate(_read_secrets())
    except ValidationError as error:
        reasons = [
            f"REID_{'_'.join(map(str, e['loc'])).upper()}: {reason_of(e['msg'])}" for e in error.errors()
        ]
        raise BadSettings("; ".join(reasons)) from None


def _read_secrets() -> dict[str, str]:
    """Return the settings that files hold, without the end of the last line.

    Raises:
        BadSettings: a file cannot be read, or the environment has the setting too.
    """
    secrets = {}
    for name in SECRETS:
        variable = f"REID_{name.upper()}"
        if not (path := os.environ.get(f"{variable}_FILE")):
            continue
        if os.environ.get(variable):
            raise BadSettings(f"{variable} and {variable}_FILE are both set; keep one of them")
        try:
            with open_regular(Path(path).expanduser()) as file:
                secrets[name] = file.read(MAX_SECRET_BYTES).decode(errors="replace").rstrip("\r\n")
        except (OSError, RuntimeError) as error:
            reason = getattr(error, "strerror", None) or error
            raise BadSettings(f"{variable}_FILE: {path} cannot be read: {reason}") from None
    return secrets
