"""The arguments in a config that decide where a run writes. All of a run's files stay in its folder."""

import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from lab.engine import secrets
from lab.engine.config_file import by_dotted_key

ROOT = ("name", "log_dir", "run", "sweep.name")
GROUPS = ("callbacks", "logger", "trainer")  # their objects write files
ARGUMENTS = (
    "dirpath", "dir", "save_dir", "root_dir", "default_root_dir", "sub_dir", "filename", "name", "version",
    "offline_directory", "log_dir", "id", "prefix", "artifact_location", "tracking_uri",
)  # fmt: skip
CHOSEN = (
    ("callbacks", "dirpath"),
    *(("logger", name) for name in ("dir", "save_dir", "offline_directory")),
)  # lab sets them
SERVER = re.compile(r"(https?|databricks)(://.*)?|sqlite:///[\w.-]+")  # a database in the working directory
SCHEME = re.compile(r"[A-Za-z][\w+.-]*:")  # file:/tmp, s3://bucket


def is_output_path(key: str) -> bool:
    """Return whether the value of a key names a file or folder to write."""
    return key in ROOT or (key.partition(".")[0] in GROUPS and key.rpartition(".")[2] in ARGUMENTS)


def wrong_output_path(key: str, value: Any) -> str | None:
    """An error if an argument may point outside the run's folder."""
    last = key.rpartition(".")[2]
    if key in ROOT or not isinstance(value, str) or not is_output_path(key):
        return None
    if last == "tracking_uri":
        return None if SERVER.fullmatch(value) else f"{key}: expected https://SERVER, or sqlite:///FILE"
    chosen = (key.partition(".")[0], last) in CHOSEN
    if chosen or SCHEME.match(value) or Path(value).is_absolute() or ".." in Path(value).parts or value.startswith("~"):
        advice = "leave it out" if chosen else "give a name"
        return f"{key}: this may be outside the run's folder, which holds all files of a run; {advice}"
    return None


def from_environment(cfg: Any) -> Iterator[str]:
    """Yield a line for each name of a file or folder that comes, directly or not, from an environment variable."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    for key, raw in by_dotted_key(cfg).items():
        if not is_output_path(key) or not isinstance(raw, str) or "${" not in raw or key.endswith(".tracking_uri"):
            continue
        with secrets.watched() as names, suppress(OmegaConfBaseException):
            OmegaConf.select(cfg, key)
        for name in dict.fromkeys(names):
            yield (
                f"{key}={raw}: this value becomes a folder name, so it cannot come from ${{oc.env:{name}}}."
                " Write it out."
            )
