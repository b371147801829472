"""Words spoken by eSpeak NG. The synthesiser runs in a process of its own.

eSpeak NG has a state that no call resets, such as the phase of a voice: the same word sounds different the second time.
A new process that speaks the same words in the same order makes the same samples.
"""

import ctypes
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lab.engine.errors import UserError

STRANGE = ("fast", "whisper", "Demonic", "Storm", "Tweaky", "croak", "UniRobot", "anikaRobot", "robosoft")
RETRIEVE, UTF_8, RATE, PITCH = 2, 1, 1, 3  # numbers of eSpeak NG: audio mode, encoding, parameters


class Request(NamedTuple):
    """A text, and how it is spoken.

    Args:
        text: the word.
        voice: an accent and a variant of the voice, such as "en-us+f1".
        speed: words per minute; 175 is normal.
        pitch: 0 to 99; 50 is normal.
    """

    text: str
    voice: str
    speed: int
    pitch: int


def variants() -> list[str]:
    """The variants of the voice that sound human.

    Raises:
        UserError: eSpeak NG is not installed, or its data folder is missing.
    """
    if find_spec("espeakng_loader") is None:
        raise UserError(
            "error: data: spoken_words needs eSpeak NG (GPL-3): pip install 'lab-template[voices]'. Real voices need no"
            " extra: lab train experiment=spoken_digits downloads 16 MB."
        )
    import espeakng_loader

    try:
        names = [path.name for path in Path(espeakng_loader.get_data_path(), "voices", "!v").iterdir()]
    except (RuntimeError, OSError) as error:
        again = "Install it again: pip install --force-reinstall espeakng_loader"
        raise UserError(f"error: data: eSpeak NG failed: {error}. {again}") from error
    return sorted(name for name in names if not name.startswith(STRANGE))


def spoken(requests: Sequence[Request]) -> tuple[list[np.ndarray], int]:
    """Return the (T,) int16 samples of each request, and their sample rate.

    Raises:
        UserError: eSpeak NG cannot be loaded, or has no such voice.
    """
    command = [sys.executable, "-P", "-m", "lab.data.espeak"]  # -P: a json.py in the working directory is not imported
    done = subprocess.run(command, input=json.dumps(requests).encode(), capture_output=True)
    if done.returncode:
        reason = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        raise UserError(f"error: data: eSpeak NG failed: {reason or f'exit code {done.returncode}'}")
    sample_rate, *sizes = np.frombuffer(done.stdout, "<i4", 1 + len(requests)).tolist()
    samples = np.frombuffer(done.stdout, "<i2", offset=4 * (1 + len(requests)))
    return np.split(samples, np.cumsum(sizes)[:-1]), sample_rate


def synthesise(requests: Sequence[Request]) -> tuple[list[np.ndarray], int]:
    """As `spoken`, in this process, whose working directory changes.

    Raises:
        ValueError: eSpeak NG cannot read its data, or has no such voice.
        OSError: its library or its data folder is missing.
    """
    import espeakng_loader

    library, data, parts = ctypes.CDLL(espeakng_loader.get_library_path()), espeakng_loader.get_data_path(), []
    os.chdir(Path(data).parent)  # eSpeak NG cuts paths after 160 characters

    def take(samples: "ctypes._Pointer[ctypes.c_short]", num: int, events: int) -> int:
        if num > 0:
            parts.append(np.ctypeslib.as_array(samples, (num,)).astype("<i2"))
        return 0

    kind = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
    callback, clips = kind(take), []
    if (sample_rate := library.espeak_Initialize(RETRIEVE, 0, b".", 0)) <= 0:
        raise ValueError(f"it cannot read {data}")
    library.espeak_ng_SetRandSeed(ctypes.c_long(1))  # breathy voices have noise
    library.espeak_SetSynthCallback(callback)
    for text, voice, speed, pitch in requests:
        if library.espeak_SetVoiceByName(voice.encode()):
            raise ValueError(f"it has no voice {voice}")
        library.espeak_SetParameter(RATE, speed, 0)
        library.espeak_SetParameter(PITCH, pitch, 0)
        content = text.encode()
        library.espeak_Synth(content, ctypes.c_size_t(len(content) + 1), 0, 0, 0, UTF_8, None, None)
        library.espeak_Synchronize()
        clips.append(np.concatenate([*parts, np.zeros(0, "<i2")]))
        parts.clear()
    return clips, sample_rate


if __name__ == "__main__":
    try:
        clips, sample_rate = synthesise([Request(*each) for each in json.load(sys.stdin)])
    except (ValueError, OSError) as error:
        sys.exit(str(error))
    sizes = np.array([sample_rate, *map(len, clips)], "<i4")
    sys.stdout.buffer.write(sizes.tobytes() + b"".join(clip.tobytes() for clip in clips))
