"""Whatever is written is executed."""

import re
import shlex
import shutil
import sys

import nbformat
import pytest
from conftest import CONF, LAB
from nbclient import NotebookClient

from lab.data import tiny
from lab.engine import cli
from lab.engine.config.compose import compose_config
from lab.verbs.export import main as export

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


@pytest.mark.parametrize("command", COMMANDS)
def test_readme_command(command, trained, tmp_path, monkeypatch, capsys):
    """As it stands there, but small; a run stands for `…`, a folder of images for `PATH`, a file for `TEXTS`."""
    words = shlex.split(command.partition("  ")[0])[1:]
    if "PATH" in command:
        shutil.copytree(tiny.image_folder(), tmp_path / "images")
    (tmp_path / "texts").write_text("dog face\nchat noir\n")
    runs = re.findall(r"logs/(\w+)/…", command) + ["digits"] * ("latest" in command or words[:1] == ["runs"])
    for experiment in runs[:1]:
        net = [] if experiment != "digits" else ["net=mlp" if words[:1] == ["runs"] else "net=cnn"]  # `where net=mlp`
        folder = trained(f"experiment={experiment}", *net, "data.tiny=true", "debug=two_batches")
        words = [word.replace(f"logs/{experiment}/…", str(folder)) for word in words]
        if "model.onnx" in command:
            export.main(compose_config("export", [f"run={folder}"]))
    words = [word.replace("TEXTS", str(tmp_path / "texts")) for word in words]
    words = [word.replace("PATH", str(tmp_path / "images")) for word in words]
    words = [word for word in words if not word.startswith("launcher")]  # no SLURM here: test_slurm.py
    if {"trainer=gpu", "trainer=ddp", "trainer=ddp_cpu"} & set(words):
        words.append("--cfg=job")  # no GPU here; two processes: test_ddp.py
    elif words[:1] == ["serve"]:
        words.append("--cfg=job")  # it would not end: test_serve.py
    elif words[:1] == ["tune"]:
        words += ["net=mlp", "data.tiny=true", "lr.steps=60", "batch_size.min=64"]
    elif words[:1] == ["train"] and len(words) > 1 and "--cfg" not in words:
        words += ["debug=two_batches", "figures=false", *([] if "PATH" in command else ["data.tiny=true"])]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(LAB), *words])
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    if words == ["train"]:
        with pytest.raises(SystemExit, match="2"):
            cli.main()
    else:
        cli.main()
    assert capsys.readouterr().out or words == ["train"]


@pytest.mark.parametrize("name", ["README.md", "AGENTS.md"])
def test_files_that_are_named_exist(name):
    text = (ROOT / name).read_text()
    for path in re.findall(r"`((?:src|conf|tests|notebooks)/[\w/.]+)`", text):
        assert (ROOT / path).exists(), f"{name} names {path}"
    for path in re.findall(r"\]\(([\w/.]+)\)", text):
        assert (ROOT / path).exists(), f"{name} links to {path}"
