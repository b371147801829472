"""The wheel carries its configs, and works from any folder."""

import subprocess
import sys
import sysconfig
import venv
import zipfile

import pytest
from conftest import CONF

ROOT = CONF.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    build = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(folder),
        str(ROOT),
    ]
    subprocess.run(build, check=True)
    (path,) = folder.glob("lab_template-*.whl")
    return path


def test_the_wheel_holds_every_config(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.removeprefix("lab/conf/") for name in names if name.startswith("lab/conf/")} == {
        str(path.relative_to(CONF)) for path in CONF.rglob("*.yaml")
    }
    templates = {
        str(path.relative_to(ROOT / "src")) for path in (ROOT / "src/lab/verbs/templates").rglob("*") if path.is_file()
    }
    assert templates == {name for name in names if name.startswith("lab/verbs/templates/")}
    assert {name.split("/")[0] for name in names} == {"lab", "lab_template-0.1.0.dist-info"}


def test_trains_from_any_folder_in_a_fresh_environment(wheel, tmp_path):
    venv.create(tmp_path / "venv", with_pip=False)
    site = tmp_path / f"venv/lib/python{sysconfig.get_python_version()}/site-packages"
    python = tmp_path / "venv/bin/python"
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "-q", "--no-deps", str(wheel)]
    subprocess.run(install, check=True)
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib"))  # torch and all
    lab, folder = tmp_path / "venv/bin/lab", tmp_path / "empty"
    folder.mkdir()
    command = [lab, "train", "experiment=digits", "trainer.max_epochs=1", "trainer.enable_progress_bar=false"]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "test/acc" in result.stdout
    assert [path.name for path in folder.iterdir()] == ["logs"]
    where = subprocess.run(
        [python, "-c", "import lab; print(lab.__file__)"], cwd=folder, capture_output=True, text=True
    )
    assert str(site) in where.stdout
