"""Settings of a node: one class, read from flags, environment and a TOML file, in this order of precedence.

A service derives one class from `NodeSettings`, sets its environment prefix, and gives every field a description: the
flags, their help and the reference page all come from there.
"""

import os
import tomllib
from collections.abc import Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, ValidationError
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from deltaic.errors import InvalidArgument

_toml_file: ContextVar[Path | None] = ContextVar("toml_file", default=None)


class BadSettings(InvalidArgument):
    """A flag, variable or file that does not say what it should."""

    reason = "BAD_SETTINGS"


class NodeSettings(BaseSettings):
    """What every node is told."""

    model_config = SettingsConfigDict(
        env_nested_delimiter="__", extra="forbid", cli_kebab_case=True, cli_hide_none_type=True, cli_avoid_json=True
    )

    name: str = Field("", description="Name of this node in reports and logs; by default ROLE@HOST.")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="What to log.")
    log_json: bool | None = Field(None, description="JSON logs; by default only when stderr is not a terminal.")

    @classmethod
    def load(cls, argv: Sequence[str], *, prog: str) -> Self:
        """Read the settings. `--config FILE` (or PREFIX_CONFIG) names a TOML file that must exist.

        Prints the help and exits 0 for `--help`. Raises BadSettings, in one line, for everything that is wrong.
        """
        config, rest = _take_config(list(argv), str(cls.model_config.get("env_prefix", "")))
        token = _toml_file.set(config)
        try:
            return cls(_cli_parse_args=rest, _cli_prog_name=prog, _cli_exit_on_error=False)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "settings"
            raise BadSettings(f"{where}: {first['msg']}", hint=f"see {prog} --help") from None
        except (SettingsError, tomllib.TOMLDecodeError, OSError) as error:
            raise BadSettings(str(error), hint=f"see {prog} --help") from None
        finally:
            _toml_file.reset(token)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003  # part of the hook
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """After the flags: arguments of the constructor, environment, file."""
        file = TomlConfigSettingsSource(settings_cls, toml_file=_toml_file.get())
        return init_settings, env_settings, file


def _take_config(argv: list[str], prefix: str) -> tuple[Path | None, list[str]]:
    """Split `--config FILE` off the flags, or take it from the environment."""
    named = os.environ.get(f"{prefix}CONFIG", "")
    rest: list[str] = []
    arguments = iter(argv)
    for argument in arguments:
        if argument == "--config":
            named = next(arguments, "")
            if not named:
                raise BadSettings("--config needs the name of a TOML file")
        elif argument.startswith("--config="):
            named = argument.removeprefix("--config=")
        else:
            rest.append(argument)
    if not named:
        return None, rest
    if not Path(named).is_file():
        raise BadSettings(f"no settings file at {named}", hint="create it, or leave --config out")
    return Path(named), rest


def default_data_dir(role: str) -> Path:
    """Where a node keeps its files unless told: below XDG_DATA_HOME, which is ~/.local/share by default."""
    base = os.environ.get("XDG_DATA_HOME") or str(Path.home() / ".local" / "share")
    return Path(base) / "deltaic" / role
