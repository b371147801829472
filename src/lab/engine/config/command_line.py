"""Checks of a command line before its job starts. All problems are reported at once, each with the nearest name."""

from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from hydra import compose as hydra_compose
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lab.engine.config import objects
from lab.engine.config.compose import compose_config, composing, conf_folders
from lab.engine.config.sweep_overrides import (
    chosen_options,
    first_job,
    is_repeated,
    sets_sweep,
    unknown_key,
    with_first_value,
)
from lab.engine.config.words import TEXTS
from lab.engine.errors import UserError, fail, one_line, unknown
from lab.engine.folder import CONFIG, check_finished

ALLOWED = ("hydra.verbose",)  # of Hydra's own settings; others can execute code
TRAINS = ("train", "tune", "data")  # the verbs that take an experiment


def check_command_line(verb: str, arguments: Sequence[str]) -> bool:
    """Refuse overrides whose keys, options or values do not exist.

    Returns:
        Whether the command line is a sweep: because of -m, or because it repeats a run.

    Raises:
        UserError: a line for each problem.
    """
    from hydra._internal.utils import get_args_parser

    args, unknown_flags = get_args_parser().parse_known_args(list(arguments))
    if flags := [word for word in unknown_flags if word[:1] == "-"]:
        fail([f"{flag}: unknown option; settings are KEY=VALUE, see lab {verb} --help" for flag in flags])
    _check_flags(verb, args)
    if args.hydra_help or args.shell_completion:
        return False
    runs = not (args.help or args.cfg or args.info)
    with composing():
        overrides, problems = _parsed(args.overrides)
        if refused := [o.input_line for o in overrides if _is_hydras(o) and o.key_or_group not in ALLOWED]:
            fail([f"{text}: of Hydra's settings only {' and '.join(ALLOWED)} can be set" for text in refused])
        if verb in TRAINS and runs and not any(o.key_or_group == "experiment" for o in overrides):
            new = [f"{o.input_line}: there is no run in this folder" for o in overrides if o.key_or_group == "run"]
            raise UserError(*(f"error: {problem}" for problem in (*problems, *new)), *list_experiments(verb))
        config = "sweep" if verb == "train" and (args.multirun or any(map(sets_sweep, overrides))) else verb
        problems += _empty_or_sweep(verb, overrides)
        known = overrides if config == "sweep" else [o for o in overrides if not sets_sweep(o)]
        problems += _unknown_names(config, known, args.multirun)
    is_sweep = bool(args.multirun)
    if runs and not problems:
        cfg = compose_config(config, first_job(overrides, config))
        missing = [str(key) for key in cfg if OmegaConf.is_missing(cfg, key)]
        problems += [f"{key} is required: {key}={'FOLDER' if key == 'run' else 'FILE'}" for key in missing]
        if not problems and verb not in TRAINS and cfg.run is not None:
            check_finished(Path(cfg.run))
        is_sweep |= is_repeated(cfg)
    if verb == "train" and not problems and not is_sweep:
        problems += [f"{o.input_line}: this needs -m, seeds or cv" for o in overrides if sets_sweep(o)]
    if problems:
        fail(problems)
    return runs and is_sweep


def _check_flags(verb: str, args: Namespace) -> None:
    if args.config_name or args.config_path or args.config_dir or args.experimental_rerun:
        fail(["--config-name, --config-path, --config-dir, --experimental-rerun: configs come from conf/ alone"])
    if sum(map(bool, (args.multirun, args.cfg, args.info))) > 1:
        fail(["--multirun, --cfg, --info: one at a time"])
    if verb in ("tune", "data") and args.multirun:
        fail([f"--multirun: {verb} takes one config; lab train -m sweeps"])


def _parsed(words: Sequence[str]) -> tuple[list[Override], list[str]]:
    """The overrides, and an error for each word that Hydra cannot parse."""
    parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
    overrides, problems = [], []
    for word in words:
        if "=" not in word and word[:1] != "~":
            problems.append(f"{word}: expected KEY=VALUE{_example(word)}")
            continue
        try:
            overrides += parser.parse_overrides([word])
        except HydraException as error:
            problems.append(f"{word}: {one_line(error)}")
    return overrides, problems


