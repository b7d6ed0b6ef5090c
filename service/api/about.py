"""What this program is: its version, and those of its API and of its schema."""

from importlib.metadata import PackageNotFoundError, version

from service.store.database import known_schemas

API_VERSION = "1"
PACKAGE = "reid-gallery"


def program_version() -> str:
    """Return the version of the installed program, or `unknown` in a checkout that is not installed."""
    try:
        return version(PACKAGE)
    except PackageNotFoundError:
        return "unknown"


def schema_version() -> str:
    """Return the newest schema of the database that this program knows."""
    return known_schemas()[0]
