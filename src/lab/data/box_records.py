"""Pictures and their objects as files describe them, before anything is checked."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lab.data.split import split_of, split_words
from lab.engine.errors import UserError
from lab.features.files import TABLES, files_below
from lab.features.read_image import suffixes

Problems = list[str]  # a line for each, which begins with its place


@dataclass(frozen=True)
class Object:
    """A box of a picture, as a file has it.

    Args:
        name: of the class.
        edges: left, upper, right and lower edge, in pixels or as shares of the picture's width and height.
        place: the file and the row, for messages.
        is_share: `edges` are shares.
        is_crowd: COCO's `iscrowd`, VOC's `difficult`.
    """

    name: str
    edges: tuple[float, float, float, float]
    place: str
    is_share: bool = False
    is_crowd: bool = False


@dataclass
class Labelled:
    """A picture with its objects.

    Args:
        path: of the picture.
        place: the file that names the picture.
        split: that the files state; None: none.
        size: width and height that the file states; None: none.
    """

    path: Path
    place: str
    split: str | None = None
    size: tuple[int, int] | None = None
    objects: list[Object] = field(default_factory=list)


class Found:
    """The files below a folder, or a single file and what is next to it. Pictures are found by their names."""

    def __init__(self, root: Path) -> None:
        self.root = root if root.is_dir() else root.parent
        every = list(files_below(self.root))
        endings = suffixes()
        self.images = sorted(path for path in every if path.suffix.lower() in endings)
        self.others = [path for path in every if path.suffix.lower() not in endings] if root.is_dir() else [root]
        self.by_name: dict[str, list[Path]] = {}
        for path in self.images:
            for name in {path.name, path.stem}:
                self.by_name.setdefault(name, []).append(path)

    def image(self, name: str, place: str, near: Path) -> Path:
        """The picture that a file names.

        Raises:
            UserError: there is none, or several pictures have this name.
        """
        for folder in (near.parent, self.root):
            if (folder / name).is_file():
                return folder / name
        parts = Path(name.replace("\\", "/")).parts
        if parts:
            paths = [path for path in self.by_name.get(parts[-1], ()) if path.parts[-len(parts) :] == parts]
            paths = paths or self.by_name.get(parts[-1], [])
            if len(paths) > 1:  # a folder of a split has its own files
                shared = [path for path in paths if self.split(path) == self.split(near)]
                paths = shared if len(shared) == 1 else paths
            if len(paths) == 1:
                return paths[0]
            if paths:
                raise UserError(f"{place}: {name} is the name of {len(paths)} pictures, such as {paths[0]}")
        raise UserError(f"{place}: the picture {name or 'without a name'} is missing")

    def split(self, path: Path) -> str | None:
        """The split that a folder of a path names, or the file itself if it has boxes."""
        folders = path.relative_to(self.root).parts[:-1] if path.is_relative_to(self.root) else ()
        if named := next((split for folder in reversed(folders) if (split := split_of(folder))), None):
            return named
        of_file = split_words(path.stem) if path.suffix.lower() in (".json", *TABLES) else set()
        return of_file.pop() if len(of_file) == 1 else None


def number(text: Any, what: str, place: str) -> float:
    try:
        return float(text)
    except (TypeError, ValueError) as error:
        raise UserError(
            f"{place}: {what} is {'empty' if text in (None, '') else str(text)[:40]}, not a number"
        ) from error