def _example(word: str) -> str:
    """An override that a word without = may stand for, as the end of a message."""
    loader = GlobalHydra.instance().config_loader()
    if word in loader.get_group_options("experiment"):
        return f", such as experiment={word}"
    if word == "latest" or (Path(word) / CONFIG).is_file():
        return f", such as run={word}"
    return f", such as input={word}" if Path(word).exists() else ""


def _empty_or_sweep(verb: str, overrides: Sequence[Override]) -> Iterator[str]:
    for override in overrides:
        if override.key_or_group in TEXTS and not override.is_delete() and override.value() == "":
            yield f"{override.key_or_group}= is empty. Is a variable of the shell unset?"
        if verb != "train" and sets_sweep(override):
            yield f"{override.input_line}: only lab train -m takes it; remove it"


def _unknown_names(config: str, overrides: Sequence[Override], multirun: bool) -> Iterator[str]:
    """An error for each override that a config does not have, and for several values without -m."""
    loader = GlobalHydra.instance().config_loader()
    groups = loader.list_groups("")
    sound: list[Override] = []
    values: list[Override] = []
    for override in overrides:
        name = override.key_or_group
        if override.is_sweep_override() and not multirun and not name.startswith("hydra"):
            yield f"{override.input_line}: several values are a sweep, which needs -m"
        elif name in groups and not override.is_delete() and override.value() is None:
            yield f"{override.input_line}: expected a {name}; leave it out, or choose one"
        elif name not in groups:
            (sound if name.startswith("hydra") else values).append(override)
        else:
            options = loader.get_group_options(name)
            wrong = [value for value in chosen_options(override) if value not in options]
            yield from (f"{override.input_line}: {unknown(name, value, options)}" for value in wrong)
            if not wrong:
                sound.append(override)
    try:
        cfg = hydra_compose(config, list(map(with_first_value, sound)))
    except (HydraException, OmegaConfBaseException) as error:
        yield one_line(error)
        return
    parser = OverridesParser.create(config_loader=loader)
    for override in values:
        adds = override.is_add() or override.is_force_add()
        if problem := None if adds else unknown_key(cfg, override.key_or_group, groups):
            if not _fits_another(config, override, sound):
                yield f"{override.input_line}: {problem}"
            continue
        sound.append(override)
        with suppress(HydraException):  # the composition below reports it
            objects.replace_objects([parser.parse_override(with_first_value(override))], cfg)
    if not values:  # the composition above was already complete
        return
    try:
        hydra_compose(config, list(map(with_first_value, sound)))
    except (HydraException, OmegaConfBaseException) as error:
        yield one_line(error)


def _fits_another(config: str, override: Override, choices: Sequence[Override]) -> bool:
    """Return whether the key of a swept override belongs to an option that another override sweeps over."""
    if not override.is_sweep_override():
        return False
    words = list(map(with_first_value, choices))
    others = [
        hydra_compose(config, [*words, f"{choice.get_key_element()}={option}"])
        for choice in choices if choice.is_sweep_override() for option in chosen_options(choice)[1:]
    ]  # fmt: skip
    return any(unknown_key(other, override.key_or_group) is None for other in others)


def _is_hydras(override: Override) -> bool:
    return override.key_or_group.replace("/", ".").split(".")[0] == "hydra" or "hydra" in (override.package or "")


def list_experiments(verb: str) -> list[str]:
    """The experiments, each with its question: the first comment of its YAML."""
    lines = [f"Choose an experiment, for example: lab {verb} experiment=digits", ""]
    found = {path.stem: path for folder in reversed(conf_folders()) for path in (folder / "experiment").glob("*.yaml")}
    for _, path in sorted(found.items()):
        lines_of = path.read_text(encoding="utf-8").splitlines()
        comments = [line.lstrip("# ") for line in lines_of if line.startswith("# ")]
        question = next((line for line in comments if not line.startswith("@package")), "")
        lines.append(f"  {path.stem:<16} {question}")
    return lines
