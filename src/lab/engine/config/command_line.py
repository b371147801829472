from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from hydra import compose as hydra_compose
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lab.engine.config import objects
from lab.engine.config.compose import compose_config, composing, conf_folders
from lab.engine.config.paths import JUDGES, kept_paths
from lab.engine.config.sweep_words import _unknown_key, _values, first, is_repeated, single
from lab.engine.config.words import TEXTS, override_word, value_of
from lab.engine.config_file import read_unchecked_config
from lab.engine.errors import UserError, fail, one_line, unknown
from lab.engine.files import expanded, read_json
from lab.engine.folder import CONFIG, STAMP, check_finished, is_half_made, latest, refuse_links
from lab.engine.keys import key_of

HYDRAS = ("hydra.verbose",)  # what may be set of Hydra's own: with the rest it can run anything


def with_the_runs_own(arguments: Sequence[str]) -> list[str]:
    """The arguments of `lab train run=FOLDER …`, after those with which that run was started, if there is one.

    Raises:
        UserError: the folder holds something else.
    """
    keys = {key_of(argument): argument for argument in arguments if argument[:1] != "-"}
    run = value_of(keys.get("run", "run=null"))
    if not run:
        return list(arguments)
    folder = expanded(str(run))
    if (folder / CONFIG).exists():
        refuse_links(folder, everywhere=True)
        typed = {key_of(argument) for argument in arguments}
        began = [
            old for old in words_of(folder)
            if not any(key_of(old) == key or key_of(old).startswith(f"{key}.") for key in typed)
        ]  # fmt: skip
    elif folder.exists() and not (folder.is_dir() and is_half_made(folder)):
        fail([f"run={folder}: it is no run's folder, and not empty; name a new one"])
    else:
        began = []
    return [*began, *(new for new in arguments if key_of(new) != "run"), override_word("run", str(folder))]


def words_of(folder: Path) -> list[str]:
    """The words that give a run's config: those with which it began, and what was changed since.

    Raises:
        UserError: the stamp or the config is damaged.
    """
    stamp, cfg = read_json(folder / STAMP), read_unchecked_config(folder)
    changes = {key: value for resumed in stamp["resumed"] for key, value in resumed["changes"].items()}
    changes |= kept_paths(cfg)  # absolute, from wherever the run began; references as they stand
    began = [old for old in stamp["overrides"] if not old.startswith("-")]  # never a flag, whoever wrote the file
    kept = [old for old in began if key_of(old) not in ("run", *changes)]
    return [*kept, *(f"++{override_word(key, value)}" for key, value in changes.items())]


def recomposed(verb: str, words: Sequence[str]) -> DictConfig:
    """The config of these words; Hydra stays in the job that it runs, whose words `overrides` reads."""
    before = HydraConfig.instance().cfg, GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        return compose_config(verb, words)
    finally:
        HydraConfig.instance().cfg, GlobalHydra.instance().hydra = before


def with_latest(arguments: Sequence[str]) -> list[str]:
    """The arguments, with the newest run's folder in place of `latest`, where a key names a run.

    Raises:
        UserError: there is no run.
    """
    log_dirs = [str(value_of(argument)) for argument in arguments if argument.startswith("log_dir=")]
    log_dir = expanded(log_dirs[-1] if log_dirs else "logs")
    keys = ("run", "finetune", "warm_start", *JUDGES)
    named = [a for a in arguments if key_of(a) in keys and value_of(a) == "latest"]
    return [override_word(key_of(a), str(latest(log_dir))) if a in named else a for a in arguments]


