"""How the text of a setting is read and checked; an error says what to write instead."""

import json
import re
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from model.data.names import normalise_name

DRIVERS = ("sqlite", "sqlite+pysqlite", "postgresql+psycopg")
URL_HINT = "write sqlite:////folder/gallery.sqlite3 or postgresql+psycopg://user:password@host/name"

SQLITE_OPTIONS = frozenset({"timeout", "cached_statements"})
SQLITE_HINT = (
    f"what follows may only be {' or '.join(sorted(SQLITE_OPTIONS))}; in a path write ? as %3F and % as %25"
)

ALLOWED_HOST = re.compile(r"\*|(\*\.)?[\w-]+(\.[\w-]+)*\.?|\[?[0-9a-f.]*:[0-9a-f:.]*:[0-9a-f:.]*\]?")
ORIGIN = re.compile(r"https?://([\w.-]+|\[[0-9a-f:.]+\])(:\d{1,5})?")

Days = Annotated[float, Field(gt=0, le=100_000)]
ExpectedStrangers = Annotated[float, Field(gt=0, le=1_000)]


def at_least(other: str) -> AfterValidator:
    """Check that a setting is not below another one, which stands before it."""

    def check(value: float, info: ValidationInfo) -> float:
        if value < info.data.get(other, value):
            raise ValueError(f"must be at least REID_{other.upper()}, which is {info.data[other]:g}")
        return value

    return AfterValidator(check)


def from_json(value: object) -> object:
    """Read JSON, unless the value was given as an object."""
    try:
        return json.loads(value) if isinstance(value, str) else value
    except ValueError:
        raise ValueError('expected JSON, such as {"door": 30}') from None


def in_one_form(days: dict[str, float]) -> dict[str, float]:
    """Normalise the names of cameras, as the gallery does; two spellings of one camera are refused."""
    composed = {normalise_name(camera_id): value for camera_id, value in days.items()}
    if len(composed) < len(days):
        raise ValueError("a camera is named in two spellings that look alike; keep one of them")
    return composed


def usable_url(url: str) -> str:
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


def url_of_file(path: Path) -> str:
    """Return the URL of an SQLite file, in which `make_url` finds the path again.

    >>> url_of_file(Path("/people/who? 50%/gallery.sqlite3"))
    'sqlite:////people/who%3F 50%25/gallery.sqlite3'
    """
    try:
        return URL.create("sqlite", database=str(path)).render_as_string(hide_password=False)
    except UnicodeEncodeError:  # a path that is not UTF-8 has no form in a URL
        return f"sqlite:///{path}"


def from_home(value: object) -> object:
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


Folder = Annotated[Path, BeforeValidator(from_home)]


def whole_port(value: object) -> object:
    """Refuse the URL that Kubernetes sets in the place of a port, in a sentence that says why."""
    if isinstance(value, str) and value.startswith("tcp://"):
        raise ValueError(
            "Kubernetes has set it for a Service named reid; set enableServiceLinks: false for the pod, or "
            "set REID_PORT in its env"
        )
    return value


def none_if_off(value: object) -> object:
    """Read `none` and `off` as no limit."""
    return None if isinstance(value, str) and value.strip().lower() in ("none", "off") else value


Rate = Annotated[Annotated[int, Field(ge=1, le=10_000_000)] | None, BeforeValidator(none_if_off)]


def from_commas(value: object) -> object:
    """Read a list that is written with commas, in small letters."""
    if not isinstance(value, str):
        return value
    return tuple(one.strip().lower() for one in value.split(",") if one.strip())


def plain_hosts(hosts: tuple[str, ...]) -> tuple[str, ...]:
    """Check names and addresses of hosts, and take the brackets off an IPv6 address."""
    for host in hosts:
        if not ALLOWED_HOST.fullmatch(host):
            raise ValueError(
                f"{host[:100]} is no host; write a name, an address or *.example.org, without a port"
            )
    return tuple(host.strip("[]").removesuffix(".") for host in hosts)


def plain_origins(origins: tuple[str, ...]) -> tuple[str, ...]:
    """Check origins, such as https://example.org:8443."""
    for origin in origins:
        if not ORIGIN.fullmatch(origin):
            raise ValueError(f"{origin[:100]} is no origin; write one such as https://example.org:8443")
    return origins


def plain_networks(networks: tuple[str, ...]) -> tuple[str, ...]:
    """Check addresses and networks of proxies."""
    for network in set(networks) - {"*"}:
        try:
            ip_network(network)
        except ValueError as error:
            raise ValueError(f"{error}; write addresses and networks such as 10.0.0.0/8, or *") from None
    return networks
