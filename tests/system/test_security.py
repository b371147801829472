"""Nothing that a run is given can execute code: no config, no checkpoint, no data. And nothing of it leaks."""

import contextlib
import functools
import http.server
import io
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import CONF, LAB, PLAIN, options
from omegaconf import OmegaConf
from PIL import Image
from torchvision import datasets

from lab import runs, train
from lab.build import read_data
from lab.data import tiny
from lab.engine.config import allow
from lab.engine.config.compose import compose_config as compose_verb
from lab.engine.config.instantiate import instantiate
from lab.engine.errors import UserError
from lab.engine.runs import checkpoints
from lab.features.read_image import read_image, suffixes
from lab.runs import resume
from lab.runs.check import check
from lab.verbs import test

QUICK = (*PLAIN, "net=mlp", "debug=two_batches")
SRC = CONF.parent / "src" / "lab"

FOREIGN = """
    os.system posix.system os.popen os.execvp os.remove subprocess.run subprocess.Popen subprocess.check_output
    builtins.exec builtins.eval builtins.__import__ builtins.open builtins.getattr builtins.print runpy.run_path
    importlib.import_module code.interact pdb.run timeit.timeit pty.spawn ctypes.CDLL shutil.rmtree shutil.copy
    pathlib.Path.write_text pathlib.Path.unlink pathlib.Path urllib.request.urlopen webbrowser.open
    platform._syscmd_file pickle.load pickle.loads numpy.load numpy.save joblib.load pip.main
    setuptools._distutils.spawn.spawn multiprocessing.Process asyncio.create_subprocess_shell functools.partial
    functools.reduce operator.methodcaller hydra.utils.get_method hydra.utils.call hydra.utils.instantiate
    hydra.utils.get_object hydra.main omegaconf.OmegaConf.load pydantic.ImportString yaml.unsafe_load
    PIL.Image.open torch.load torch.save torch.hub.load torch.hub.load_state_dict_from_url torch.jit.load
    torch.compile torch.package.PackageImporter torch.utils.cpp_extension.load torch.multiprocessing.spawn
    torch.serialization.load torch.distributed.init_process_group torch.nn.Module.load_state_dict
    torch.nn.functional.relu torch.nn.modules.module.torch.load torch.nn.utils.parametrize.cached
    torch.optim.Optimizer.load_state_dict torch.optim.lr_scheduler.warnings.warn
    torch.optim.lr_scheduler.types.FunctionType torch.optim.swa_utils.AveragedModel
    lightning.pytorch.LightningModule.load_from_checkpoint lightning.fabric.utilities.cloud_io._load
    lightning.pytorch.callbacks.lambda_function.LambdaCallback
    lightning.pytorch.callbacks.lambda_function.Callable lightning.pytorch.cli.LightningCLI
    lightning.pytorch.trainer.trainer.os.system lightning.Trainer.fit
    torchmetrics.utilities.imports.package_available torchmetrics.utilities.Any torchmetrics.functional.accuracy
    torchmetrics.Metric.load_state_dict torchvision.transforms.v2.functional.to_image torchvision.io.read_file
    torchvision.datasets.CIFAR10 torchvision.models.get_model
"""
OWN = """
    lab.runs.finished.subprocess.run lab.engine.runs.stamp.subprocess.run lab.engine.launch.signals.requeue
    lab.engine.launch.signals.subprocess.run lab.engine.cli.main lab.engine.cli.import_module
    lab.engine.files.write_json lab.engine.folder.os.system lab.engine.config.compose.compose
    lab.engine.errors.fail lab.engine.runs.checkpoints.torch.load lab.engine.runs.checkpoints.read
    lab.runs.finetune.load_pretrained lab.train.main lab.engine.config.allow.import_module
    lab.engine.config.instantiate.instantiate lab.engine.training.loggers.Metrics lab.data.images.tempfile.mkdtemp
    lab.data.torchvision.shutil.rmtree lab.features.read_image.Image.open lab.data.images.Path.write_text
    lab.data.torchvision._unpack lab.optim.torch.load lab.optim.torch.hub.load lab.data.images.ImageData.__init__
    lab.tasks.base.inspect.getsource lab.tasks.judge.Judge lab.tasks.optimizers.build_optimizer
    lab.tasks.added_metrics.added_metrics lab.nets lab.data.images lab.callbacks.last.signal.raise_signal lab lab. .lab
    lab..optim lab.optim.Muon.step
"""
BORROWED = """
    lab.data.images.Path lab.data.images.find_spec lab.data.torchvision.one_line lab.callbacks.last.requeue
    lab.callbacks.guard.UserError lab.optim.SGD lab.optim.LambdaLR lab.data.torchvision.DEBIAN lab.data.images.torch
    lab.data.tiny.Image lab.nets.cnn.nn torch.optim.lr_scheduler.Counter torch.optim.lr_scheduler.Any
    torch.nn.Parameter torchvision.transforms.v2.InterpolationMode
"""
HYDRAS = """
    hydra/launcher=basic hydra/job_logging=default hydra.searchpath=[/tmp] hydra.run.dir=/tmp/x
    +hydra.callbacks.x=1 +hydra.callbacks.x._target_=os.system hydra.launcher._target_=os.system
    hydra.job.chdir=true hydra.output_subdir=.x hydra.job.env_set.LD_PRELOAD=x
    +hydra.job_logging.handlers.x.class=logging.FileHandler hydra={} ~hydra.run
    +hydra.job_logging.handlers.x.()=os.system hydra.sweeper._target_=os.system hydra.sweep.subdir=/tmp
    ++hydra.hydra_logging.x=1 +data@hydra.callbacks.x=digits +net@_global_.hydra.launcher=cnn --config-dir=/tmp
    --config-path=/tmp --config-name=x --config-d=/tmp --experimental-rerun=x --exp=x
"""
TRICKS = {  # `evil` is a module that writes a file when it is imported
    "call": "{_target_: evil.call}",
    "partial": "{_target_: evil.call, _partial_: true}",
    "arguments": "{_target_: evil.call, _args_: [1]}",
    "nested": "{_target_: torch.nn.Linear, in_features: {_target_: evil.call}}",
    "nested in an allowed partial": "{_target_: torch.optim.SGD, _partial_: true, lr: {_target_: evil.call}}",
    "in _args_": "{_target_: torch.nn.Sequential, _args_: [{_target_: evil.call}]}",
    "_args_ of an allowed one": "{_target_: torch.nn.Linear, _args_: [1, 2]}",
    "in a list": "[1, {a: [{_target_: evil.call}]}]",
    "in a list of lists": "[[[{_target_: evil.call}]]]",
    "not recursive": "{_target_: torch.nn.Linear, _recursive_: false, a: {_target_: evil.call}}",
    "a list": "{_target_: [evil.call]}",
    "a mapping": "{_target_: {_target_: evil.call}}",
    "nothing": "{_target_: null}",
    "a number": "{_target_: 3}",
    "empty": "{_target_: ''}",
    "from the environment": "{_target_: '${oc.env:EVIL_NAME}'}",
    "half from the environment": "{_target_: 'evil.${oc.env:EVIL_HALF}'}",
    "by reference": "{a: evil.call, _target_: '${.a}'}",
    "decoded": "'${oc.decode:${oc.env:EVIL_CONFIG}}'",
    "decoded in a list": "['${oc.decode:${oc.env:EVIL_CONFIG}}']",
    "made": "'${oc.create:{_target_:evil.call}}'",
    "a reference from the environment": "'${oc.env:EVIL_REFERENCE}'",
    "an escaped reference": "'\\${oc.create:{_target_:evil.call}}'",
    "spaces": "{_target_: ' evil.call'}",
    "a line's end": '{_target_: "lab.optim.triangle\\n"}',
    "another's name": "{_target_: labx.optim.triangle}",
    "a path": "{_target_: ../evil.call}",
}


