"""A package of a fork, installed beside lab: its classes and YAMLs are used, and nothing that is not installed is."""

import json
import os
import sys
from pathlib import Path

import pytest
from conftest import CONF
from omegaconf import OmegaConf

from lab.engine.config import allow, packages
from lab.engine.config.command_line import check_command_line, list_experiments
from lab.engine.config.compose import compose_config
from lab.engine.config.instantiate import instantiate
from lab.engine.config.sweep_overrides import is_group, parse_overrides
from lab.engine.errors import UserError

NET = """
from dataclasses import dataclass
from subprocess import Popen
from torch import Tensor, nn

@dataclass
class Options:
    bias: bool = True

class Linear(nn.Module):
    def __init__(self, num_channels: int, image_size: int, num_classes: int, options: Options | None = None) -> None:
        super().__init__()
        self.head = nn.Linear(num_channels * image_size**2, num_classes, options is None or options.bias)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(image.flatten(1))

class _Hidden: ...

def made(): return 7
"""
EXPERIMENT = """# @package _global_
# Is a line enough?
defaults:
  - digits
  - override /net: {name}
name: {name}
"""
FILES = {
    "__init__.py": "",
    "nets/__init__.py": "from {name}.nets.deep.linear import Linear",
    "nets/deep/linear.py": NET,  # nets/deep is a namespace package
    "again.py": "from {name}.nets.deep.linear import Linear, made",
    "conf/net/{name}.yaml": "_target_: {name}.nets.deep.linear.Linear\noptions: null\n",
    "conf/experiment/{name}.yaml": EXPERIMENT,
}


def install(place: Path, name: str, files=FILES, entry_points: str = "mine = {name}") -> Path:
    """A package, and the files that installing it writes."""
    for path, text in files.items():
        path = place / name.replace(".", "/") / path.format(name=name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.format(name=name) if "{name}" in text else text)
    info = place / f"{name}-0.dist-info"
    info.mkdir(parents=True)
    lines = f"[console_scripts]\nlab.packages = os\n\n[lab.packages]\n# ours\n{entry_points.format(name=name)}\n"
    (info / "entry_points.txt").write_text(lines)
    return place


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """Its name."""
    monkeypatch.syspath_prepend(install(tmp_path / "site", "mine"))
    yield "mine"
    for name in [name for name in sys.modules if name.partition(".")[0] == "mine"]:
        del sys.modules[name]


def test_a_run_uses_it_and_comes_back_by_its_folder(tmp_path, lab):
    place = str(install(tmp_path / "site", "mine"))
    env = os.environ | {"PYTHONPATH": os.pathsep.join([place, os.environ.get("PYTHONPATH", "")])}
    quick = "data.tiny=true ema=null trainer=cpu trainer.max_epochs=1 figures=false trainer.enable_progress_bar=false"
    result = lab("train", "experiment=mine", *quick.split(), "net.options={bias: false}", "run=run", env=env)
    assert result.returncode == 0, result.stderr
    tested = lab("test", "run=run", env=env)
    assert tested.returncode == 0, tested.stderr
    assert OmegaConf.load(tmp_path / "run/config.yaml").net.options._target_ == "mine.nets.deep.linear.Options"
    assert json.loads((tmp_path / "run/results.json").read_text())["parameters"] == 32 * 32 * 10
    for refused in (lab("test", "run=run"), lab("train", "experiment=mine"), lab("train", "run=run")):
        assert refused.returncode == 2
        assert all(line.startswith("error: ") for line in refused.stderr.splitlines()), refused.stderr
    for arguments in (["train"], ["train", "--help"], ["-sc", "query=bash"]):
        listed = lab(*arguments, env=env | {"COMP_LINE": "lab train experiment=m"})
        assert "mine" in listed.stdout + listed.stderr


