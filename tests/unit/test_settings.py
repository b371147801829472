"""Settings: a key and its default are in the YAML alone; a dataclass narrows the types of some."""

from dataclasses import fields
from importlib import import_module

import pytest
from omegaconf import OmegaConf

from lab.engine import cli
from lab.engine.config.compose import CONF, compose_config
from lab.engine.config.settings import wrong_settings
from lab.runs import check

NARROWED = {
    "train": check.Settings,
    **{verb: import_module(f"lab.verbs.{verb}.main").Settings for verb in ("tune", "predict", "serve", "explain")},
}
WORDS = {"predict": ["input=x"], "test": ["run=x"], "explain": ["run=x"], "export": ["run=x"]}


def composed(verb, *words):
    return compose_config(verb, [*WORDS.get(verb, ()), *words])


@pytest.mark.parametrize("verb", NARROWED)
def test_a_type_is_of_a_key_that_the_yaml_has(verb):
    defaults = OmegaConf.load(CONF / f"{verb}.yaml")
    assert {field.name for field in fields(NARROWED[verb])} <= set(map(str, defaults))


@pytest.mark.parametrize("verb", sorted(set(cli.VERBS) - {"tune", "data"}))  # their configs are those of train
def test_the_defaults_are_sound(verb):
    words = ["experiment=digits"] if verb == "train" else []
    assert list(wrong_settings(verb, composed(verb, *words), NARROWED.get(verb))) == []


@pytest.mark.parametrize(
    ("verb", "word", "problem"),
    [
        ("test", "+data.rot=x", "data: unknown key rot. Did you mean root?"),
        ("test", "+rnu=x", "unknown key rnu. Did you mean run?"),
        ("test", "~log_dir", "log_dir: lab test requires it"),
        ("export", "int8=1", "int8=1: should be a valid boolean"),
        ("predict", "top_k=0", "top_k=0: should be greater than 0"),
        ("serve", "host=3", "host=3: should be a valid string"),
        ("explain", "methods=[]", "methods=[]: list should have at least 1 item after validation, not 0"),
        ("train", "figures=3", "figures=3: should be a valid boolean"),
        ("train", "monitor=3", "monitor=3: should be an object"),
        ("train", "+monitor.mod=max", "monitor: unknown key mod. Did you mean mode?"),
        ("train", "checkpoint.every_n_steps=0", "checkpoint.every_n_steps=0: should be greater than 0"),
    ],
)
def test_a_wrong_setting_is_one_line(verb, word, problem):
    words = ["experiment=digits"] if verb == "train" else []
    assert list(wrong_settings(verb, composed(verb, *words, word), NARROWED.get(verb))) == [problem]


def test_the_config_of_a_run_has_no_sweep():
    run, sweep = (set(compose_config(name, ["experiment=digits"])) for name in ("train", "sweep"))
    assert sweep - run == {"sweep", "launcher"}
    assert run < sweep


@pytest.mark.parametrize(
    ("key", "problem"),
    [
        (
            "experiment",
            "experiment: its settings have no effect; the first line of its YAML must be # @package _global_",
        ),
        ("debug", "debug: its settings have no effect; the first line of its YAML must be # @package _global_"),
        ("sweep", "sweep: an experiment cannot set it; set it on the command line of lab train -m"),
        ("launcher", "launcher: an experiment cannot set it; set it on the command line of lab train -m"),
    ],
)
def test_settings_in_a_place_without_effect_are_refused(key, problem):
    cfg = compose_config("train", ["experiment=digits"])
    OmegaConf.set_struct(cfg, False)
    cfg[key] = {"trainer": {"max_epochs": 77}}
    assert list(wrong_settings("train", cfg, check.Settings)) == [problem]
