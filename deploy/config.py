"""The settings of a machine that runs everything itself. Knows the private Redis and no more."""

import os
from pathlib import Path
from typing import Annotated

import msgspec

from workers.environment import setting


class LocalConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What `tramontane serve` needs beside the settings of its processes."""

    redis_url: Annotated[
        str,
        setting(
            "Redis to use: redis://, rediss:// or unix://. Unset, `tramontane serve` starts a "
            "private one, and web and worker look on this machine's port 6379.",
            variable="REDIS_URL",
        ),
    ] = ""
    redis_server_bin: Annotated[
        str,
        setting(
            "Server program of the private Redis. Unset: redis-server or valkey-server on PATH, "
            "else the one that comes with the package.",
            variable="REDIS_SERVER_BIN",
        ),
    ] = ""
    data_dir: Annotated[
        str,
        setting("Where the private Redis keeps its data. Unset: `$XDG_DATA_HOME/tramontane`."),
    ] = ""
    redis_maxmemory: Annotated[
        str,
        setting(
            "Most memory the private Redis may fill, as Redis writes it (`512mb`).",
            pattern=r"^[1-9][0-9]*([kmg]b?)?$",
        ),
    ] = "512mb"

    @property
    def data_path(self) -> Path:
        """The data directory, defaults filled in."""
        if self.data_dir:
            return Path(self.data_dir).expanduser().absolute()
        home = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
        return Path(home) / "tramontane"