def test_every_list_of_options_has_its_own(mine):
    assert "mine" in "\n".join(list_experiments("train"))
    with pytest.raises(UserError, match="unknown net mien. Did you mean mine"):
        check_command_line("train", ["experiment=mine", "net=mien"])
    with pytest.raises(UserError, match="unknown experiment mnie. Did you mean mine"):
        check_command_line("tune", ["experiment=mnie"])
    assert check_command_line("train", ["-m", "experiment=digits,mine", "net=glob(mi*)"])
    assert [o.key_or_group for o in parse_overrides(["net=mine"])] == ["net"]
    cfg = compose_config("train", ["experiment=digits", "net=mine", "net.options={bias: false}"])
    assert cfg.net.options._target_ == "mine.nets.deep.linear.Options", "an annotation names the class"


@pytest.mark.parametrize("names", [("", "{place}"), ("{place}", "{place}/../site"), (".", "{place}", "{place}/.")])
def test_a_folder_with_two_names_on_the_path_is_one(tmp_path, monkeypatch, names):
    """As of a package without __init__.py, under `python -m pytest`."""
    place = install(tmp_path / "site", "mine", {"conf/net/mine.yaml": "_target_: mine.Net", "net.py": ""})
    monkeypatch.chdir(place)
    monkeypatch.setattr(sys, "path", [*(name.format(place=place) for name in names), *sys.path])
    assert packages.packages()["mine"] == (place / "mine",)
    assert compose_config("train", ["experiment=digits", "net=mine"]).net._target_ == "mine.Net"