@pytest.fixture
def evil(tmp_path, monkeypatch):
    """A module on the path; the file that it writes when it is imported."""
    (tmp_path / "path").mkdir()
    for name in ("evil", "labx"):
        (tmp_path / "path" / f"{name}.py").write_text(
            f"open({str(tmp_path / 'executed')!r}, 'w')\ndef call(*a, **k): ..."
        )
    monkeypatch.syspath_prepend(tmp_path / "path")
    monkeypatch.setenv("EVIL_NAME", "evil.call")
    monkeypatch.setenv("EVIL_HALF", "call")
    monkeypatch.setenv("EVIL_CONFIG", "{_target_: evil.call}")
    monkeypatch.setenv("EVIL_REFERENCE", "${oc.create:{_target_:evil.call}}")
    yield tmp_path / "executed"
    assert "evil" not in sys.modules
    assert not (tmp_path / "executed").exists()


def refused(error: pytest.ExceptionInfo[UserError]) -> None:
    lines = str(error.value).splitlines()
    assert lines
    assert all(line.startswith("error: ") for line in lines)


# ---------------------------------------------------------------------------------------------------------- configs


def test_there_are_enough_hostile_targets():
    assert len({*FOREIGN.split(), *OWN.split()}) + len(TRICKS) > 100


@pytest.mark.parametrize("name", [*FOREIGN.split(), *OWN.split()])
def test_a_hostile_target_is_refused_by_its_name(name, monkeypatch):
    monkeypatch.setattr(allow, "import_module", None)  # nothing is imported to find out
    for place in (f"net: {{_target_: {name!r}}}", f"a: {{b: [1, {{_target_: {name!r}, _partial_: true}}]}}"):
        with pytest.raises(UserError, match=re.escape(f"_target_={name}: a config may not call it")) as error:
            allow.refuse(OmegaConf.create(place))
        refused(error)
    with pytest.raises(ImportError, match="a config may not call it"):
        allow.locate(name)


