"""The settings of a worker: environment variables with the prefix LRTUNE_, each documented in the README."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from lrtune.uploads import mirror


class Settings(BaseSettings):
    """A worker's settings."""

    model_config = SettingsConfigDict(env_prefix="LRTUNE_", extra="ignore")

    database_url: str = "sqlite:///.lrtune/lrtune.db"
    data_dir: Annotated[Path, BeforeValidator(mirror.place)] = Path(".lrtune/data")
    device: str = (
        "auto"  # "cuda" where there is one, else "cpu"; any of torch's names: "cuda:1"; "all": a worker for each GPU
    )
    tasks: str | None = None  # import paths of tasks of your own, with commas between: "my_tasks:Vision"
    commands: Path | None = None  # a TOML file of commands that are tasks
    threads: Annotated[int, Field(ge=1)] = 1  # per worker, on a CPU: small networks gain from more workers, not threads
    slots: Annotated[int, Field(ge=1, le=64)] | Literal["auto"] = 1  # workers side by side that share the device
    lanes: Annotated[int, Field(ge=1, le=64)] | Literal["auto"] = "auto"  # trials of a job in lock-step; 1: one by one
    lease_seconds: Annotated[float, Field(ge=1)] = 90.0
    state_dir: str = ".lrtune/states"  # or any URL of fsspec's, for workers on several hosts
    state_bytes: Annotated[int, Field(ge=0)] | None = None  # a quarter of the free disk; 0: nothing is kept or shared
    compile_dir: Path = Path(".lrtune/compiled")  # code, and this worker runs it: nobody else may write there
    poll_seconds: Annotated[float, Field(gt=0)] = 0.5
    log: Literal["text", "json"] = "text"