def test_a_new_group_is_one(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(install(tmp_path, "mine", {"__init__.py": "", "conf/judge/x.yaml": "a: 1"}))
    assert is_group("judge")
    assert is_group("net")
    assert compose_config("train", ["experiment=digits", "+judge=x"]).judge.a == 1


@pytest.mark.parametrize("group", ["net", "data", "task", "callbacks.x"])
def test_a_class_may_stand_in_any_group(mine, group):
    allow.refuse(OmegaConf.from_dotlist([f"{group}._target_=mine.nets.deep.linear.Linear"]))


def test_what_its_modules_define_may_be_called(mine):
    assert instantiate({"_target_": "mine.nets.deep.linear.made"}) == 7
    assert allow.locate("mine.nets.deep.linear.Linear").__name__ == "Linear"


@pytest.mark.parametrize(
    "name",
    ["mine.nets.Linear", "mine.again.Linear", "mine.again.made", "mine.nets.deep.linear.Popen",
     "mine.nets.deep.linear._Hidden", "mine.nets.deep.linear.Linear.forward", "mine.nets.deep.linear.nn.Module",
     "mine.nets.Missing", "mine.missing.Net", "mine.__main__.Net", "mine", "minestrone.Net", "mine..nets.Linear",
     "mine.nets.deep.linear.dataclass"],
)  # fmt: skip
def test_anything_else_is_refused(mine, name):
    with pytest.raises(ImportError):
        allow.locate(name)
    with pytest.raises(UserError) as error:
        instantiate({"_target_": name})
    assert len(str(error.value).splitlines()) == 1


def test_nothing_but_an_installation_adds_a_package(tmp_path, monkeypatch):
    place = install(tmp_path / "site", "mine")
    monkeypatch.chdir(place)  # such as a run's folder
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    assert "mine" not in packages.packages()
    with pytest.raises(ImportError, match="an entry point in the group lab.packages"):
        allow.locate("mine.nets.deep.linear.Linear")
    monkeypatch.setattr(sys, "path", [str(tmp_path / "missing"), str(place), *sys.path])
    (place / "mine-0.dist-info/entry_points.txt").rename(place / "entry_points.txt")
    assert "mine" not in packages.packages()


@pytest.mark.parametrize(
    "clash", ["experiment/digits.yaml", "net/cnn.yaml", "train.yaml", "task/classification.yaml"]
)  # fmt: skip
def test_a_file_of_a_name_that_lab_has_is_refused(tmp_path, monkeypatch, clash):
    assert (CONF / clash).exists()
    place = install(tmp_path, "mine", FILES | {f"conf/{clash}": "a: 1"})
    monkeypatch.syspath_prepend(place)
    with pytest.raises(UserError, match=f"mine/conf/{clash} has the name of .*conf/{clash}; rename it") as error:
        compose_config("train", ["experiment=digits"])
    assert len(str(error.value).splitlines()) == 1


def test_a_file_of_a_name_that_two_packages_have_is_refused(tmp_path, monkeypatch):
    for name in ("first", "second"):
        monkeypatch.syspath_prepend(install(tmp_path / name, name, {"__init__.py": "", "conf/net/same.yaml": "a: 1"}))
    with pytest.raises(UserError, match=r"conf/net/same.yaml has the name of .*conf/net/same.yaml"):
        compose_config("train", ["experiment=digits"])


@pytest.mark.parametrize(
    ("entry_points", "problem"),
    [("a = os", "os is a reserved name"), ("a = torch.hub", "torch.hub is a reserved name"),
     ("a = lab", "lab is a reserved name"),
     ("a = mine:Net", "expected the name of a package, such as mine, got 'mine:Net'"), ("a =", "got ''"),
     ("a = absent", "package absent does not exist"), ("a = mine.absent", "package mine.absent does not exist")],
)  # fmt: skip
def test_an_entry_point_that_names_no_package_of_its_own_is_named(tmp_path, monkeypatch, entry_points, problem):
    monkeypatch.syspath_prepend(install(tmp_path, "mine", entry_points=entry_points))
    with pytest.raises(UserError, match=problem) as error:
        compose_config("train", ["experiment=digits"])
    assert "mine-0.dist-info/entry_points.txt" in str(error.value)
    assert len(str(error.value).splitlines()) == 1


def test_a_package_in_a_package_and_a_single_module(tmp_path, monkeypatch):
    files = {"nets.py": "class Net: ...", "conf/net/inner.yaml": "a: 1"}
    monkeypatch.syspath_prepend(install(tmp_path, "company.inner", files))
    (tmp_path / "alone.py").write_text("class Net: ...")
    (tmp_path / "company/other.py").write_text("class Net: ...")
    (tmp_path / "alone-1.0.dist-info").mkdir()
    (tmp_path / "alone-1.0.dist-info/entry_points.txt").write_text("[lab.packages]\nalone=alone")
    assert packages.packages() == {"alone": (), "company.inner": (tmp_path / "company/inner",)}
    for name in ("company.inner.nets.Net", "alone.Net"):
        assert allow.locate(name).__name__ == "Net"
    for name in ("company.other.Net", "alone.nets.Net"):
        with pytest.raises(ImportError):
            allow.locate(name)
    assert compose_config("train", ["experiment=digits", "net=inner"]).net.a == 1
    for name in ("alone", "company.inner.nets", "company.inner", "company"):
        sys.modules.pop(name, None)


def test_the_distribution_that_is_imported_is_the_one_that_counts(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(install(tmp_path / "old", "mine", {"__init__.py": ""}, "a = absent"))
    monkeypatch.syspath_prepend(install(tmp_path / "new", "mine", {"__init__.py": ""}))
    assert [*packages.packages()] == ["mine"]


def test_lab_has_rooms_inside_its_rooms():
    assert allow.is_own("lab.nets.cnn")
    for name in ("lab.nets.cnn.nn", "lab.nets", "lab.nets.missing", "lab.verbs.serve.server", "lab.nets.__init__"):
        assert not allow.is_own(name)


def test_a_room_inside_a_room(tmp_path, monkeypatch):
    (tmp_path / "nets/vision").mkdir(parents=True)
    (tmp_path / "nets/vision/resnet.py").write_text("")
    monkeypatch.setattr(allow, "LAB", tmp_path)
    assert allow.is_own("lab.nets.vision.resnet")
    assert not allow.is_own("lab.nets.vision.other")
