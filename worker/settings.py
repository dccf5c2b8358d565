"""The settings of a worker: environment variables with the prefix LRTUNE_, each documented in the README."""

from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BeforeValidator, Field
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, SettingsConfigDict

from lrtune.settings import DatabaseUrl
from lrtune.uploads import mirror

MOST = 64


def _several(value: Any) -> Any:
    """So many, or as many as pay: in one sentence, where a union would have one for each of its kinds."""
    if value == "auto" or (str(value).isdecimal() and 1 <= int(value) <= MOST):
        return value if value == "auto" else int(value)
    raise PydanticCustomError("several", f"Input should be auto, or a whole number from 1 to {MOST}")


Several: TypeAlias = Annotated[int | Literal["auto"], BeforeValidator(_several)]


class Settings(BaseSettings):
    """A worker's settings."""

    model_config = SettingsConfigDict(env_prefix="LRTUNE_", extra="ignore")

    database_url: DatabaseUrl = "sqlite:///.lrtune/lrtune.db"
    data_dir: Annotated[Path, BeforeValidator(mirror.place)] = Path(".lrtune/data")
    device: str = (
        "auto"  # "cuda" where there is one, else "cpu"; any of torch's names: "cuda:1"; "all": a worker for each GPU
    )
    tasks: str | None = None  # import paths of tasks of your own, with commas between: "my_tasks:Vision"
    commands: Path | None = None  # a TOML file of commands that are tasks
    threads: Annotated[int, Field(ge=1)] = 1  # per worker, on a CPU: small networks gain from more workers, not threads
    slots: Several = 1  # workers side by side that share the device
    lanes: Several = "auto"  # trials of a job in lock-step; 1: one by one
    lease_seconds: Annotated[float, Field(ge=1)] = 90.0
    state_dir: str = ".lrtune/states"  # or any URL of fsspec's, for workers on several hosts
    state_bytes: Annotated[int, Field(ge=0)] | None = None  # a quarter of the free disk; 0: nothing is kept or shared
    compile_dir: Path = Path(".lrtune/compiled")  # code, and this worker runs it: nobody else may write there
    poll_seconds: Annotated[float, Field(gt=0)] = 0.5
    log: Literal["text", "json"] = "text"
