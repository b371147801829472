"""The sounds of a figure, as WAV files and in TensorBoard."""

import re
import struct
from collections.abc import Sequence
from pathlib import Path

from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.compat.proto.summary_pb2 import Summary

from lab.engine.training.lightning_quirks import add_summary


def keep_sounds(
    sounds: Sequence[tuple[str, bytes]], path: Path, tag: str, boards: Sequence[TensorBoardLogger], step: int
) -> None:
    """Write sounds to files `<path>_<number>_<caption>.wav`, which replace earlier ones, and to TensorBoard.

    Args:
        sounds: captions, each with the content of a WAV file.
        path: the beginning of the paths.
        tag: the beginning of the names in TensorBoard.
        boards: TensorBoard's loggers.
        step: the optimizer steps so far.
    """
    for old in path.parent.glob(f"{path.name}_[0-9][0-9]_*.wav"):
        old.unlink()
    for i, (caption, wav) in enumerate(sounds, 1):
        words = re.sub(r"[^\w.]+", "_", caption.replace("→", "as")).strip("_")
        name = f"{i:02}_{words[:60]}"
        path.with_name(f"{path.name}_{name}.wav").write_bytes(wav)
        audio = Summary.Audio(encoded_audio_string=wav, content_type="audio/wav", num_channels=1)
        (audio.sample_rate,) = struct.unpack("<I", wav[24:28])
        for board in boards:
            add_summary(board, Summary(value=[Summary.Value(tag=f"{tag}/{name}", audio=audio)]), step)
