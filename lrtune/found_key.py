"""The key of this environment: where it is found, and what is said of one that a server does not know."""

import os
from pathlib import Path

from lrtune import errors

SHOWN = 6  # characters of a key, to tell it from others


def found_key() -> tuple[str, str]:
    """A key and where it is from: LRTUNE_API_KEY, else the credentials file that the server wrote. Raises."""
    if key := os.environ.get("LRTUNE_API_KEY"):
        return key, "LRTUNE_API_KEY"
    path = Path(os.environ.get("LRTUNE_CREDENTIALS") or ".lrtune/credentials").absolute()
    try:
        key = path.read_text().strip() if path.is_file() else ""
    except (OSError, UnicodeDecodeError) as error:
        raise errors.Unauthorized(f"no key: {path} cannot be read ({error})") from None
    if not key:
        set_one = "set LRTUNE_API_KEY, or LRTUNE_CREDENTIALS to the file that the server wrote at its first start"
        raise errors.Unauthorized(f"no key: found no {path}; {set_one}")
    named = " (LRTUNE_CREDENTIALS)" if os.environ.get("LRTUNE_CREDENTIALS") else ""
    return key, f"{path}{named}"


def unknown(key: str, source: str, url: str) -> errors.Unauthorized:
    """What is said of a key that a server does not take: which it is, and where it was found."""
    which = (
        f"the key that begins with {key[:SHOWN]!r}, from {source}" if len(key) > 2 * SHOWN else f"the key from {source}"
    )
    return errors.Unauthorized(f"the server at {url} does not know {which}: it was revoked, or is another server's")
