"""The settings: read once, by the command line, and handed down as narrow values.

From weakest to strongest: the default, ``studio.toml`` in the data folder, ``ILLUSTRIOUS_*`` in the environment, the
command line. A name that does not exist is an error, not a silence.
"""

import difflib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import platformdirs
from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from illustrious.errors import CannotStart

PREFIX = "ILLUSTRIOUS_"
FILE = "studio.toml"


def default_data_dir() -> Path:
    return Path(platformdirs.user_data_dir("illustrious-ai-studio", appauthor=False))


class Settings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid", env_ignore_empty=True)

    host: str = Field("127.0.0.1", description="Address to listen on. Any but this computer's own needs an API key.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on.")
    data_dir: Path = Field(
        default_factory=default_data_dir, description="Folder of pictures, models, sessions and `studio.toml`."
    )
    database: SecretStr | None = Field(
        None,
        description="URL of a PostgreSQL database, `postgresql://user:password@host:5432/name`. Unset: the SQLite file "
        "`studio.db` in the data folder.",
    )
    model: str | None = Field(
        None,
        description="Image model: a `.safetensors` checkpoint or a diffusers folder, as a path or a name in "
        "`models/checkpoints`. Unset: the first one found there, else the starter model.",
    )
    models_dirs: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Further folders of models (`--models-dir`, as often as you like): of AUTOMATIC1111's web UI, of "
        "ComfyUI, or your own.",
    )
    devices: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="`cuda:0,cuda:1`, `mps`, `cpu`, …: one image worker on each. Unset: one, on the best found."
    )
    threads: int | None = Field(None, ge=1, description="Processor threads per model. Unset: the library's choice.")
    chat_model: str | None = Field(
        None, description="An Ollama model's name, or the path of a GGUF file. Unset: the first that can chat."
    )
    vision_model: str | None = Field(
        None, description="An Ollama model that can see. Unset: the first one, else basic analysis."
    )
    ollama_host: str = Field(
        "http://localhost:11434", description="Where Ollama answers. `OLLAMA_HOST` is understood too."
    )
    system_prompt: str = Field(
        "You are the helpful assistant of an art studio. Answer briefly and to the point.",
        description="What the chat model is told before every conversation.",
    )
    auth: bool = Field(True, description="Ask for an API key on any address but this computer's own (`--no-auth`).")
    api_key: SecretStr | None = Field(
        None,
        min_length=8,
        description="The API key, asked for everywhere when set. Unset: made at the first start that needs one.",
    )
    allowed_hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="Further names this server is reached by, beside `localhost`, its own name and IP addresses."
    )
    cors_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="Origins of other sites' pages that may call the API from a browser."
    )
    max_pixels: int = Field(2048 * 2048, ge=64 * 64, description="Largest picture to draw or to look at, in pixels.")
    max_image_mb: int = Field(20, ge=1, le=200, description="Largest picture to be sent in, in MB.")
    allow_download: bool = Field(False, description="Let model libraries fetch files by themselves.")
    queue_limit: int = Field(1000, ge=1, description="Jobs that may wait; more are refused with 429.")
    shutdown_seconds: float = Field(10.0, ge=0, description="How long jobs may go on when the studio is stopped.")
    warm_up: bool = Field(
        True,
        description="On GPUs, compile the image model beside as soon as it is loaded, so that the first picture that "
        "is not exact is not slow. Off: with that picture.",
    )
    preview_every: int = Field(5, ge=0, description="Steps from one preview to the next; 0 for no previews.")
    preview_mb: int = Field(64, ge=1, description="Memory for previews, in MB; the oldest go first.")
    event_minutes: float = Field(5.0, ge=0, description="How long the events of a job that is over are kept.")
    job_days: float | None = Field(
        None, ge=1, description="How long jobs that are over are kept. Unset: for good. Their pictures stay anyway."
    )
    key_hours: float = Field(48.0, ge=24, description="How long an `Idempotency-Key` is remembered.")
    trash_days: float = Field(30.0, ge=0, description="How long deleted pictures lie in the trash.")
    log_prompts: bool = Field(False, description="Write prompts into the log too.")
    fake: bool = Field(False, description="Fake models that answer at once, for tests and work on a user interface.")

    @field_validator("allowed_hosts", "cors_origins", "devices", "models_dirs", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @field_validator("data_dir")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        return value.expanduser().absolute()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings,)  # `load` reads the others itself, to know where each value came from


@dataclass(frozen=True)
class Effective:
    """The settings in force, and where each came from."""

    settings: Settings
    origins: Mapping[str, str]


def load(command_line: Mapping[str, Any] | None = None) -> Effective:
    """Read every source. ``command_line`` has the options that were typed; ``None`` values count as not typed.

    Raises ``CannotStart`` naming the setting that is unknown or wrong, and where it stands.
    """
    typed = {name: value for name, value in (command_line or {}).items() if value is not None}
    environment = _from_environment()
    data_dir = Path(typed.get("data_dir") or environment.get("data_dir") or default_data_dir()).expanduser()
    file = data_dir / FILE
    sources: list[tuple[str, dict[str, Any]]] = []
    if os.environ.get("OLLAMA_HOST"):
        sources.append(("OLLAMA_HOST", {"ollama_host": os.environ["OLLAMA_HOST"]}))
    sources.append((str(file), _from_file(file)))
    sources.append(("environment", environment))
    sources.append(("command line", typed))
    values: dict[str, Any] = {}
    origins = dict.fromkeys(Settings.model_fields, "default")
    for origin, source in sources:
        values.update(source)
        for name in source:
            origins[name] = f"{PREFIX}{name.upper()}" if origin == "environment" else origin
    try:
        return Effective(Settings(**values), origins)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        name = str(first["loc"][0])
        raise CannotStart(f"The setting {name} ({origins[name]}) is wrong: {first['msg']}.") from error


def _from_environment() -> dict[str, Any]:
    for variable in os.environ:
        if variable.upper().startswith(PREFIX):
            _known(variable.upper().removeprefix(PREFIX).lower(), f"the environment variable {variable}")
    return EnvSettingsSource(Settings)()


def _from_file(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        values = TomlConfigSettingsSource(Settings, file)()
    except (ValueError, OSError) as error:  # TOMLDecodeError and UnicodeDecodeError are ValueErrors
        raise CannotStart(f"{file} cannot be read: {error}. Mend or remove it.") from error
    for name in values:
        _known(name, str(file))
    if "data_dir" in values:
        raise CannotStart(
            f"{file} lies in the data folder and cannot move it: "
            f"take data_dir out of it and set {PREFIX}DATA_DIR or --data-dir instead."
        )
    model = values.get("model")
    if isinstance(model, str) and (file.parent / model).exists():  # a path in the file is relative to the file
        values["model"] = str(file.parent / model)
    if isinstance(folders := values.get("models_dirs"), list):
        values["models_dirs"] = [str(file.parent / Path(str(folder)).expanduser()) for folder in folders]
    return values


def _known(name: str, where: str) -> None:
    if name not in Settings.model_fields:
        near = difflib.get_close_matches(name, Settings.model_fields, n=1)
        hint = f"Did you mean {near[0]}?" if near else "`illustrious config` lists the settings that exist."
        raise CannotStart(f"There is no setting {name!r}, which {where} sets. {hint}")
