"""The folders in which Hydra looks for YAMLs: lab's, and those of installed packages (see `packages`)."""

from pathlib import Path

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin

from lab.engine.config.packages import GROUP, conf_folders
from lab.engine.errors import UserError


def install() -> None:
    """Have Hydra find the packages' YAMLs wherever it composes a config."""
    Plugins.instance().register(PackagesSearchPath)


class PackagesSearchPath(SearchPathPlugin):
    """Appends the folders `conf/` of installed packages to Hydra's search path.

    Hydra takes the first of two files of one name without a word, so that a second one is refused here.
    """

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        seen = [Path(entry.path) for entry in search_path.get_path() if entry.provider == "main" and entry.path]
        for folder in conf_folders():
            names = sorted(path.relative_to(folder) for path in folder.rglob("*.yaml"))
            clashes = [(name, other) for name in names for other in seen if (other / name).exists()]
            if clashes:
                raise UserError(
                    *(f"error: {folder / name} has the name of {other / name}; rename it." for name, other in clashes)
                )
            search_path.append(GROUP, str(folder))
            seen.append(folder)
