"""Whatever is written is executed."""

import re
import shlex

import nbformat
import pytest
from conftest import CONF
from nbclient import NotebookClient

ROOT = CONF.parent
COMMANDS = re.findall(r"^lab .*$", (ROOT / "README.md").read_text(), re.MULTILINE)
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def test_there_is_something_to_run():
    assert len(COMMANDS) > 10
    assert NOTEBOOKS


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs_and_shows_its_pictures(notebook):
    content = nbformat.read(notebook, as_version=4)
    outputs = [output for cell in content.cells for output in cell.get("outputs", [])]
    assert any("image/png" in output.get("data", {}) for output in outputs), "committed without its pictures"
    NotebookClient(content, timeout=120, resources={"metadata": {"path": str(notebook.parent)}}).execute()
    assert not [o.text for c in content.cells for o in c.get("outputs", []) if o.get("name") == "stderr"]


def test_readme_commands(lab, tmp_path):
    """In the README's order, in one folder, made small, with a run for `…` and a folder of images for `PATH`."""
    import shutil

    from lab.data import tiny

    shutil.copytree(tiny.image_folder(), tmp_path / "images")
    failed = []
    for command in COMMANDS:
        words = shlex.split(command.partition("  ")[0])[1:]
        if any(word in ("trainer=gpu", "trainer=ddp") for word in words):
            words.append("--cfg=job")  # composed, where there is no GPU
        newest = max((tmp_path / "logs/digits").glob("*"), key=lambda path: path.stat().st_mtime, default=None)
        words = [word.replace("logs/digits/…", str(newest)).replace("PATH", str(tmp_path / "images")) for word in words]
        if (
            words[:1] == ["train"]
            and any(word.startswith("experiment=") for word in words)
            and "--cfg=job" not in words
        ):
            words += ["debug=two_batches", "trainer=cpu"] if "trainer=ddp_cpu" not in words else ["debug=two_batches"]
            words += [] if any("image_folder" in word for word in words) else ["data.tiny=true"]
        result = lab(*words)
        if result.returncode != (2 if command == "lab train" else 0):
            failed.append((command, words, result.stderr[-500:]))
    assert not failed


@pytest.mark.parametrize("name", ["README.md", "AGENTS.md"])
def test_files_that_are_named_exist(name):
    text = (ROOT / name).read_text()
    for path in re.findall(r"`((?:src|conf|tests|notebooks)/[\w/.]+)`", text):
        assert (ROOT / path).exists(), f"{name} names {path}"
    for path in re.findall(r"\]\(([\w/.]+)\)", text):
        assert (ROOT / path).exists(), f"{name} links to {path}"
