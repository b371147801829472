"""The Free Spoken Digit Dataset: English digits by six speakers, 8 kHz, 22 minutes."""

import hashlib
import io
import re
import tarfile
import tempfile
import urllib.request
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import torch

from lab.data import tiny_audio
from lab.data.audio import AudioData
from lab.data.split import stratified_split
from lab.data.waveforms import Recordings
from lab.engine.constraints import Share
from lab.engine.errors import UserError, one_line
from lab.engine.files import expanded

COMMIT = "26eb9aaf76e81b692f806f9140c2d2777410d7a1"
URL = f"https://github.com/Jakobovski/free-spoken-digit-dataset/archive/{COMMIT}.tar.gz"
SHA256 = "2ffba266065e6fa108440d3e4e023fe4d611a86278b318c7ec9520081223fdb7"  # see `content_hash`
MOST_BYTES = 2**26  # of the archive, which has 16 MB
NAME = re.compile(r"(\d)_([a-z]+)_(\d+)\.wav")
OFFICIAL = 5  # takes of each speaker and digit in the official test set


class SpokenDigits(AudioData):
    """The Free Spoken Digit Dataset (Jackson et al. 2018): 50 takes of each digit by each of six speakers.

    Args:
        root: the folder of the data set, with the folder `recordings`. If it is missing, it is downloaded.
        split: "speakers": the test split has the recordings of some speakers, who are in no other split, and
            cross-validation leaves speakers out; "takes": the official test set, takes 0 to 4 of every speaker.
        val_fraction: share of each digit of the training speakers in the validation split.
        test_fraction: share of the speakers in the test split.
    """

    def __init__(
        self,
        root: str,
        val_fraction: Share,
        test_fraction: Share,
        split: Literal["speakers", "takes"] = "speakers",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.root, self.split = expanded(root), split
        self.val_fraction, self.test_fraction = val_fraction, test_fraction

    def prepare_data(self) -> None:
        if not (self.tiny or self.splits or (self.root / "recordings").is_dir()):
            download(self.root)

    def find(self) -> tuple[dict[str, Recordings], list[str], Path]:
        root = tiny_audio.spoken_digits() if self.tiny else self.root
        paths = sorted((root / "recordings").glob("*.wav"))
        if not self.tiny and not self.is_checked and (found := content_hash(paths)) != SHA256:
            raise UserError(
                f"data.root: {root} is not the Free Spoken Digit Dataset of commit {COMMIT[:7]}: {len(paths):,} .wav"
                f" files in recordings have the SHA-256 {found[:12]}…, expected {SHA256[:12]}…. Remove the folder to"
                " download it again. data=audio_folder reads your own recordings."
            )
        matches = [match for path in paths if (match := NAME.fullmatch(path.name))]
        everything = Recordings(
            [str(root / "recordings" / match[0]) for match in matches],
            [match[0] for match in matches],
            [int(match[1]) for match in matches],
            [match[2] for match in matches],
        )
        self.report.find(f"{len(everything):,} recordings of {len(set(everything.group or ()))} speakers")
        return {"train": everything}, [str(digit) for digit in range(max(everything.label) + 1)], root

    def divide(self, found: dict[str, Recordings]) -> dict[str, Recordings]:
        """Draw the speakers of the test split, or take the official one; then the validation split, by takes."""
        everything = found["train"]
        if self.split == "speakers":
            label = torch.tensor(everything.label)
            parts = self.draw(label, {"test": self.test_fraction}, everything.group)
            rest, test = everything.subset(parts["train"]), everything.subset(parts["test"])
        else:
            if self.cv is not None:
                raise UserError("cv: data.split=takes has an official test set; choose data.split=speakers.")
            take = [int(name.rpartition("_")[2].removesuffix(".wav")) for name in everything.names]
            rest, test = (
                everything.subset([i for i, number in enumerate(take) if (number < OFFICIAL) is official])
                for official in (False, True)
            )
        drawn = stratified_split(torch.tensor(rest.label), {"val": self.val_fraction}, self.split_seed)
        return {name: rest.subset(index) for name, index in drawn.items()} | {"test": test}


def content_hash(paths: Iterable[Path]) -> str:
    """SHA-256 of the names and contents of files."""
    hashed = hashlib.sha256()
    for path in paths:
        content = path.read_bytes()
        hashed.update(f"{path.name} {len(content)} ".encode())
        hashed.update(content)
    return hashed.hexdigest()


def download(root: Path) -> None:
    """Download the archive, and write its recordings to `root/recordings`, completely or not at all.

    Raises:
        UserError: there is no network, or the archive has another content.
    """
    try:
        with urllib.request.urlopen(URL, timeout=60) as answer:
            content = answer.read(MOST_BYTES)
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=root) as temporary:
            folder = Path(temporary) / "recordings"
            folder.mkdir()
            _unpack(content, folder)
            if content_hash(sorted(folder.glob("*.wav"))) != SHA256:
                raise OSError("the archive has another content than expected")
            folder.rename(root / "recordings")
    except (OSError, tarfile.TarError, EOFError) as error:
        raise UserError(
            f"data: the Free Spoken Digit Dataset is not in {root} and could not be downloaded ({one_line(error)})."
            f" Connect to the network, or get {URL} on another machine, unpack it, and set data.root=PATH to its"
            " folder. experiment=speech_commands needs no download."
        ) from error


def _unpack(content: bytes, folder: Path) -> None:
    """Write the recordings of an archive; names of other files, and links, are left out."""
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as archive:
        for member in archive:
            path = PurePosixPath(member.name)
            file = archive.extractfile(member) if member.isreg() else None
            if file and path.parent.name == "recordings" and NAME.fullmatch(path.name):
                (folder / path.name).write_bytes(file.read())
