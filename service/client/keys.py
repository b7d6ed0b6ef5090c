"""The key that a client sends: from REID_API_KEY, or from the file that `reid login` writes.

The file has one key for each URL, so no service is sent the key of another one.
"""

import json
import os
import stat
from pathlib import Path

from service.client.errors import ClientError

KEY_VARIABLE = "REID_API_KEY"
FOR_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def key_file() -> Path:
    """Return the file that keeps keys; it need not exist."""
    folder = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(folder) / "reid" / "keys.json"


def find_key(url: str) -> str | None:
    """Return the key for the service at a URL, or None.

    Raises:
        ClientError: the key cannot be sent, or the file cannot be read, or other users can read it.
    """
    key = os.environ.get(KEY_VARIABLE, "").strip() or _read().get(_in_one_form(url))
    if key is not None and not (key.isascii() and key.isprintable() and " " not in key):
        raise ClientError(
            f"the key in {KEY_VARIABLE}, or in {key_file()}, has characters that no key has; copy it again"
        )
    return key


def save_key(url: str, key: str | None) -> Path:
    """Keep the key for a URL, or forget it if `key` is None, and return the file.

    Raises:
        ClientError: the file cannot be read, or other users can read it.
        OSError: the file cannot be written.
    """
    path, keys, url = key_file(), _read(), _in_one_form(url)
    keys.pop(url, None)
    if key is not None:
        keys[url] = key
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump(keys, file, indent=2)
    new.replace(path)
    return path


def _in_one_form(url: str) -> str:
    return url.strip().rstrip("/")


def _read() -> dict[str, str]:
    path = key_file()
    try:
        if path.stat().st_mode & FOR_OTHERS:
            raise ClientError(f"other users may read {path}, which holds keys; run chmod 600 {path}")
        keys = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ClientError(f"{path}, which holds keys, cannot be read: {error}") from error
    if not isinstance(keys, dict) or not all(isinstance(key, str) for key in keys.values()):
        raise ClientError(f"{path} holds no keys; delete it, and run `reid login` again")
    return keys
