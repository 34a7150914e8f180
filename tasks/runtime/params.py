"""params.yaml, read strictly: duplicate keys, unknown keys and values of the wrong type are errors."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import yaml

from ssl_core.catalogue import BASELINES, METHODS, load_class
from ssl_core.config import ConfigError, Rule, typed, unknown_name
from tasks.runtime import files, task_params
from tasks.runtime.errors import UsageError
from tasks.runtime.image_folders import check_more
from tasks.runtime.recipes import finetune_params, overridden
from tasks.runtime.strict_yaml import StrictLoader, first_fault

if TYPE_CHECKING:  # these import torch, which not every stage needs
    from ssl_core.engine.augment import AugmentConfig
    from ssl_core.engine.continued import ContinueConfig
    from ssl_core.engine.encoders import EncoderConfig
    from ssl_core.engine.optim import TrainConfig
    from ssl_core.evaluation.scores import EvaluateConfig

PARAMS = Path("params.yaml")
SOURCES = Path(__file__).parents[1] / "prepare" / "sources"
"""A source of images is a module here. The names are enough: the stage that reads images imports it."""
LONGEST_NAME = 100
"""Of a data set: names of folders, tags and registered models are made from it."""
NEEDED = ("run", "data", "encoder", "train", "augment", "evaluate", "method")
SECTIONS = (*NEEDED, "finetune", "tasks")


@dataclass(frozen=True)
class RunConfig:
    """What to run: ``methods`` may name baselines too."""

    methods: tuple[str, ...]
    seeds: tuple[int, ...]
    finetune: tuple[str, ...] = ()
    """Those of ``methods`` that are fine-tuned too."""
    tasks: tuple[str, ...] = ()
    """Further labelled sets, by their names under ``tasks``."""

    @property
    def baselines(self) -> tuple[str, ...]:
        """The rows to compare with."""
        return tuple(m for m in self.methods if m in BASELINES)

    @property
    def learned(self) -> tuple[str, ...]:
        """The self-supervised methods."""
        return tuple(m for m in self.methods if m not in BASELINES)


Part = Annotated[float, Rule("from 0 to 0.9", lambda v: 0 <= v <= 0.9)]
Whole0 = Annotated[int, Rule("a whole number from 0 to 2147483647", lambda v: 0 <= v < 2**31)]
Whole1 = Annotated[int, Rule("a whole number from 1 to 2147483647", lambda v: 1 <= v < 2**31)]
Whole2 = Annotated[int, Rule("a whole number from 2 to 2147483647", lambda v: 2 <= v < 2**31)]


@dataclass(frozen=True)
class DataConfig:
    """Where the images come from and how they are stored; the comments are in params.yaml."""

    source: str
    """A module of tasks/prepare/sources."""
    name: str | None
    path: str
    image_size: Annotated[int, Rule("from 8 to 1024", lambda v: 8 <= v <= 1024)]
    channels: Annotated[int, Rule("from 1 to 16", lambda v: 1 <= v <= 16)]
    bit_depth: Annotated[int, Rule("from 8 to 16", lambda v: 8 <= v <= 16)] | None
    follow_links: bool
    max_train: Whole2 | None
    max_test: Whole1 | None
    test_fraction: Part
    holdout_fraction: Part
    max_bad: Whole0
    drop_leaks: bool
    seed: Whole0
    fit: Literal["crop", "pad", "stretch"] = "crop"
    tile: Annotated[int, Rule("from 8 to 16384", lambda v: 8 <= v <= 16384)] | None = None
    bits: Literal[8, 16] = 8
    class_folder: Literal["top", "deepest", "none"] | None = None
    store_size: Annotated[int, Rule("from 8 to 1024", lambda v: 8 <= v <= 1024)] | None = None
    more: dict[str, str] = field(default_factory=dict)

    @property
    def stored(self) -> int:
        """Side of the stored images in pixels; encoders take them at ``image_size``."""
        return self.store_size or self.image_size


@dataclass(frozen=True)
class MethodParams:
    """Everything that shapes one method's training."""

    name: str
    config: Any
    encoder: "EncoderConfig"
    continued: "ContinueConfig"
    train: "TrainConfig"
    augment: "AugmentConfig"


def load(path: Path = PARAMS) -> dict[str, Any]:
    """Read the parameters and check the top level.

    Raises:
        UsageError: absent, not YAML, too large, or an unknown or missing section.
    """
    values = read(path)
    for name in NEEDED:
        if not isinstance(values.get(name), dict):
            raise UsageError(f"{path}: section {name} is missing")
    return values


