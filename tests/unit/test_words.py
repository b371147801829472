"""The words of a command line: paths are taken as they are typed."""

import pytest
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from lab.engine.config import words
from lab.engine.config.run_overrides import add_run_overrides
from lab.engine.config_file import write_config
from lab.engine.runs.index import RunInfo
from lab.sweep.best_yaml import experiment

NAMES = (
    "my pics", "r (1)", "图片.png", "josé.png", "a=b.png", "a#1.png", "it's.png", 'say "x".png', "a,b", "[x]", "{x}",
    "a$b", "back\\slash", "end\\", "~x", "true", "1", "2024", "1e5", "a\nb", "a\tb", " lead", "trail ", "caf\udce9.png",
    "'a' and 'b'", "\\'", "\\\\", "a:b", "100%", "'", '"', "choice(a,b)", "glob(*)", "logs/x", "a\\ b",
)  # fmt: skip


@pytest.mark.parametrize("name", NAMES, ids=ascii)
@pytest.mark.parametrize("key", ["run", "data.root", "+data.root"])
def test_a_path_is_taken_as_it_is_typed(name, key):
    word = words.literal(f"{key}={name}")
    value = OverridesParser.create().parse_override(word).value()
    assert (value, type(value)) == (name, str)
    assert words.literal(word) == word, "it is quoted once"
    assert words.value_of(words.override_word(key, name)) == name
    several = words.literal(f"{key}={words.quoted(name)},b", multirun=True)
    assert OverridesParser.create().parse_override(several).value().list[0].text == name


def test_what_is_no_text_stays():
    for word in ("run=null", "data.root=${oc.env:X}/a", "net.widths=[8,8]", "data.source=1", "-m", "~callbacks.x"):
        assert words.literal(word) == word
    assert words.literal("data.root=choice(a,b)", multirun=True) == "data.root=choice(a,b)"
    assert words.literal("data.root=my pics,2024", multirun=True) == "data.root='my pics','2024'"
    assert words.literal("data.root=${oc.env:X}/a", multirun=True) == "data.root='${oc.env:X}/a'"


@pytest.mark.parametrize(
    "name", ["back\\slash", "tab\there", "two words", "%s %d", "a:b", "{x}", "~x", "caf\udce9"], ids=ascii
)
def test_a_sweeps_job_gets_the_path_as_it_is_typed(name):
    override = OverridesParser.create().parse_override(words.literal(f"data.root={name}", multirun=True))
    ((job, *_),) = BasicSweeper.split_arguments([override], None)
    assert words.value_of(words.literal(job[0])) == name


@pytest.mark.parametrize("name", ["2024", "my (pics)", "it's, here", "图片"])
def test_a_config_and_the_best_of_a_sweep_have_the_path(compose, name):
    assert compose("experiment=image_folder", f"data.root={name}", f"run={name}").data.root == name
    word = words.literal(f"data.root={name}")
    run = RunInfo("x", {}, "finished", 0.0, "", best={"metric": "val/acc", "value": 0.5})
    values = OmegaConf.create(experiment([run], ["experiment=image_folder", word, "net=mlp", "net.widths=[8,9]"]))
    assert values.data.root == name
    assert values.net.widths == [8, 9]


def test_a_run_in_any_folder_is_resumed(compose, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "r (1)"
    folder.mkdir()
    write_config(folder, compose("experiment=digits", "seed=3"))
    (folder / "stamp.json").write_text('{"overrides": ["experiment=digits", "seed=3"]}')
    found = add_run_overrides(words.literals(["run=r (1)", "seed=4"]))
    assert found == ["experiment=digits", "seed=4", "run='r (1)'"]


@pytest.mark.parametrize(
    "value", ["a b", "null", "true", "3", "", [1, "x, y", None], {"flip": True, "of": ["a b"]}, 0.5, None, False]
)
def test_a_value_is_read_back(value):
    assert words.value_of(words.override_word("key", value)) == value
