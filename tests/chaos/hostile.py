"""Run folders that somebody else has made: each of their files a link out of the folder, or garbage, for every verb.

    python tests/chaos/hostile.py [FILE ...]

A verb has to work, or to end in one line. What lies outside the folder is neither read nor changed. The exit code is 0
only if all cases hold. Files that some verb reads get every damage with every verb; of the others, such as figures and
TensorBoard's, each damage is tried with one verb, in turn, and links with all.
"""

import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from forked_lab import lab

from lab.engine.display import printable

TMP = Path(tempfile.mkdtemp(prefix="lab-hostile-"))
SECRET = "the-canary-sings"
TRAIN = [
    "train", "experiment=digits", "data.tiny=true", "net=mlp", "net.widths=[4]", "trainer=cpu", "trainer.max_epochs=1",
    "trainer.enable_progress_bar=false",
]  # fmt: skip
VERBS = {
    "resume": ["train", "run=r", "trainer.max_epochs=2"],
    "test": ["test", "run=r", "trainer=cpu"],
    "predict": ["predict", "run=r", "input=x.png", "trainer=cpu"],
    "explain": ["explain", "run=r", "input=x.png", "methods=[occlusion]", "trainer=cpu"],
    "export": ["export", "run=r"],
    "report": ["report", "run=r"],
    "table": ["runs", "--log-dir", "."],
    "compare": ["runs", "compare", "r", "whole", "--log-dir", "."],
    "finetune": [*TRAIN, "figures=false", "finetune=r", "run=new"],
}  # fmt: skip
READ = (
    ".lock", "best.ckpt", "config.yaml", "data.json", "export.json", "last.ckpt", "metrics.csv", "model.onnx",
    "previous.ckpt", "results.json", "stamp.json", "test_predictions.csv",
)  # fmt: skip
DEEP = 100_000
GARBAGE = {
    "empty": b"", "3": b"3", "text": b'"x"', "null": b"null", "list": b"[]", "object": b"{}", "true": b"true",
    "nan": b"NaN", "deep list": b"[" * DEEP, "deep closed list": b"[" * DEEP + b"]" * DEEP,
    "deep object": b'{"a":' * DEEP, "zeros": bytes(1000), "ones": b"\xff" * 1000, "not UTF-8": b'{"a": "\xe9"}',
    "UTF-16": '{"a": 1}'.encode("utf-16"), "a BOM": b"\xef\xbb\xbf{}", "yaml": b"a: 1\n", "yaml list": b"- 1\n- 2\n",
    "yaml tag": b"a: !!python/object/apply:os.system [id]\n",
    "yaml bomb": b"a0: &a0 [x, x]\n" + b"".join(b"a%d: &a%d [%s]\n" % (i, i, b", ".join([b"*a%d" % (i - 1)] * 9))
                                               for i in range(1, 10)),
    "tabs": b"\t\t\t", "control characters": b"\x1b[2J\x00\x07", "a script": b"#!/bin/sh\nid\n",
    "wrong types": json.dumps({"status": 3, "best": 3, "test": [1], "seconds": "x", "overrides": {"a": 1}, "began": "x",
                               "words": 3, "varied": 1, "num_classes": -1, "mean": [], "fingerprint": 1}).encode(),
    "huge numbers": json.dumps({"num_classes": 10**9, "began": 1e300, "image_size": 10**12}).encode(),
    "csv": b"a,b\n1,2\n", "csv with text": b"step,epoch,val/loss\nx,y,z\n", "csv torn": b"step,epoch\n1,",
    "a zip": b"PK\x03\x04" + bytes(100), "a pickle": b"\x80\x04K\x03.", "half": b"HALF",
}  # fmt: skip


def prepare() -> None:
    code, error = lab(TMP, *TRAIN, f"run={TMP}/whole")
    assert code == 0, error
    (TMP / "whole/report.html").write_text("a report")
    (TMP / "whole/git.diff").write_text("a diff")


def files() -> list[str]:
    whole = TMP / "whole"
    found = sorted(str(path.relative_to(whole)) for path in whole.rglob("*") if path.is_file())
    return [*found, "previous.ckpt", "export.json", "model.onnx"]


def cases() -> Iterator[tuple[str, str, str]]:
    for number, file in enumerate(sys.argv[1:] or files()):
        yield from ((file, "a link", verb) for verb in VERBS)
        for turn, damage in enumerate(GARBAGE, number):
            verbs = VERBS if file in READ else [list(VERBS)[turn % len(VERBS)]]
            yield from ((file, damage, verb) for verb in verbs)


def case(which: tuple[str, str, str]) -> str | None:
    file, damage, verb = which
    here = Path(tempfile.mkdtemp(dir=TMP))
    try:
        for name in ("r", "whole"):
            shutil.copytree(TMP / "whole", here / name)
        canary = here / "canary"
        canary.write_text(SECRET)
        shutil.copy(next((TMP / "whole/figures").glob("*.png")), here / "x.png")
        path = here / "r" / file
        content = path.read_bytes() if path.exists() else b"nothing"
        path.unlink(missing_ok=True)
        if damage == "a link":
            path.symlink_to(canary)
        else:
            path.write_bytes(content[: len(content) // 2] if damage == "half" else GARBAGE[damage])
        start = time.monotonic()
        code, error = lab(here, *VERBS[verb])
        return problem(here, code, error, time.monotonic() - start)
    finally:
        shutil.rmtree(here)


def problem(here: Path, code: int, error: str, seconds: float) -> str | None:
    if (here / "canary").read_text() != SECRET or (here / "canary").is_symlink():
        return "the canary was changed"
    made = [path for path in here.rglob("*") if path.is_file() and not path.is_symlink() and path.name != "canary"]
    if any(SECRET.encode() in path.read_bytes() for path in made):
        return "the canary was read"
    lines = [line for line in error.splitlines() if line.strip() and not line.startswith("warning: ")]
    if "Traceback" in error or code not in (0, 1, 2):
        return f"exit code {code}: {printable(error[-300:])}"
    if code and (len(lines) != 1 or not lines[0].startswith("error: ")):
        return f"{len(lines)} lines: {printable(error[-300:])}"
    return f"it took {seconds:.0f} s" if seconds > 60 else None


def main() -> None:
    prepare()
    every = list(cases())
    bad, start, shown = 0, time.monotonic(), time.monotonic()
    with ProcessPoolExecutor(2, get_context("fork")) as pool:
        for done, (which, found) in enumerate(zip(every, pool.map(case, every), strict=True), 1):
            if found:
                bad += 1
                print(f"{', '.join(which)}: {found}", flush=True)
            if time.monotonic() - shown > 30:
                shown = time.monotonic()
                print(f"{done} of {len(every)} done, {shown - start:.0f} s", flush=True)
    print(f"hostile: {len(every) - bad} of {len(every)}")
    shutil.rmtree(TMP, ignore_errors=True)
    sys.exit(bool(bad))


if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"
    main()
