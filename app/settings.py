"""What an operator may set for the server: environment variables with the prefix LRTUNE_; the README describes each."""

import os
import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, HttpUrl, SecretStr
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict
from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

from lrtune.settings import ADDRESS, DatabaseUrl, end, read
from lrtune.uploads import mirror

SHORTEST_KEY = 16  # characters: what can be tried out over a network is far less
ADVICE = """python -c 'import secrets; print(secrets.token_urlsafe(32))' makes one"""


def _sendable(key: SecretStr) -> SecretStr:
    if not re.fullmatch(r"[\x21-\x7e]+", key.get_secret_value()):
        raise ValueError("accepted are visible ASCII characters without spaces, because it travels in a header")
    if len(key.get_secret_value()) < SHORTEST_KEY:
        raise ValueError(
            f"found {len(key.get_secret_value())} characters; accepted are {SHORTEST_KEY} or more: {ADVICE}"
        )
    return key


def _by_commas(given: object) -> object:
    return tuple(one.strip() for one in given.split(",") if one.strip()) if isinstance(given, str) else given


def settings() -> "Settings":
    """The settings of the environment. Ends the process, in words, where one of them cannot be accepted."""
    return read(Settings)


def to_serve() -> "Settings":
    """The same for a server, which makes its database and its key where they are not there yet."""
    found = settings()
    try:
        url = make_url(found.database_url)
    except ArgumentError:
        end(f"LRTUNE_DATABASE_URL: {ADDRESS}")
    places = {"LRTUNE_CREDENTIALS": None if found.api_key else found.credentials}
    places["LRTUNE_DATABASE_URL"] = Path(url.database) if url.database and url.get_backend_name() == "sqlite" else None
    for name, path in places.items():
        folder = next((one for one in path.absolute().parents if one.exists()), None) if path else None
        if folder and not (folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)):
            end(f"{name}: found {path}, and nothing can be written in {folder}; accepted is a path where it can be")
    return found


class Settings(BaseSettings):
    """One field is one variable: `database_url` is LRTUNE_DATABASE_URL."""

    model_config = SettingsConfigDict(env_prefix="LRTUNE_", frozen=True, extra="ignore")

    database_url: DatabaseUrl = "sqlite:///.lrtune/lrtune.db"
    api_key: Annotated[SecretStr, AfterValidator(_sendable)] | None = None
    credentials: Path = Path(".lrtune/credentials")
    data_dir: Annotated[Path, BeforeValidator(mirror.place)] = Path(".lrtune/data")
    max_body_bytes: Annotated[int, Field(ge=1)] = 1024 * 1024
    max_upload_bytes: Annotated[int, Field(ge=1)] = 2 * 1024 * 1024 * 1024
    metrics_public: bool = False
    shared: bool = True
    quota_queued_jobs: Annotated[int, Field(ge=0)] | None = None
    quota_full_runs_a_day: Annotated[float, Field(ge=0)] | None = None
    quota_upload_bytes: Annotated[int, Field(ge=0)] | None = None
    quota_requests_a_minute: Annotated[int, Field(ge=1)] | None = None
    log: Literal["text", "json"] = "text"
    traces: bool = False
    webhook_secret: Annotated[SecretStr, AfterValidator(_sendable)] | None = None
    webhook_private: bool = False
    reports_days: Annotated[float, Field(gt=0)] | None = None
    jobs_days: Annotated[float, Field(gt=0)] | None = None
    oidc_issuer: HttpUrl | None = None
    oidc_client_id: str = "lrtune"
    oidc_client_secret: SecretStr | None = None
    oidc_name: str | None = None
    oidc_claim: str = "email"
    oidc_admins: Annotated[tuple[str, ...] | None, NoDecode, BeforeValidator(_by_commas)] = None