@pytest.mark.parametrize("name", BORROWED.split())
def test_a_name_that_an_allowed_module_only_imports_is_refused(name):
    with pytest.raises(UserError, match="a config may not call it") as error:
        instantiate(OmegaConf.create({"_target_": name}))
    refused(error)


@pytest.mark.parametrize("trick", TRICKS)
@pytest.mark.parametrize("group", ["net", "+callbacks.x"])
def test_a_hostile_config_is_refused_before_anything_is_imported(trick, group, compose, evil):
    cfg = compose(*QUICK)
    OmegaConf.update(
        cfg, group.lstrip("+"), OmegaConf.create(f"x: {TRICKS[trick]}")._get_node("x"), force_add=True, merge=False
    )
    with pytest.raises(UserError) as error:
        check(cfg)
    refused(error)
    with pytest.raises(UserError) as error:
        train.main(cfg)
    refused(error)


@pytest.mark.parametrize("name", ["os.system", "torch.load", "lab.engine.launch.signals.requeue"])
def test_the_command_line_refuses_it(name, compose):
    with pytest.raises(UserError, match=rf"error: net\._target_={name}: a config may not call it; a package of yours"):
        check(compose(*QUICK, f"net._target_={name}"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run's folder, to be copied."""
    folder = tmp_path_factory.mktemp("run")
    quick = ["trainer=cpu", "trainer.enable_progress_bar=false", f"log_dir={folder}"]
    train.main(compose_verb("train", [*quick, *QUICK]))
    return next(folder.glob("digits/*"))


@pytest.fixture
def planted(finished, tmp_path):
    """A function that changes the config of a copy of a finished run."""

    def planted(key, value):
        shutil.copytree(finished, tmp_path / "run", dirs_exist_ok=True)
        cfg = OmegaConf.load(finished / "config.yaml")
        OmegaConf.update(cfg, key, OmegaConf.create(f"x: {value}")._get_node("x"), force_add=True, merge=False)
        OmegaConf.save(cfg, tmp_path / "run" / "config.yaml")
        return tmp_path / "run"

    return planted


@pytest.mark.parametrize("trick", TRICKS)
@pytest.mark.parametrize("key", ["data", "net", "callbacks.x", "nowhere"])
def test_a_run_folders_config_is_not_trusted(trick, key, planted, evil):
    folder = planted(key, TRICKS[trick])
    doors = {
        "load": lambda: runs.load(folder),
        "rank": lambda: train.join(str(folder)),
        "test": lambda: test.main(compose_verb("test", [f"run={folder}"])),
        "resume": lambda: resume.merge_config(compose_verb("train", QUICK), folder),
    }
    for door, enter in doors.items():
        with pytest.raises(UserError) as error:
            enter()
        refused(error)
        assert "evil" not in sys.modules, door


def test_lab_rank_refuses_it_in_a_line(lab, planted, evil):
    result = lab("rank", str(planted("net._target_", "evil.call")))
    assert result.stderr.startswith("error: net._target_=evil.call: a config may not call it")
    assert len(result.stderr.splitlines()) == 1
    assert result.returncode == 2


def test_a_run_folders_yaml_makes_no_objects(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    canary = tmp_path / "executed"
    for text in (f"net: !!python/object/apply:os.system ['touch {canary}']", "- 1", "net: [", "\0"):
        (tmp_path / "run" / "config.yaml").write_text(text)
        with pytest.raises(UserError, match="is damaged") as error:
            runs.load(tmp_path / "run")
        refused(error)
    assert not canary.exists()


@pytest.mark.parametrize("value", [{"_target_": "evil.call"}, [{"_target_": "evil.call"}]], ids=str)
@pytest.mark.parametrize("feature", ["label", "image"])
def test_a_run_folders_facts_are_not_trusted(value, feature, finished, tmp_path, evil):
    shutil.copytree(finished, tmp_path / "run")
    facts = json.loads((finished / "data.json").read_text())
    if feature == "label":
        facts["features"]["label"]["class_names"] = [value] * 10
    else:
        facts["features"]["image"] = value
    (tmp_path / "run" / "data.json").write_text(json.dumps(facts))
    with pytest.raises(UserError, match=r"data\.json( is damaged|: .* package evil, .* is not installed)") as error:
        runs.load(tmp_path / "run")
    refused(error)


def test_a_class_name_is_not_resolved(finished, tmp_path, evil):
    shutil.copytree(finished, tmp_path / "run")
    facts = json.loads((finished / "data.json").read_text())
    facts["features"]["label"]["class_names"] = names = ["${oc.env:EVIL_NAME}"] * 10
    (tmp_path / "run" / "data.json").write_text(json.dumps(facts))
    _, _, task = runs.load(tmp_path / "run")
    assert task.class_names == names


def test_a_run_folders_words_are_no_flags(lab, finished, tmp_path, evil):
    shutil.copytree(finished, tmp_path / "run")
    stamp = json.loads((finished / "stamp.json").read_text())
    for word in ("--config-dir=path", "--experimental-rerun=x", "hydra.callbacks.x._target_=evil.call", "-m"):
        (tmp_path / "run" / "stamp.json").write_text(json.dumps(stamp | {"overrides": [*QUICK, word]}))
        result = lab("train", "run=run", env=os.environ | {"PYTHONPATH": f"{SRC.parent}:{tmp_path}/path"})
        assert "Traceback" not in result.stderr
        assert ("only hydra.verbose" in result.stderr) if word.startswith("hydra") else "finished" in result.stdout


@pytest.mark.parametrize("argument", HYDRAS.split())
def test_hydras_own_settings_are_refused(lab, argument, tmp_path):
    result = lab("train", "experiment=digits", "debug=two_batches", argument)
    assert result.returncode == 2
    assert len(result.stderr.splitlines()) == 1, result.stderr
    assert "hydra.verbose" in result.stderr or "configs come from conf/ alone" in result.stderr or "()" in argument
    assert not list(tmp_path.iterdir())


def test_all_shipped_configs_are_allowed(compose):
    files = [path for path in CONF.rglob("*.yaml") if "_target_" in path.read_text()]
    names = {name for path in files for name in re.findall(r"_target_: ([\w.]+)", path.read_text())}
    assert len(files) > 20
    assert len(names) > 15
    for name in names:
        assert callable(allow.locate(name))
    for experiment in options("experiment"):
        allow.refuse(compose(f"experiment={experiment}"))


def test_what_people_use_is_allowed():
    for name in (
        "lightning.pytorch.Trainer", "lightning.pytorch.callbacks.StochasticWeightAveraging", "torch.nn.ReLU",
        "lightning.pytorch.loggers.CSVLogger", "lightning.pytorch.strategies.DDPStrategy", "torchmetrics.MeanMetric",
        "lightning.pytorch.profilers.AdvancedProfiler", "torchmetrics.classification.MulticlassAccuracy",
        "torchvision.transforms.v2.ColorJitter", "torch.nn.CrossEntropyLoss", "torch.optim.lr_scheduler.StepLR",
    ):  # fmt: skip
        assert callable(allow.locate(name))


def test_a_fork_adds_its_modules(tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "nets.py").write_text("from subprocess import run\nclass Net: ...\ndef net(): return 7")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ImportError, match="an entry point in the group lab.packages"):
        allow.locate("mine.nets.Net")
    (tmp_path / "mine-0.dist-info").mkdir()
    (tmp_path / "mine-0.dist-info/entry_points.txt").write_text("[lab.packages]\nmine = mine")
    monkeypatch.syspath_prepend(tmp_path / ".")  # packages are looked up once for a path
    assert instantiate({"_target_": "mine.nets.net"}) == 7
    assert allow.locate("mine.nets.Net").__name__ == "Net"
    for name in ("mine.nets.run", "mine.nets.sub.x", "mine.other"):
        with pytest.raises(ImportError):
            allow.locate(name)


def test_nothing_else_executes_what_it_is_given():
    """Ruff's rules, in pyproject.toml; a `noqa` says why one line may."""
    rules = "S102,S301,S307,S602,S604,S605,TID251"
    command = [sys.executable, "-m", "ruff", "check", "--no-cache", "--select", rules, str(SRC)]
    done = subprocess.run(command, cwd=CONF.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    allowed = [line for path in SRC.rglob("*.py") for line in path.read_text().splitlines() if "noqa: TID251" in line]
    loads = [line for line in allowed if "torch.load(" in line]
    assert loads
    assert all("weights_only=True" in line for line in loads)
    assert not [path for path in SRC.rglob("*.py") if "allow_pickle" in path.read_text()]


# ------------------------------------------------------------------------------------------------------ checkpoints


class Payload:
    """An object that unpickling turns into a call."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def _touch(canary: str) -> Payload:
    return Payload(os.system, f"touch {canary}")


def _object_array(canary: str) -> np.ndarray:
    array = np.empty(1, dtype=object)
    array[0] = _touch(canary)
    return array


def _net(canary: str) -> torch.nn.Module:
    net = torch.nn.Linear(1, 1)
    net.extra = _touch(canary)
    return net


def _nested_load(canary: str) -> Payload:
    Path(f"{canary}.pt").write_bytes(pickle.dumps(_touch(canary)))
    return Payload(functools.partial(torch.load, weights_only=False), f"{canary}.pt")


PAYLOADS = {
    "os.system": _touch,
    "os.popen": lambda c: Payload(subprocess.getoutput, f"touch {c}"),
    "os.mkdir": lambda c: Payload(os.mkdir, c),
    "eval": lambda c: Payload(eval, f"open({c!r}, 'w').close()"),
    "exec": lambda c: Payload(exec, f"open({c!r}, 'w').close()"),
    "subprocess.run": lambda c: Payload(subprocess.check_output, ["touch", c]),
    "subprocess.call": lambda c: Payload(subprocess.call, ["touch", c]),
    "Path.touch": lambda c: Payload(Path.touch, Path(c)),
    "shutil.copy": lambda c: Payload(shutil.copy, __file__, c),
    "np.save": lambda c: Payload(np.ndarray.tofile, np.zeros(1), c),
    "torch.save": lambda c: Payload(torch.save, 1, c),
    "torch.load": _nested_load,
    "pickle.loads": lambda c: Payload(pickle.loads, pickle.dumps(_touch(c))),
    "functools.partial": lambda c: Payload(functools.partial(os.system, f"touch {c}")),
    "functools.reduce": lambda c: Payload(functools.reduce, os.mkdir, [0o700], c),
    "object array": _object_array,
    "a net": _net,
    "in a state": lambda c: {"state_dict": {"w": torch.zeros(2)}, "hyper_parameters": [{"a": (1, _touch(c))}]},
    "in the state dict": lambda c: {"state_dict": {"w": _touch(c)}},
    "as a key": lambda c: {"state_dict": {}, "epoch": [Payload(os.mkdir, c)]},
}


def _legacy(file: Path, content: object) -> None:
    torch.save(content, file, _use_new_zipfile_serialization=False)


def _pickled(file: Path, content: object) -> None:
    file.write_bytes(pickle.dumps(content))


def _sealed(file: Path, content: object) -> None:
    torch.save(content, file)
    checkpoints.seal(file)


def _tarred(file: Path, content: object) -> None:
    with tarfile.open(file, "w") as archive:
        for name in ("sys_info", "pickle", "storages", "tensors"):
            info, data = tarfile.TarInfo(name), pickle.dumps(content)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


def _zipped(file: Path, content: object, *others: str) -> None:
    with zipfile.ZipFile(file, "w") as archive:
        for name in ("data.pkl", *others):
            archive.writestr(f"archive/{name}", pickle.dumps(content, 2))
        archive.writestr("archive/version", "3")
        archive.writestr("archive/byteorder", "little")
        archive.writestr("../executed", "")


def _scripted(file: Path, content: object) -> None:
    """As TorchScript, which torch.load hands on."""
    _zipped(file, content, "constants.pkl", "code/__torch__.py")


FORMS = {
    "zip": lambda file, content: torch.save(content, file),
    "sealed": _sealed,
    "legacy": _legacy,
    "pickle": _pickled,
    "tar": _tarred,
    "hand-made zip": _zipped,
    "TorchScript": _scripted,
}


def _write(payload: str, form: str, folder: Path) -> tuple[Path, Path]:
    """A hostile checkpoint, and the file that it makes if it can."""
    file, canary = folder / "hostile.ckpt", folder / "executed"
    content = PAYLOADS[payload](str(canary))
    FORMS[form](file, content)
    return file, canary


@pytest.mark.parametrize("payload", PAYLOADS)
def test_the_payloads_are_real(payload, tmp_path):
    file, canary = _write(payload, "pickle", tmp_path)
    with contextlib.suppress(Exception):
        list(pickle.loads(file.read_bytes()))
    assert canary.exists()


@pytest.mark.parametrize("forced", ["0", "1"], ids=["", "forced"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("payload", PAYLOADS)
def test_a_hostile_checkpoint_executes_nothing(payload, form, forced, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", forced)
    file, canary = _write(payload, form, tmp_path)
    for sealed in (False, True):
        with pytest.raises(UserError) as error:
            checkpoints.read(file, sealed=sealed)
        refused(error)
        with pytest.raises(UserError):
            checkpoints.CheckpointIO().load_checkpoint(file, weights_only=False)
    assert not canary.exists()
    assert not (tmp_path.parent / "executed").exists()


@pytest.fixture
def served(tmp_path):
    """The address of a folder."""
    handler = functools.partial(Quiet, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None: ...


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("payload", ["os.system", "exec", "a net", "in the state dict"])
def test_a_hostile_checkpoint_from_the_web_executes_nothing(payload, form, served, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    _, canary = _write(payload, form, tmp_path)
    with pytest.raises(UserError) as error:
        checkpoints.read(f"{served}/hostile.ckpt", sealed=False)
    refused(error)
    assert not canary.exists()


def test_a_good_checkpoint_from_the_web_is_read(served, finished, tmp_path):
    shutil.copy(finished / "best.ckpt", tmp_path)
    assert checkpoints.read(f"{served}/best.ckpt", sealed=False)["state_dict"]
    with pytest.raises(UserError, match="could not be downloaded"):
        checkpoints.read(f"{served}/none.ckpt", sealed=False)


@pytest.mark.parametrize("key", ["finetune", "warm_start"])
def test_a_run_does_not_start_from_a_hostile_checkpoint(key, compose, tmp_path):
    file, canary = _write("in the state dict", "zip", tmp_path)
    with pytest.raises(UserError, match="a checkpoint may only hold tensors and plain containers"):
        train.main(compose(*QUICK, f"{key}={file}"))
    assert not canary.exists()


@pytest.mark.parametrize("name", ["best.ckpt", "last.ckpt"])
def test_a_run_folders_checkpoint_is_not_trusted(name, finished, tmp_path, lab, monkeypatch):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    shutil.copytree(finished, tmp_path / "run")
    file, canary = _write("in the state dict", "sealed", tmp_path)
    shutil.copy(file, tmp_path / "run" / name)
    if name == "best.ckpt":
        with pytest.raises(UserError, match="a checkpoint may only hold tensors and plain containers"):
            runs.load(tmp_path / "run")
    else:
        result = lab("train", "run=run", "trainer.max_epochs=2")
        assert result.returncode == 2
        assert "a checkpoint may only hold tensors and plain containers" in result.stderr
        assert "Traceback" not in result.stderr
    assert not canary.exists()


# ---------------------------------------------------------------------------------------------------------- secrets

CANARY = "-".join(("canary", "5f3a9c"))  # this file itself may be in git.diff
SMALL = (*QUICK, "trainer=cpu", "trainer.enable_progress_bar=false")
LEAKY = {
    "trains": ("+callbacks.x={_target_: crashing.Callback, secret: '${oc.env:LAB_CANARY}'}", 0),
    "refused by check": ("optimizer.lr=${oc.env:LAB_CANARY}", 2),
    "refused in part": ("net.dropout='x-${oc.env:LAB_CANARY}'", 2),
    "refused in a list": ("net.widths=['${oc.env:LAB_CANARY}']", 2),
    "refused target": ("net._target_=${oc.env:LAB_CANARY}", 2),
    "crashes": ("+callbacks.x={_target_: crashing.Crashing, secret: '${oc.env:LAB_CANARY}'}", 1),
}


@pytest.mark.parametrize("case", LEAKY)
def test_a_secret_stays_in_the_environment(case, lab, tmp_path):
    override, code = LEAKY[case]
    (tmp_path / "path").mkdir()
    (tmp_path / "path" / "sitecustomize.py").write_text(
        "from lab.engine.config import allow\nallow.MODULES += ('crashing',)\n"
    )
    (tmp_path / "path" / "crashing.py").write_text(
        "import lightning as L\n"
        "class Callback(L.Callback):\n"
        "    def __init__(self, secret): self.secret = secret\n"
        "class Crashing(Callback):\n"
        "    def on_train_batch_end(self, *_): raise ZeroDivisionError('no luck')\n"
    )
    env = os.environ | {"LAB_CANARY": CANARY, "PYTHONPATH": f"{tmp_path}/path:{SRC.parent}"}
    result = lab("train", *SMALL, override, env=env)
    assert result.returncode == code, result.stderr
    assert CANARY not in result.stdout + result.stderr
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not [path for path in files if CANARY.encode() in path.read_bytes()]
    if case in ("trains", "crashes"):
        names = {path.name for path in files}
        assert {"config.yaml", "stamp.json", "results.json", "metrics.csv"} <= names
        assert ("crash.txt" in names) == (code == 1)
        (config,) = (path for path in files if path.name == "config.yaml")
        assert "${oc.env:LAB_CANARY}" in config.read_text()


# ------------------------------------------------------------------------------------------------------------- data


@pytest.mark.parametrize("name", ["CIFAR10", "CIFAR100"])
@pytest.mark.parametrize("which", ["train", "test", "meta"])
def test_a_cifar_file_with_another_checksum_is_not_unpickled(name, which, compose, tmp_path, monkeypatch):
    def no_network(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr(datasets.cifar, "download_and_extract_archive", no_network)
    dataset = getattr(datasets, name)
    root, _ = tiny.torchvision_images(dataset)
    shutil.copytree(root, tmp_path / "data")
    folder, canary = tmp_path / "data" / dataset.base_folder, tmp_path / "executed"
    victim = {"train": dataset.train_list[0][0], "test": dataset.test_list[0][0], "meta": dataset.meta["filename"]}[
        which
    ]
    (folder / victim).write_bytes(pickle.dumps(_touch(str(canary))))
    with pytest.raises(UserError, match=f"data: {name} is not in"):
        read_data(compose("experiment=digits", f"data={name.lower()}", f"data.root={tmp_path}/data"))
    with pytest.raises((UserError, RuntimeError)):
        dataset(tmp_path / "data")
    assert not canary.exists()


def test_a_pickle_is_no_picture(tmp_path):
    file, canary = _write("os.system", "pickle", tmp_path)
    for name in ("a.png", "a.npy", "a.pt"):
        shutil.copy(file, tmp_path / name)
        with pytest.raises(UserError, match="is not a readable image"):
            read_image(str(tmp_path / name), 3, 8)
    assert not canary.exists()


def test_postscript_is_not_run(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.eps")
    shutil.copy(tmp_path / "a.eps", tmp_path / "a.png")
    assert not {".eps", ".ps"} & set(suffixes())
    with pytest.raises(UserError, match="is not a readable image"):
        read_image(str(tmp_path / "a.png"), 3, 8)


def test_names_of_folders_and_links_lead_nowhere(compose, tmp_path, monkeypatch):
    """A class folder's name is text, wherever it is shown; nothing is written where links and dots point."""
    monkeypatch.setenv("LAB_CANARY", CANARY)
    outside, root = tmp_path / "outside", tmp_path / "images"
    shutil.copytree(tiny.image_folder(), root)
    shutil.copytree(root / "a", outside)
    shutil.rmtree(root / "a")
    (root / "..a").symlink_to(outside)
    (root / "b" / "..%2f..%2fx.png").write_bytes((root / "b" / next(iter(os.listdir(root / "b")))).read_bytes())
    before = {path: path.stat().st_mtime_ns for path in [*outside.rglob("*"), *root.rglob("*")]}
    arguments = ("experiment=image_folder", f"data.root={root}", "debug=two_batches", "data.num_workers=0")
    train.main(compose(*arguments))
    assert before == {path: path.stat().st_mtime_ns for path in [*outside.rglob("*"), *root.rglob("*")]}
    (root / "b").rename(root / "${oc.env:LAB_CANARY}")
    train.main(compose(*arguments))  # facts never go through Hydra, which would follow it
    runs = [path.parent for path in tmp_path.rglob("data.json")]
    names = [json.loads((run / "data.json").read_text())["features"]["label"]["class_names"] for run in runs]
    assert ["${oc.env:LAB_CANARY}" in each for each in sorted(names)].count(True) == 1
    assert not [
        path for run in runs for path in run.rglob("*") if path.is_file() and CANARY.encode() in path.read_bytes()
    ]


# ---------------------------------------------------------------------------------------------------------- network


def listeners(session: int) -> tuple[set[str], int]:
    """The addresses, in hexadecimal, on which a session's processes listen; and how many processes it has."""
    processes = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(stat.read_text().rpartition(")")[2].split()[3]) == session:
                processes.append(stat.parent)
    sockets = set()
    for process in processes:
        with contextlib.suppress(OSError):
            for descriptor in (process / "fd").iterdir():
                with contextlib.suppress(OSError):
                    sockets.add(os.readlink(descriptor))
    addresses = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == "0A" and f"socket:[{words[9]}]" in sockets:  # 0A: it listens
                addresses.add(words[1].partition(":")[0])
    return addresses, len(processes)


LOOPBACK = {"0100007F", "00000000000000000000000001000000", "0000000000000000FFFF00000100007F"}


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="it reads Linux's tables")
def test_two_processes_listen_to_this_machine_only(tmp_path):
    more = ("net=mlp", "trainer=ddp_cpu", "trainer.max_epochs=20", "trainer.enable_progress_bar=false")
    job = subprocess.Popen(
        [str(LAB), "train", *PLAIN, *more],
        cwd=tmp_path,
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    seen, most = set(), 0
    while job.poll() is None:
        addresses, num = listeners(job.pid)
        seen, most = seen | addresses, max(most, num)
        time.sleep(0.02)
    assert job.returncode == 0, job.stdout.read()
    assert most >= 2
    assert seen, "nothing was seen to listen: is this test blind?"
    assert seen <= LOOPBACK
    job.stdout.close()