def check_command_line(verb: str, arguments: Sequence[str]) -> bool:
    """Refuse overrides that name what is not there, all of them at once.

    Returns:
        Whether it is a sweep: by -m, or because it repeats a run.

    Raises:
        UserError: a line for each problem, with the nearest name.
    """
    from hydra._internal.utils import get_args_parser

    args = get_args_parser().parse_args(list(arguments))
    if args.config_name or args.config_path or args.config_dir or args.experimental_rerun:
        fail(["--config-name, --config-path, --config-dir, --experimental-rerun: configs come from conf/ alone"])
    if args.hydra_help or args.shell_completion:
        return False
    if sum(map(bool, (args.multirun, args.cfg, args.info))) > 1:
        fail(["--multirun, --cfg, --info: one at a time"])
    runs = not (args.help or args.cfg or args.info)
    trains = verb in ("train", "tune", "data")
    problems: list[str] = []
    overrides: list[Override] = []
    with composing():
        parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
        for text in args.overrides:
            try:
                overrides.append(parser.parse_overrides([text])[0])
            except HydraException as error:
                problems.append(f"{text}: {one_line(error)}")
        if refused := [o.input_line for o in overrides if _is_hydras(o) and o.key_or_group not in HYDRAS]:
            fail([f"{text}: of Hydra's own settings only {' and '.join(HYDRAS)} can be set" for text in refused])
        if verb in ("tune", "data") and args.multirun:
            fail([f"--multirun: {verb} looks at one config; lab train -m sweeps"])
        if trains and runs and not any(o.key_or_group == "experiment" for o in overrides):
            raise UserError(*_experiments(verb))
        problems += [
            f"{o.key_or_group}= is empty. Is a variable of the shell unset?"
            for o in overrides if o.key_or_group in TEXTS and not o.is_delete() and o.value() == ""
        ]  # fmt: skip
        problems += _unknown_names(verb, overrides, args.multirun)
    if runs and not problems:
        cfg = compose_config(verb, first(overrides, verb))
        problems += [
            f"{key!s} is required: {key!s}={'FOLDER' if key == 'run' else 'FILE'}"
            for key in cfg
            if OmegaConf.is_missing(cfg, key)
        ]
        if not problems and not trains and cfg.run is not None:
            check_finished(Path(cfg.run))
        if verb == "train" and not args.multirun and not problems and not is_repeated(cfg):
            problems += [
                f"{o.input_line}: it is a sweep's, which needs -m, seeds or cv"
                for o in overrides if o.key_or_group.partition(".")[0] in ("sweep", "launcher")
            ]  # fmt: skip
    if problems:
        fail(problems)
    return runs and (bool(args.multirun) or is_repeated(cfg))


def _unknown_names(verb: str, overrides: Sequence[Override], multirun: bool) -> Iterator[str]:
    loader = GlobalHydra.instance().config_loader()
    groups = loader.list_groups("")
    sound: list[Override] = []
    values: list[Override] = []
    for override in overrides:
        name = override.key_or_group
        if override.is_sweep_override() and not multirun and not name.startswith("hydra"):
            yield f"{override.input_line}: several values are a sweep, which needs -m"
        elif name in groups and not override.is_delete() and override.value() is None:
            yield f"{override.input_line}: null is no {name}; leave it out, or choose one"
        elif name not in groups:
            (sound if name.startswith("hydra") else values).append(override)
        else:
            options = loader.get_group_options(name)
            wrong = [value for value in _values(override) if value not in options]
            yield from (f"{override.input_line}: {unknown(name, value, options)}" for value in wrong)
            if not wrong:
                sound.append(override)
    try:
        cfg = hydra_compose(verb, [single(o) for o in sound])
    except (HydraException, OmegaConfBaseException) as error:
        yield one_line(error)
        return
    parser = OverridesParser.create(config_loader=loader)
    for override in values:
        adds = override.is_add() or override.is_force_add()
        if problem := None if adds else _unknown_key(cfg, override.key_or_group, groups):
            if not _fits_another(verb, override, sound):
                yield f"{override.input_line}: {problem}"
            continue
        sound.append(override)
        with suppress(HydraException):  # which the composition below says
            objects.replace_objects([parser.parse_override(single(override))], cfg)
    try:
        hydra_compose(verb, [single(o) for o in sound])
    except (HydraException, OmegaConfBaseException) as error:
        yield one_line(error)


def _fits_another(verb: str, override: Override, choices: Sequence[Override]) -> bool:
    """Whether a key that is varied belongs to one of the options that are varied, if not to the first."""
    if not override.is_sweep_override():
        return False
    several = [choice for choice in choices if choice.is_sweep_override()]
    words = [single(choice) for choice in choices]
    others = [[*words, f"{choice.get_key_element()}={option}"] for choice in several for option in _values(choice)[1:]]
    return any(_unknown_key(hydra_compose(verb, other), override.key_or_group, []) is None for other in others)


def _is_hydras(override: Override) -> bool:
    return override.key_or_group.replace("/", ".").split(".")[0] == "hydra" or "hydra" in (override.package or "")


def _experiments(verb: str) -> list[str]:
    lines = [f"Say which experiment, for example: lab {verb} experiment=digits", ""]
    found = [path for folder in conf_folders() for path in (folder / "experiment").glob("*.yaml")]
    for path in sorted(found, key=lambda path: path.name):
        lines_of = path.read_text(encoding="utf-8").splitlines()
        comments = [line.lstrip("# ") for line in lines_of if line.startswith("# ")]
        question = next((line for line in comments if not line.startswith("@package")), "")
        lines.append(f"  {path.stem:<16} {question}")
    return lines