def read(path: Path) -> dict[str, Any]:
    """Read a file of parameters, whole or partial (a preset).

    Raises:
        UsageError: absent, not YAML, too large, or an unknown section.
    """
    return parse(text(path), path)


def text(path: Path = PARAMS) -> str:
    """What a file of parameters says, its lines ended by ``\\n``; a UsageError if it is absent, or not UTF-8."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise UsageError(f"{_shown(path)} is not UTF-8 text; save it as UTF-8") from None
    except FileNotFoundError:
        raise UsageError(
            f"{_shown(path)} is missing; run from the project's root (git checkout {_shown(path)} restores it)"
        ) from None


def write(new: str, path: Path = PARAMS) -> None:
    """Change a file of parameters: its lines end as before, and a link to it stays one."""
    target = path.resolve()
    ending = b"\r\n" if b"\r\n" in target.read_bytes() else b"\n"
    files.write_bytes(target, new.encode().replace(b"\n", ending))


def parse(text: str, path: Path) -> dict[str, Any]:
    """Parameters from YAML text; ``path`` is for messages.

    Raises:
        UsageError: not YAML, too large, or an unknown section.
    """
    if len(text) > 1_000_000:
        raise UsageError(f"{_shown(path)} is over 1 MB; it should hold parameters only")
    try:
        values = yaml.load(text, StrictLoader)
    except yaml.YAMLError as error:
        raise UsageError(f"{_shown(path)} is not valid YAML: {first_fault(error)}") from None
    except RecursionError:
        raise UsageError(f"{_shown(path)} is nested too deeply; it should hold parameters only") from None
    except (ValueError, TypeError) as error:  # a date without such a day, a number of thousands of digits
        raise UsageError(f"{_shown(path)} holds a value that is none: {error}") from None
    if not isinstance(values, dict):
        raise UsageError(f"{_shown(path)} must be a mapping of sections: {', '.join(SECTIONS)}")
    for name in values:
        if name not in SECTIONS:
            raise UsageError(f"{_shown(path)}: {unknown_name(str(name), str(name), SECTIONS)}")
        odd = [key for key in values[name] if not isinstance(key, str)] if isinstance(values[name], dict) else []
        if odd:
            raise UsageError(f"{_shown(path)}: {name} has the key {odd[0]!r}; keys are words")
    return values


def _shown(path: Path) -> Path:
    """``path`` as a user in the project writes it."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def check(params: Mapping[str, Any]) -> None:
    """Read every section as the stages will, so that a typing error costs a second and not an hour.

    Raises:
        ConfigError: the first thing that is wrong.
    """
    from ssl_core.engine.encoders import check_patches

    methods = run_config(params).methods
    task_configs(params)
    evaluate_config(params)
    if "finetune" in params or run_config(params).finetune:
        finetune_params(params)
    for name in dict.fromkeys([*methods, *params["method"]]):
        encoder = method_params(params, name).encoder
        if name in methods:
            check_patches(encoder, params["data"]["image_size"])


def run_config(params: Mapping[str, Any]) -> RunConfig:
    """What to run, with every name checked.

    Raises:
        ConfigError: an unknown or repeated method or baseline, or an impossible seed.
    """
    run = typed(RunConfig, params["run"], "run")
    known = [*METHODS, *BASELINES]
    for name in run.methods:
        if name not in known:
            raise ConfigError(unknown_name(f"run.methods: {name!r}", name, known))
    if not run.methods or len(set(run.methods)) != len(run.methods):
        raise ConfigError("run.methods must name something, and nothing twice")
    if not run.seeds or len(set(run.seeds)) != len(run.seeds) or not all(0 <= s < 2**31 for s in run.seeds):
        raise ConfigError("run.seeds must be different whole numbers from 0 to 2147483647")
    for name in run.finetune:
        if name == "raw_pixels":
            raise ConfigError(f"run.finetune: {name} has no weights to train; take it out")
        if name == "supervised":
            raise ConfigError(
                f"run.finetune: {name} was trained with all the labels, of which a fine-tuning has some; take it out"
            )
        if name in known and name not in run.methods:
            raise ConfigError(f"run.finetune: {name!r} is not in run.methods, whose encoders are fine-tuned; add it there")
        if name not in known:
            raise ConfigError(unknown_name(f"run.finetune: {name!r}", name, run.methods))
    if len(set(run.finetune)) != len(run.finetune):
        raise ConfigError("run.finetune must name nothing twice")
    task_params.check_names(run.tasks, params.get("tasks") or {})
    return run


