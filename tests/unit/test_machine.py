"""Machines that are not like ours: another locale, no home, no network, a package where a download would be."""

import ast
import gzip
import io
import pwd
import sys
from pathlib import Path

import pytest
from conftest import CONF
from torchvision import datasets

from lab.build import read_data
from lab.data import tiny
from lab.data.torchvision import DEBIAN
from lab.engine import cli
from lab.engine.errors import UserError
from lab.engine.files import expanded

SOURCES = [path for name in ("src", "bench") for path in sorted((CONF.parent / name).rglob("*.py"))]
TEXT = {"open": 1, "read_text": 0, "write_text": 1, "fdopen": 1}  # functions, and which argument may be the mode
OTHERS = {"os", "Image", "gzip", "tarfile", "zipfile"}  # whose open is not Python's


def without_encoding(path):
    """Lines that open a text in the locale's encoding."""
    for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(call, ast.Call):
            continue
        is_method = isinstance(call.func, ast.Attribute)
        name = call.func.attr if is_method else getattr(call.func, "id", "")
        owner = getattr(call.func.value, "id", "") if is_method else ""
        keys = {word.arg for word in call.keywords}
        text = any(word.arg in ("text", "universal_newlines") for word in call.keywords)
        if text and "encoding" not in keys and name in ("run", "Popen", "check_output"):
            yield call.lineno
        if name not in TEXT or owner in OTHERS or (name.endswith("_text") and not is_method) or name == "_open":
            continue
        if name == "read_text" and call.args:  # its encoding; or a file of an installed distribution, which is UTF-8
            continue
        mode = [a.value for a in [*call.args, *(w.value for w in call.keywords)] if isinstance(a, ast.Constant)]
        if "encoding" not in keys and not any(isinstance(m, str) and "b" in m and len(m) < 4 for m in mode):
            yield call.lineno


def test_every_text_is_read_and_written_in_utf_8():
    found = {str(path.relative_to(CONF.parent)): list(without_encoding(path)) for path in SOURCES}
    assert {path: lines for path, lines in found.items() if lines} == {}


@pytest.mark.parametrize(("path", "whole"), {"~/x": "/home/me/x", "x/~": "x/~", "/a": "/a", "": "."}.items())
def test_a_path_begins_at_home(monkeypatch, path, whole):
    monkeypatch.setenv("HOME", "/home/me")
    assert expanded(path) == Path(whole)


@pytest.mark.parametrize("data", ["fashion_mnist", "cifar10", "image_folder", "text_table"])
def test_a_user_without_a_home_is_told_in_a_line(compose, monkeypatch, data):
    monkeypatch.delenv("HOME")
    monkeypatch.delenv("LAB_DATA", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", {}.__getitem__)  # as where a container runs under any number
    words = [f"experiment={'sentiment' if data == 'text_table' else 'digits'}", f"data={data}"]
    with pytest.raises(UserError, match="no home folder. Set HOME") as error:
        read_data(compose(*words, *(["data.root=~/x"] if data in ("image_folder", "text_table") else [])))
    assert "\n" not in str(error.value)


@pytest.fixture
def package(monkeypatch, tmp_path):
    """Debian's package of Fashion-MNIST, before it is installed, on a machine without a network."""
    root, _ = tiny.torchvision_images(datasets.FashionMNIST)

    def install():
        (tmp_path / "debian").mkdir()
        for path in (root / "FashionMNIST/raw").iterdir():
            (tmp_path / f"debian/{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))

    def refuse(*_, **__):
        raise RuntimeError("Error downloading train-images-idx3-ubyte.gz")

    monkeypatch.setitem(DEBIAN, "FashionMNIST", tmp_path / "debian")
    monkeypatch.setattr("torchvision.datasets.mnist.download_and_extract_archive", refuse)
    return install


@pytest.mark.parametrize("left", [None, (), ("train-images-idx3-ubyte",), ("t10k-labels-idx1-ubyte", "x.gz")])
def test_a_package_that_is_installed_after_a_failed_download_is_used(compose, package, tmp_path, left):
    raw = tmp_path / "data/FashionMNIST/raw"
    cfg = compose("experiment=fashion_mnist", f"data.root={tmp_path}/data")
    said = f"could not be downloaded.* install Debian's package dataset-fashion-mnist, which fills {tmp_path}/debian"
    with pytest.raises(UserError, match=said):
        read_data(cfg)
    package()
    if left is not None:
        raw.mkdir(parents=True, exist_ok=True)
        for name in left:  # what a download has left
            packed = tmp_path / f"debian/{name}.gz"
            (raw / name).write_bytes(gzip.decompress(packed.read_bytes()) if packed.exists() else b"")
    assert sum(len(split) for split in read_data(cfg).splits.values()) > 0
    assert not list(raw.glob(".*")), "unpacked in part"


@pytest.mark.parametrize(("encoding", "shown"), {"latin-1": b"caf\xe9 \\u2191", "ascii": b"caf\\xe9 \\u2191"}.items())
def test_a_locale_without_a_letter_ends_no_command(monkeypatch, encoding, shown):
    output = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", output)
    monkeypatch.setattr(cli, "_verb", lambda: print("café ↑", end=""))
    cli.main()
    output.flush()
    assert output.buffer.getvalue() == shown


def test_the_bench_says_in_a_line_what_is_missing(tmp_path):
    sys.path.append(str(CONF.parent / "bench"))
    import bench

    said = "error: data: install Debian's package"
    with pytest.raises(SystemExit, match=f"^{said}$"):
        bench.run(["sh", "-c", f'echo a warning >&2; echo "{said}" >&2; exit 2'], tmp_path)
