"""The secret that seals the audit. It lies outside the database, so that its rows alone forge nothing."""

import hashlib
import hmac
import os
import secrets
from pathlib import Path

from service.errors import BadSettings
from service.settings import Settings

FILE = "audit.key"
NUM_HEX = 64


class Secret:
    """A secret of 32 bytes.

    Attributes:
        name: the first 16 hex digits of its SHA-256, by which rows tell who has sealed them.
    """

    def __init__(self, value: bytes) -> None:
        self._value = value
        self.name = hashlib.sha256(value).hexdigest()[:16]

    def mac(self, text: str) -> str:
        """Return the HMAC-SHA256 of a text, in hex."""
        return hmac.new(self._value, text.encode(), hashlib.sha256).hexdigest()


def secret_file(settings: Settings) -> Path:
    """Return the file of the secret."""
    return settings.audit_key_file or settings.data_dir / FILE


def read_secret(path: Path) -> Secret:
    """Read a secret.

    Raises:
        BadSettings: the file cannot be read, or holds no secret.
    """
    try:
        text = path.read_text(encoding="ascii").strip()
        value = bytes.fromhex(text)
    except OSError as error:
        raise BadSettings(f"{path}, which seals the audit, cannot be read: {error.strerror}") from error
    except ValueError:
        value = b""
    if len(value) * 2 != NUM_HEX:
        raise BadSettings(f"{path} holds no secret of the audit, which has {NUM_HEX} hex digits")
    return Secret(value)


def open_secret(settings: Settings) -> Secret:
    """Read the secret of a gallery, and make one first if there is none; of several processes one makes it.

    Raises:
        BadSettings: the file cannot be read or made, or holds no secret.
    """
    path = secret_file(settings)
    if not path.exists():
        _make(path)
    return read_secret(path)


def _make(path: Path) -> None:
    """Write a new secret to the disk whole, unless another process was first."""
    new = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(secrets.token_hex(NUM_HEX // 2) + "\n")
            file.flush()
            os.fsync(file.fileno())
        os.link(new, path)  # unlike a rename, it replaces no file
    except FileExistsError:
        pass
    except OSError as error:
        raise BadSettings(f"{path}, which seals the audit, cannot be made: {error.strerror}") from error
    finally:
        new.unlink(missing_ok=True)