def data_config(params: Mapping[str, Any]) -> DataConfig:
    """The data section.

    Raises:
        ConfigError: a wrong key or value, or an unknown source.
    """
    return _images(params["data"], "data")


def task_configs(params: Mapping[str, Any]) -> dict[str, DataConfig]:
    """The images of each task in ``run.tasks``: where a task says nothing, as in ``data``.

    Raises:
        ConfigError: a wrong key or value, or images that encoders of these data cannot take.
    """
    data, names = vars(data_config(params)), run_config(params).tasks
    return {n: _images(task_params.merged(data, params["tasks"][n], f"tasks.{n}"), f"tasks.{n}") for n in names}


def check_task(params: Mapping[str, Any], name: str | None) -> None:
    """Refuse a task that is not listed.

    Raises:
        ConfigError: it is none of ``run.tasks``.
    """
    known = run_config(params).tasks
    if name is not None and name not in known:
        raise ConfigError(unknown_name(f"task {name!r}", name, known))


def _images(values: Mapping[str, Any], where: str) -> DataConfig:
    if isinstance(values, Mapping) and not isinstance(more := values.get("more", {}), Mapping):
        raise ConfigError(f"{where}.more is {more!r}; it must be a mapping, {{NAME: PATH}}")
    config = typed(DataConfig, values, where)
    if config.source not in (sources := sorted(path.stem for path in SOURCES.glob("[a-z]*.py"))):
        raise ConfigError(unknown_name(f"{where}.source: {config.source!r}", config.source, sources))
    if config.stored < config.image_size:
        raise ConfigError(f"{where}.store_size is {config.stored}, below {where}.image_size, {config.image_size}; raise it")
    if config.class_folder and config.source not in ("folder", "archive"):
        raise ConfigError(f"{where}.class_folder is of a folder or an archive; source: {config.source} has labels of its own")
    check_more(config, where)
    name = config.name
    if name is not None and not (0 < len(name.strip()) <= LONGEST_NAME and name.isprintable() and not set(name) & {"/", "\\"}):
        raise ConfigError(f"{where}.name must have 1 to {LONGEST_NAME} characters, and no slash or line break among them")
    return config


def evaluate_config(params: Mapping[str, Any]) -> "EvaluateConfig":
    """The evaluation protocol.

    Raises:
        ConfigError: a wrong key or value, or nothing to choose from.
    """
    from ssl_core.evaluation.scores import EvaluateConfig

    config = typed(EvaluateConfig, params["evaluate"], "evaluate")
    for name in ("knn_k", "knn_temperature"):
        if not getattr(config, name):
            raise ConfigError(f"evaluate.{name} must name at least one candidate")
    return config


def method_params(params: Mapping[str, Any], name: str) -> MethodParams:
    """One method's (or baseline's) own numbers and the common ones with its overrides applied.

    Raises:
        ConfigError: an unknown method, or a wrong key or value in its block.
    """
    from ssl_core.engine.augment import AugmentConfig
    from ssl_core.engine.continued import ContinueConfig, slowed
    from ssl_core.engine.encoders import EncoderConfig
    from ssl_core.engine.optim import TrainConfig

    known = [*METHODS, *BASELINES]
    if name not in known:
        raise ConfigError(unknown_name(f"method {name!r}", name, known))
    given = params["method"].get(name) or {}
    if not isinstance(given, dict):
        raise ConfigError(f"method.{name} is {given!r}; it must be a mapping of parameters")
    own = dict(given)
    classes = {"encoder": EncoderConfig, "train": TrainConfig, "augment": AugmentConfig}
    merged = {section: overridden(params, own, f"method.{name}", section, cls) for section, cls in classes.items()}
    continued = typed(ContinueConfig, merged["encoder"].pop("continued", {}), "encoder.continued")
    encoder, train = typed(EncoderConfig, merged["encoder"], "encoder"), typed(TrainConfig, merged["train"], "train")
    if encoder.weights:
        train = slowed(train, continued)
    config = typed(load_class(name).Config, own, f"method.{name}")
    return MethodParams(name, config, encoder, continued, train, typed(AugmentConfig, merged["augment"], "augment"))
