"""`lab new`: a project works without an installation, and only the working directory decides which project it is."""

import json
import os
import subprocess
import sys
from pathlib import Path

import forked
import pytest
from conftest import CONF, LAB
from omegaconf import OmegaConf
from PIL import Image
from refusals import one_line

from lab.engine import folder
from lab.engine.config import allow, command_line, packages, project
from lab.engine.config.compose import compose_config, conf_folders
from lab.engine.errors import UserError
from lab.engine.runs import stamp
from lab.verbs import new

TINY = "data.tiny=true net.width=4 trainer=cpu trainer.max_epochs=1 figures=false trainer.enable_progress_bar=false"


@pytest.fixture(scope="module")
def mine(tmp_path_factory):
    """A project; its path has a space."""
    place = tmp_path_factory.mktemp("a b") / "mine"
    new.main([str(place)])
    return place


@pytest.fixture(autouse=True)
def forgotten(monkeypatch):
    """A test's projects are not on the path of the next one."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield
    project.find_above.cache_clear()
    for name in [name for name in sys.modules if name.partition(".")[0] in ("mine", "other")]:
        del sys.modules[name]


@pytest.fixture
def copy(tmp_path):
    """An empty project."""
    for path in ("conf", "src/mine"):
        (tmp_path / "mine" / path).mkdir(parents=True)
    (tmp_path / "mine/src/mine/net.py").write_text("class Net: ...")
    (tmp_path / "mine/pyproject.toml").write_text('[project.entry-points."lab.packages"]\nmine = "mine"\n')
    return tmp_path / "mine"


def lab(place, *words, env=None):
    return forked.run([str(LAB), *words], place, env or os.environ, timeout=200)


def pytest_in(place, out, *words):
    os.chdir(place)
    os.dup2(os.open(out, os.O_WRONLY | os.O_CREAT), 1)
    sys.path.insert(0, str(place / "src"))
    os._exit(pytest.main(["-p", "no:xdist", "-p", "no:cacheprovider", "-q", *words]))


# a project


@pytest.fixture(scope="module")
def run(mine):
    """A run in the project, and what it printed."""
    result = lab(mine, "train", "experiment=shapes", *TINY.split(), "run=run")
    assert result.returncode == 0, result.stderr
    return mine / "run", result


def test_a_project_learns_and_passes_its_tests_and_those_of_new_files(mine, tmp_path):
    for kind in new.ROOMS:
        result = lab(mine, "new", kind, f"a_{kind}")
        assert result.returncode == 0, result.stderr
        made = [line.removeprefix("made ") for line in result.stdout.splitlines() if line.startswith("made ")]
        assert f"tests/test_{kind}_a_{kind}.py" in made
        assert all((mine / path).is_file() for path in made)
        assert f"python -m pytest tests/test_{kind}_a_{kind}.py" in result.stdout
    process = forked.SERVER.Process(target=pytest_in, args=(mine, str(tmp_path / "out"), "-k", "not resumed or focal"))
    process.start()
    process.join()
    assert process.exitcode == 0, (tmp_path / "out").read_text()[-3000:]
    assert not list(mine.rglob("logs")), "tests write outside of their folders"


def test_a_project_learns(mine):
    result = lab(mine, "train", "experiment=shapes", "trainer=cpu", "figures=false", "run=learned")
    assert result.returncode == 0, result.stderr
    assert json.loads((mine / "learned/results.json").read_text())["test"]["test/acc"] > 0.9


def test_every_verb_works_in_a_project(mine, run):
    assert run[1].stderr == f"Using the code of the project {mine}\n"
    Image.new("L", (16, 16)).save(mine / "x.png")
    for words in (
        ["test", "run=run"],
        ["predict", "run=run", "input=x.png"],
        ["export", "run=run"],
        ["predict", "model=run/model.onnx", "input=x.png"],
        ["report", "run=run"],
        ["runs", "--log-dir", "."],
        ["train", "run=run", "trainer.max_epochs=2"],
        ["train", "-m", "experiment=shapes", *TINY.split(), "net.width=2,3", "sweep.name=s"],
    ):
        result = lab(mine, *words)
        assert result.returncode == 0, f"{words}: {result.stderr}"
    assert "mine.nets.small_cnn.SmallCnn" in (mine / "logs/shapes/s/001/config.yaml").read_text()


def test_every_list_has_what_the_project_has(mine, monkeypatch):
    monkeypatch.chdir(mine / "src")
    assert any("shapes  " in line and "triangles apart?" in line for line in command_line.list_experiments("train"))
    with pytest.raises(UserError, match="unknown experiment shpes. Did you mean shapes?"):
        command_line.check_command_line("train", ["experiment=shpes"])
    with pytest.raises(UserError, match="unknown net smal_cnn. Did you mean small_cnn?"):
        command_line.check_command_line("train", ["experiment=shapes", "net=smal_cnn"])
    shown = lab(mine, "train", "--help").stdout
    assert "small_cnn" in shown
    assert "resnet" in shown
    completed = lab(mine, "-sc", "query=bash", env=os.environ | {"COMP_LINE": "lab train experiment=sh"})
    assert completed.stdout.split() == ["experiment=shapes"]


def test_a_yaml_of_the_project_replaces_one_of_lab(copy, monkeypatch):
    for path, text in {"net/mlp.yaml": "_target_: mine.net.Net", "experiment/digits.yaml": "# Mine?\nseed: 7"}.items():
        (copy / "conf" / path).parent.mkdir()
        (copy / "conf" / path).write_text(text)
    monkeypatch.chdir(copy)
    cfg = compose_config("train", ["experiment=digits", "net=mlp"])
    assert cfg.net == {"_target_": "mine.net.Net"}
    assert [line.split() for line in command_line.list_experiments("train") if line.startswith("  digits ")] == [
        ["digits", "Mine?"]
    ]
    monkeypatch.chdir(copy.parent)
    assert "widths" in compose_config("train", ["experiment=digits", "net=mlp"]).net


def test_the_stamp_has_the_projects_commit(copy, monkeypatch):
    monkeypatch.chdir(copy)
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", str(copy)]
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "first"]):
        subprocess.run([*git, *words], check=True)
    commit = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    assert stamp.git_state(copy / "git.diff") == {"commit": commit, "dirty": False, "untracked": []}


# what makes a project


def test_a_run_is_refused_outside_of_its_project(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        UserError, match=r"^error: data._target_, net._target_, task._target_: the package mine is not"
    ) as error:
        allow.read_config(run[0])
    assert one_line(error.value)
    assert "If it is your own, run lab inside the folder of its project." in str(error.value)


@pytest.mark.parametrize("names", [folder.STAMP, folder.FACTS, folder.RESULTS, folder.SWEEP])
@pytest.mark.parametrize("below", ["", "below/deep"])
def test_a_runs_folder_is_no_project(copy, names, below, monkeypatch):
    """`cd downloaded_run && lab test run=.` executes nothing of that folder."""
    inside = copy / below
    if below:
        inside.mkdir(parents=True)
        for name in ("src", "conf", "pyproject.toml"):
            (copy / name).rename(inside / name)
    for name in (folder.CONFIG, names):
        (copy / name).write_text("net: {_target_: mine.net.Net}")
    monkeypatch.chdir(inside)
    assert packages.project() is None
    assert str(inside / "src") not in sys.path
    with pytest.raises(ImportError):
        allow.locate("mine.net.Net")
    with pytest.raises(UserError, match="the package mine is not installed here"):
        allow.refuse(OmegaConf.load(copy / folder.CONFIG))


def test_nothing_around_a_runs_folder_is_a_project_for_who_is_in_it(copy, monkeypatch):
    """An archive may hold a run, and a project around it."""
    inside = copy / "logs/x/1"
    (inside / "src/other").mkdir(parents=True)
    (inside / "pyproject.toml").write_text('[project.entry-points."lab.packages"]\nother = "other"\n')
    for name in (folder.CONFIG, folder.STAMP):
        (inside / name).write_text("")
    monkeypatch.chdir(inside)
    assert packages.project() is None
    assert not {"mine", "other"} & packages.packages().keys()
    with pytest.raises(ImportError):
        allow.locate("mine.net.Net")


NOT_DECLARED = (
    "", "[project]\nname = 'mine'", "# lab.packages", '[tool."lab.packages"]\nmine = "mine"',
    '[project.entry-points."lab.package"]\nmine = "mine"', "[project.entry-points]\n'lab.packages' = 'mine'",
    "project = 'lab.packages'",
)  # fmt: skip


@pytest.mark.parametrize("text", NOT_DECLARED)
def test_a_pyproject_without_the_entry_point_changes_nothing(copy, text, monkeypatch):
    before = packages.packages(), [*sys.path]
    (copy / "pyproject.toml").write_text(text)
    monkeypatch.chdir(copy)
    assert packages.project() is None
    assert (packages.packages(), sys.path) == before
    assert conf_folders() == [*packages.added_conf_folders(), CONF]
    with pytest.raises(ImportError, match="a config may not call it"):
        allow.locate("mine.net.Net")


@pytest.mark.parametrize("kind", ["a pipe", "a link", "a folder", "not UTF-8"])
def test_a_pyproject_that_is_no_text_changes_nothing(copy, kind, monkeypatch):
    path = copy / "pyproject.toml"
    path.rename(copy / "real.toml")
    {"a pipe": lambda: os.mkfifo(path), "a link": lambda: path.symlink_to("real.toml"), "a folder": path.mkdir,
     "not UTF-8": lambda: path.write_bytes(b"lab.packages \xff")}[kind]()  # fmt: skip
    monkeypatch.chdir(copy)
    assert packages.project() is None


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('[project.entry-points."lab.packages"\n', "pyproject.toml is not TOML"),
        (
            '[project.entry-points."lab.packages"]\na = "os"',
            "os is a reserved name; declare another package. Correct it.",
        ),
        ('[project.entry-points."lab.packages"]\na = "lab"', "lab is a reserved name"),
        ('[project.entry-points."lab.packages"]\na = "absent"', "package absent does not exist. Correct it."),
        ('[project.entry-points."lab.packages"]\na = "mine:Net"', "expected the name of a package"),
        ('[project.entry-points."lab.packages"]\na = 7', "got '7'"),
    ],
)
def test_a_wrong_declaration_is_named_in_a_line(copy, text, problem, monkeypatch):
    (copy / "pyproject.toml").write_text(text)
    monkeypatch.chdir(copy)
    with pytest.raises(UserError) as error:
        compose_config("train", ["experiment=digits"])
    assert one_line(error.value)
    assert problem in str(error.value)


@pytest.mark.parametrize("path", ["", "pyproject.toml", "src", "src/mine", "conf"])
def test_a_project_of_another_user_is_refused_until_it_is_installed(copy, path, monkeypatch):
    if os.geteuid() == 0:
        os.chown(copy / path, 12345, -1)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: 12345)
    monkeypatch.chdir(copy)
    for _ in range(2):
        with pytest.raises(UserError, match=f"belongs to another user. .*: pip install -e {copy}") as error:
            packages.packages()
        assert one_line(error.value)
        assert str(copy / "src") not in sys.path
    site = copy.parent / "site/mine-0.dist-info"  # what pip install -e writes
    site.mkdir(parents=True)
    (site / "entry_points.txt").write_text("[lab.packages]\nmine = mine")
    monkeypatch.setattr(sys, "path", [*sys.path, str(site.parent), str(copy / "src")])
    assert packages.project() == project.Project(copy, ("mine",))
    assert allow.locate("mine.net.Net").__name__ == "Net"


def test_a_project_does_not_add_what_it_does_not_define(copy, monkeypatch):
    (copy / "src/mine/net.py").write_text("from subprocess import Popen")
    (copy / "src/other").mkdir()
    (copy / "src/other/net.py").write_text("class Net: ...")
    monkeypatch.chdir(copy)
    for name in ("mine.net.Popen", "other.net.Net", "mine.absent.Net"):
        with pytest.raises(ImportError):
            allow.locate(name)


# names and errors

BAD = {
    "my-mine": "use letters, digits and _, and start with a letter, such as my_mine",
    "my mine": "such as my_mine",
    "größe": "größe is not a valid name for a package; use letters, digits and _, and start with",
    "class": "class is a reserved word of Python or YAML; choose another name",
    "1st": "1st is not a valid name for a package",
    "_mine": "_mine is not a valid name",
    "null": "null is a reserved word",
    "numpy": "a package numpy is installed already",
    "lab": "a package lab is installed already",
    "full": "full exists and is not an empty folder",
    "file": "file exists and is not an empty folder",
    "file/mine": "file/mine: Not a directory",
    "net": "expected lab new net NAME",
    "--force": "lab new --help lists all",
}


@pytest.mark.parametrize("path", BAD)
def test_a_path_that_cannot_be_a_project_is_refused_in_a_line(path, tmp_path, monkeypatch):
    (tmp_path / "full").mkdir()
    (tmp_path / "full/x").touch()
    (tmp_path / "file").touch()
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError) as error:
        new.main([path])
    assert one_line(error.value)
    assert BAD[path] in str(error.value)
    assert sorted(tmp_path.rglob("*")) == before


BAD_FILES = {
    ("net", "class"): "class is a reserved word",
    (
        "experiment",
        "a-b",
    ): "a-b is not a valid name for an experiment; use letters, digits and _, and start with a letter, such as a_b",
    ("net", "größe"): "größe is not a valid name for a net",
    ("data", "on"): "on is a reserved word",
    ("net", "a/b"): "a/b is not a valid name",
    ("net", "cnn"): "conf/net/cnn.yaml exists",
    ("experiment", "digits"): "conf/experiment/digits.yaml exists",
    ("task", "step"): "the file has another Step",
    ("data", "classes"): None,
    ("feature", "user_error"): "the file has another UserError",
    ("nett", "x"): "unknown kind nett. Did you mean net?",
}


@pytest.mark.parametrize("words", BAD_FILES, ids=" ".join)
def test_a_file_that_cannot_be_made_is_refused_in_a_line(words, copy, monkeypatch):
    monkeypatch.chdir(copy)
    before = sorted(copy.rglob("*"))
    if BAD_FILES[words] is None:
        new.main(words)
        before = sorted(copy.rglob("*"))
    with pytest.raises(UserError) as error:
        new.main(words)
    assert one_line(error.value)
    assert (BAD_FILES[words] or "exists. Choose another name.") in str(error.value)
    assert sorted(copy.rglob("*")) == before


@pytest.mark.parametrize("there", [True, False])
def test_a_disk_that_is_full_leaves_nothing(there, tmp_path, monkeypatch):
    if there:
        (tmp_path / "a/mine").mkdir(parents=True)
    before, number = sorted(tmp_path.rglob("*")), iter(range(100))

    def full(path, *args, **kwargs):
        if next(number) == 7:
            raise OSError(28, "No space left on device", str(path))
        return open(path, *args, **kwargs)

    monkeypatch.setattr(new, "open", full, raising=False)
    with pytest.raises(UserError, match="No space left on device; nothing was made") as error:
        new.main([str(tmp_path / "a/mine")])
    assert one_line(error.value)
    assert sorted(tmp_path.rglob("*")) == before


def test_new_needs_a_project_or_a_fork(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="in no project. lab new PATH makes one") as error:
        new.main(["net", "mine"])
    assert one_line(error.value)


def test_a_fork_gets_files_of_lab(tmp_path, monkeypatch, capsys):
    for name in ("conf/net", "src/lab/nets", "tests"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.setattr(new, "CHECKOUT", tmp_path)
    monkeypatch.chdir(tmp_path / "src")
    new.main(["net", "tall_cnn"])
    assert OmegaConf.load(tmp_path / "conf/net/tall_cnn.yaml")._target_ == "lab.nets.tall_cnn.TallCnn"
    assert "class TallCnn(nn.Module)" in (tmp_path / "src/lab/nets/tall_cnn.py").read_text()
    assert "net=tall_cnn" in (tmp_path / "tests/contracts/test_net_tall_cnn.py").read_text()
    assert "lab train experiment=digits net=tall_cnn" in capsys.readouterr().out


def test_new_imports_nothing_heavy(tmp_path):
    code = """
import sys
from lab.engine import cli
sys.argv = ["lab", "new", "mine"]
cli.main()
assert not {"torch", "lightning", "numpy", "pydantic"} & set(sys.modules)
"""
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "mine/src/mine/tasks/focal.py").is_file()


def test_the_usage_says_what_a_user_gets(capsys, monkeypatch):
    assert "lab new       make a project that uses lab" in lab(Path.cwd(), "help").stdout
    new.main(["--help"])
    assert "lab new net NAME" in capsys.readouterr().out
