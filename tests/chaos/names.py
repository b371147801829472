"""Names that a file system takes, in every place where a user gives one: each works, or ends in one clear line.

    python tests/chaos/names.py [NUMBER ...]

The table has a row for each name: `ok`, the error's line, or what is wrong, in capitals. The exit code is 0 only if
nothing is wrong.
"""

import contextlib
import csv
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

os.environ |= {"OMP_NUM_THREADS": "1"}

from forked_lab import lab

from lab.data import tiny
from lab.engine.display import printable

NAMES = [
    "plain", "two words", " leading", "trailing ", "tab\there", "图片", "josé", "jose\u0301", "Ünïcödé", "Данные",
    "صور", "תמונות", "चित्र", "รูป", "한국어", "日本語 テスト", "😀", "IMG (1)", "a[1]", "a{1}", "a=b", "a==b", "a#1",
    "it's", 'say "hi"', "back\\slash", "a,b", "a;b", "a|b", "$HOME", "${x}", "%s %d", "~tilde", "-dash", "@at",
    "=1+1", "null", "true", "2024", "1e5", "on", "*star*", "what?", "a:b", "a&b", "!bang", "new\nline", "\x1b[31mred",
    os.fsdecode(b"caf\xe9"), "n" * 240, "latest",
]  # fmt: skip
MEANT = {  # names that stand for something else where they are not in quotes
    "null": "nothing", "a,b": "two values, in a sweep", "${x}": "a reference",
}  # fmt: skip
QUICK = [
    "net=mlp", "net.widths=[4]", "trainer=cpu", "trainer.max_epochs=1", "figures=false",
    "trainer.enable_progress_bar=false", "data.batch_size=16",
]  # fmt: skip
IMAGES = ["train", "experiment=image_folder", *QUICK, "data.image_size=8", "data.num_workers=0"]
TMP = Path(tempfile.mkdtemp(prefix="lab-names-"))


def verdict(code: int, error: str, done: bool) -> str:
    lines = [line for line in error.splitlines() if line.strip() and not line.startswith("  ")]  # bad rows are indented
    if code == 0:
        return "ok" if done else "EXIT CODE 0, BUT NOT DONE"
    if "Traceback" in error or len(lines) != 1 or not lines[0].startswith(("error: ", "data")):
        return f"{len(lines)} LINES, EXIT CODE {code}: {printable(error[-200:])}"
    return printable(lines[0])[:120]


def finished(folder: Path) -> bool:
    return (folder / "results.json").exists() and '"finished"' in (folder / "results.json").read_text()


def data_root(here: Path, name: str) -> str:
    shutil.copytree(TMP / "images", here / name)
    return verdict(*lab(here, *IMAGES, f"data.root={name}", "run=r"), finished(here / "r"))


def run(here: Path, name: str) -> str:
    words = ["train", "experiment=digits", "data.tiny=true", *QUICK, f"run={name}"]
    first = verdict(*lab(here, *words), finished(here / name))
    if first != "ok":
        return first
    code, error = lab(here, "train", f"run={name}", "trainer.max_epochs=2")
    resumed = verdict(code, error, "1," in (here / name / "metrics.csv").read_text())
    if resumed != "ok":
        return f"RESUME: {resumed}"
    tested = verdict(*lab(here, "test", f"run={name}"), True)
    return "ok" if tested == "ok" else f"TEST: {tested}"


def predicted(here: Path, *words: str) -> tuple[int, str, bool]:
    code, error = lab(here, "predict", f"run={TMP}/finished", "trainer=cpu", *words)
    return code, error, bool(list(here.glob("*.csv")))


def given(here: Path, name: str) -> str:
    shutil.copy(next((TMP / "images/a").iterdir()), here / f"{name}.png")
    return verdict(*predicted(here, f"input={name}.png"))


def output(here: Path, name: str) -> str:
    code, error, _ = predicted(here, f"input={TMP}/images/a", f"output={name}.csv")
    return verdict(code, error, (here / f"{name}.csv").is_file())


def class_folder(here: Path, name: str) -> str:
    shutil.copytree(TMP / "images", here / "images")
    (here / "images/a").rename(here / "images" / name)
    return verdict(*lab(here, *IMAGES, "data.root=images", "run=r"), finished(here / "r"))


def text_label(here: Path, name: str) -> str:
    with open(here / "table.csv", "w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.writer(file)
        writer.writerows([["text", "label"], *([f"{word} {i}", word] for i in range(20) for word in (name, "other"))])
    words = ["train", "experiment=sentiment", "data=text_table", "net=gru", "net.hidden=4", *QUICK[2:]]
    words = [*words, "data.root=table.csv", "data.text=text", "data.label=label", "run=r"]
    return verdict(*lab(here, *words), finished(here / "r"))


def swept(here: Path, name: str) -> str:
    for root in (name, "other"):
        shutil.copytree(TMP / "images", here / root)
    words = [*IMAGES[:1], "-m", *IMAGES[1:], f"data.root={name}", "optimizer.lr=0.1,0.01", "sweep.name=s", "name=n"]
    code, error = lab(here, *words)
    return verdict(code, error, finished(here / "logs/n/s/000") and finished(here / "logs/n/s/001"))


USES: dict[str, Callable[[Path, str], str]] = {
    "data.root": data_root, "run": run, "input": given, "output": output, "class folder": class_folder,
    "text label": text_label, "sweep": swept,
}  # fmt: skip


def row(number: int) -> tuple[int, dict[str, str]]:
    found = {}
    for use, check in USES.items():
        here = Path(tempfile.mkdtemp(dir=TMP))
        try:
            found[use] = check(here, NAMES[number])
        except OSError as error:  # the file system does not take the name with a suffix
            found[use] = f"no such file: {error.strerror}"
        except Exception as error:
            found[use] = f"BROKEN: {type(error).__name__}: {printable(error)}"
        shutil.rmtree(here, ignore_errors=True)
    return number, found


def main() -> None:
    shutil.copytree(tiny.image_folder(), TMP / "images")
    code, error = lab(TMP, *IMAGES, f"data.root={TMP}/images", f"run={TMP}/finished")
    assert code == 0, error
    wrong = 0
    with ProcessPoolExecutor(2, get_context("fork")) as pool:
        for number, found in pool.map(row, list(map(int, sys.argv[1:])) or range(len(NAMES))):
            bad = {use: said for use, said in found.items() if said != "ok"}
            if NAMES[number] in MEANT:
                print(f"    {printable(NAMES[number])} is {MEANT[NAMES[number]]}:")
            print(f"{number:>3} {printable(NAMES[number])[:40]:<40} {'ok' if not bad else ''}", flush=True)
            for use, said in bad.items():
                print(f"      {use}: {said}", flush=True)
            wrong += NAMES[number] not in MEANT and sum(
                said[:1].isupper() or said[0].isdigit() for said in bad.values()
            )
    with contextlib.suppress(OSError):
        shutil.rmtree(TMP)
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
