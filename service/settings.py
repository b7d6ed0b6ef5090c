"""The settings of the service, read once from the environment variables REID_*."""

import json
import os
import re
from datetime import timedelta
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from model.data.names import normalise_name
from model.files import open_regular
from service.errors import BadSettings
from service.errors.requests import reason_of

MEBIBYTE = 1024 * 1024

SECRETS = ("database_url",)
"""Settings that a file may hold: REID_DATABASE_URL_FILE names the file of REID_DATABASE_URL."""

MAX_SECRET_BYTES = 65_536

DRIVERS = ("sqlite", "sqlite+pysqlite", "postgresql+psycopg")
URL_HINT = "write sqlite:////folder/gallery.sqlite3 or postgresql+psycopg://user:password@host/name"

SQLITE_OPTIONS = frozenset({"timeout", "cached_statements"})
SQLITE_HINT = (
    f"what follows may only be {' or '.join(sorted(SQLITE_OPTIONS))}; in a path write ? as %3F and % as %25"
)

ALLOWED_HOST = re.compile(r"\*|(\*\.)?[\w-]+(\.[\w-]+)*\.?|\[?[0-9a-f.]*:[0-9a-f:.]*:[0-9a-f:.]*\]?")
ORIGIN = re.compile(r"https?://([\w.-]+|\[[0-9a-f:.]+\])(:\d{1,5})?")

Days = Annotated[float, Field(gt=0, le=100_000)]


def _from_json(value: object) -> object:
    try:
        return json.loads(value) if isinstance(value, str) else value
    except ValueError:
        raise ValueError('expected JSON, such as {"door": 30}') from None


def _in_one_form(days: dict[str, float]) -> dict[str, float]:
    """Normalise the names of cameras, as the gallery does; two spellings of one camera are refused."""
    composed = {normalise_name(camera_id): value for camera_id, value in days.items()}
    if len(composed) < len(days):
        raise ValueError("a camera is named in two spellings that look alike; keep one of them")
    return composed


def _usable_url(url: str) -> str:
    """Check that a URL names a supported database. Errors do not quote the URL, which may hold a password."""
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        raise ValueError(f"not a database URL; {URL_HINT}") from None
    if parsed.drivername not in DRIVERS:
        raise ValueError(f"{parsed.drivername} is not supported; {URL_HINT}")
    if parsed.get_backend_name() != "sqlite":
        try:
            parsed.get_dialect()().create_connect_args(parsed)
        except ArgumentError as error:
            raise ValueError(f"its options cannot be used: {error}") from None
        return url
    if parsed.database in (None, "", ":memory:"):
        raise ValueError(
            "a gallery in memory would be lost; name a file, such as sqlite:////folder/gallery.sqlite3"
        )
    if not parsed.query.keys() <= SQLITE_OPTIONS or ("?" in url and not parsed.query):
        raise ValueError(f"the path of the file ends at the ?, and {SQLITE_HINT}")
    return url


def _url_of_file(path: Path) -> str:
    """Return the URL of an SQLite file, in which `make_url` finds the path again.

    >>> _url_of_file(Path("/people/who? 50%/gallery.sqlite3"))
    'sqlite:////people/who%3F 50%25/gallery.sqlite3'
    """
    try:
        return URL.create("sqlite", database=str(path)).render_as_string(hide_password=False)
    except UnicodeEncodeError:  # a path that is not UTF-8 has no form in a URL
        return f"sqlite:///{path}"


def _from_home(value: object) -> object:
    """Read ~ as the home folder, because nothing else does so in a file of variables or after `--option=`.

    A path in quotes is refused: no shell has taken the quotes away, and the folder would have another name.
    """
    if not isinstance(value, str | Path):
        return value
    text = str(value)
    if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'":
        raise ValueError(f"the path stands in quotes; write it without them: {text[1:-1]}")
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise ValueError(f"{text} begins with ~: {error}") from None


