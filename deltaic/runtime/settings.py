"""Settings of a node: one class, read from flags, environment and a TOML file, in this order of precedence.

A service derives one class from `NodeSettings`, sets its environment prefix, and gives every field a description: the
flags, their help and the reference page all come from there.
"""

import argparse
import os
import tomllib
from collections.abc import Sequence
from contextvars import ContextVar
from functools import partial
from pathlib import Path
from typing import Literal, NoReturn, Self

from pydantic import Field, PrivateAttr, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    CliSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from deltaic.errors import InvalidArgument
from deltaic.runtime.addresses import check_address
from deltaic.runtime.setting_words import SettingsHelp, unknown_variable, what_is_wrong

_LONGEST_NAME = 255
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

    metrics: str = Field(
        "", description="Address where Prometheus reads metrics, HOST:PORT, like 127.0.0.1:9101; empty is off."
    )

    _origin: tuple[tuple[str, ...], str] | None = PrivateAttr(None)

    @field_validator("metrics")
    @classmethod
    def _metrics_have_a_port(cls, address: str) -> str:
        if not address.strip():
            return ""
        checked = check_address(address, listening=True)
        if checked.startswith("unix"):
            raise ValueError("write HOST:PORT; metrics are read over HTTP")
        return checked

    @field_validator("name")
    @classmethod
    def _name_can_travel(cls, name: str) -> str:
        """It goes with every call, in a header of HTTP/2, which takes nothing else."""
        if not (name.isascii() and name.isprintable() and len(name) <= _LONGEST_NAME):
            raise ValueError(f"use at most {_LONGEST_NAME} printable ASCII characters")
        return name.strip()

    @field_validator("*")
    @classmethod
    def _expand_home(cls, value: object) -> object:
        """`~` means the home folder in a file and in a variable too, where no shell expands it."""
        return value.expanduser() if isinstance(value, Path) else value

    @classmethod
    def load(cls, argv: Sequence[str], *, prog: str) -> Self:
        """Read the settings. `--config FILE` (or PREFIX_CONFIG) names a TOML file that must exist.

        Prints the help and exits 0 for `--help`. Raises BadSettings, in one line, for everything that is wrong.
        """
        prefix = str(cls.model_config.get("env_prefix", ""))
        config, rest = _take_config(list(argv), prefix)
        token = _toml_file.set(config)
        try:
            shape = partial(SettingsHelp, model=cls)
            parser = _Parser(prog=prog, description=cls.__doc__, epilog=_epilog(prefix), formatter_class=shape)
            flags: CliSettingsSource[_Parser] = CliSettingsSource(cls, root_parser=parser, cli_parse_args=rest)
            if prefix and (unknown := unknown_variable(os.environ, prefix, cls.model_fields)):
                raise BadSettings(unknown, hint=f"see {prog} --help")
            made = cls(_cli_settings_source=flags)
            made._origin = (tuple(argv), prog)
        except ValidationError as error:
            raise BadSettings(what_is_wrong(error), hint=f"see {prog} --help") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
            raise BadSettings(f"{config}: {error}", hint="it must be a TOML file, see examples/settings") from None
        except SettingsError as error:
            raise BadSettings(str(error), hint=f"see {prog} --help") from None
        else:
            return made
        finally:
            _toml_file.reset(token)

    def again(self) -> Self:
        """Read the same flags, variables and file as `load` did, which may say other things now. Raises BadSettings."""
        if self._origin is None:
            raise BadSettings("these settings were made by a program", hint="there is no file to read again")
        argv, prog = self._origin
        return self.load(argv, prog=prog)

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


class _Parser(argparse.ArgumentParser):
    """Raises what argparse would print beside a usage page."""

    def error(self, message: str) -> NoReturn:
        raise SettingsError(message)


def _epilog(prefix: str) -> str:
    return (
        "Every flag can also be an environment variable or a key of a TOML file; flags win, then variables, then the\n"
        f'file. --data-dir is {prefix}DATA_DIR, or data_dir = "..."; --engine.slots is {prefix}ENGINE__SLOTS, or\n'
        "slots under [engine]. A list is comma-separated, or repeated as a flag; in a file it may be an array.\n"
        f"--config FILE, or {prefix}CONFIG, names the file; examples/settings has one of each."
    )


def _take_config(argv: list[str], prefix: str) -> tuple[Path | None, list[str]]:
    """Split `--config FILE` off the flags, or take it from the environment."""
    named = os.environ.get(f"{prefix}CONFIG", "")
    rest: list[str] = []
    arguments = iter(argv)
    for argument in arguments:
        if argument == "--config":
            named = next(arguments, "")
            _require(named)
        elif argument.startswith("--config="):
            named = argument.removeprefix("--config=")
            _require(named)
        else:
            rest.append(argument)
    if not named:
        return None, rest
    if not Path(named).is_file():
        raise BadSettings(f"no settings file at {named}", hint="create it, or leave --config out")
    return Path(named), rest


def _require(named: str) -> None:
    if not named:
        raise BadSettings("--config needs the name of a TOML file")


def default_data_dir(role: str) -> Path:
    """Where a node keeps its files unless told: below XDG_DATA_HOME, which is ~/.local/share by default."""
    base = os.environ.get("XDG_DATA_HOME") or str(Path.home() / ".local" / "share")
    return Path(base) / "deltaic" / role