Folder = Annotated[Path, BeforeValidator(_from_home)]


def _whole_port(value: object) -> object:
    if isinstance(value, str) and value.startswith("tcp://"):
        raise ValueError(
            "Kubernetes has set it for a Service named reid; set enableServiceLinks: false for the pod, or "
            "set REID_PORT in its env"
        )
    return value


def _none_if_off(value: object) -> object:
    return None if isinstance(value, str) and value.strip().lower() in ("none", "off") else value


Rate = Annotated[Annotated[int, Field(ge=1, le=10_000_000)] | None, BeforeValidator(_none_if_off)]


def _from_commas(value: object) -> object:
    if not isinstance(value, str):
        return value
    return tuple(one.strip().lower() for one in value.split(",") if one.strip())


def _plain_hosts(hosts: tuple[str, ...]) -> tuple[str, ...]:
    """Check names and addresses of hosts, and take the brackets off an IPv6 address."""
    for host in hosts:
        if not ALLOWED_HOST.fullmatch(host):
            raise ValueError(
                f"{host[:100]} is no host; write a name, an address or *.example.org, without a port"
            )
    return tuple(host.strip("[]").removesuffix(".") for host in hosts)


def _plain_origins(origins: tuple[str, ...]) -> tuple[str, ...]:
    for origin in origins:
        if not ORIGIN.fullmatch(origin):
            raise ValueError(f"{origin[:100]} is no origin; write one such as https://example.org:8443")
    return origins


def _plain_networks(networks: tuple[str, ...]) -> tuple[str, ...]:
    for network in set(networks) - {"*"}:
        try:
            ip_network(network)
        except ValueError as error:
            raise ValueError(f"{error}; write addresses and networks such as 10.0.0.0/8, or *") from None
    return networks


class Settings(BaseSettings):
    """The settings of a service. The variable of a field is REID_ and the name of the field in capitals."""

    model_config = SettingsConfigDict(env_prefix="REID_", env_ignore_empty=True, frozen=True)

    data_dir: Folder = Field(
        default=Path("data"), description="Folder of the database, crops, networks, snapshots and cache."
    )
    database_url: Annotated[str, AfterValidator(_usable_url)] = Field(
        default_factory=lambda data: _url_of_file(data["data_dir"] / "gallery.sqlite3"),
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
        tuple[str, ...], NoDecode, BeforeValidator(_from_commas), AfterValidator(_plain_hosts)
    ] = Field(
        default=(),
        description="Hosts that clients may write, besides REID_HOST and names of this machine, with commas.",
    )
    cors_origins: Annotated[
        tuple[str, ...], NoDecode, BeforeValidator(_from_commas), AfterValidator(_plain_origins)
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
        tuple[str, ...], NoDecode, BeforeValidator(_from_commas), AfterValidator(_plain_networks)
    ] = Field(
        default=(),
        description="Proxies whose X-Forwarded-For, -Proto and -Prefix hold: addresses, networks or *, "
        "with commas.",
    )
    port: Annotated[int, BeforeValidator(_whole_port)] = Field(
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
    near_duplicate: Annotated[float | None, BeforeValidator(_none_if_off)] = Field(
        default=0.98,
        ge=0,
        le=1,
        description="Cosine from which a new item is a near duplicate of an item of its camera; none or off.",
    )
    target_fmr: float = Field(
        default=1e-3,
        ge=1e-4,
        le=1e-1,
        description="Share of pairs of different people that may count as a match.",
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
        dict[str, Days], NoDecode, BeforeValidator(_from_json), AfterValidator(_in_one_form)
    ] = Field(
        default={}, description='retention_days of single cameras, as a JSON object such as {"door": 30}.'
    )

    audit_key_file: Folder | None = Field(
        default=None,
        description="File of the secret that seals the audit; by default audit.key in the data folder.",
    )
    audit_days: Days = Field(default=730, description="How long rows of the audit are kept.")
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
