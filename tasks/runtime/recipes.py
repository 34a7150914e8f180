"""Recipes in params.yaml: the common sections, with what somebody needs to have otherwise; and that of a fine-tuning."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from ssl_core.config import ConfigError, converted_fields, typed, unknown_name

if TYPE_CHECKING:  # these import torch, which not every stage needs
    from ssl_core.engine.augment import AugmentConfig
    from ssl_core.engine.optim import TrainConfig
    from ssl_core.finetuning import FinetuneConfig


@dataclass(frozen=True)
class FinetuneParams:
    """Everything that shapes a fine-tuning."""

    config: "FinetuneConfig"
    train: "TrainConfig"
    augment: "AugmentConfig"


def refuse_to_tune(task: str | None = None) -> ConfigError:
    """Of images without the labels that fine-tuning needs."""
    of = f" of {task}" if task else ""
    return ConfigError(f"run.finetune needs labels, of training images{of} (some held out) and of test images; set it to []")


def finetune_params(params: Mapping[str, Any]) -> FinetuneParams:
    """The recipe of every fine-tuning.

    Raises:
        ConfigError: a wrong key or value, or nothing to choose from.
    """
    from ssl_core.engine.augment import AugmentConfig
    from ssl_core.engine.optim import TrainConfig
    from ssl_core.finetuning import FinetuneConfig

    if not isinstance(params.get("finetune"), dict):
        raise ConfigError("section finetune is missing, and run.finetune names what to fine-tune")
    own = dict(params["finetune"])
    train = typed(TrainConfig, overridden(params, own, "finetune", "train", TrainConfig), "train")
    augment = typed(AugmentConfig, overridden(params, own, "finetune", "augment", AugmentConfig), "augment")
    config = typed(FinetuneConfig, own, "finetune")
    for name in ("shares", "lr"):
        if not getattr(config, name):
            raise ConfigError(f"finetune.{name} must name at least one")
    if not train.trains or train.processes > 1:
        raise ConfigError("finetune.train must train, in one process")
    return FinetuneParams(config, train, augment)


def overridden(params: Mapping[str, Any], own: dict[str, Any], where: str, section: str, cls: type) -> dict[str, Any]:
    """The common values of a section with those that ``own`` has under its name, which is taken out of it.

    Raises:
        ConfigError: it has something that the section does not have or take. What is wrong in the result is so in the section.
    """
    override = own.pop(section, None) or {}
    if not isinstance(override, dict):
        raise ConfigError(f"{where}.{section} is {override!r}; it must be a mapping of parameters")
    names = [f.name for f in fields(cls)] + (["continued"] if section == "encoder" else [])
    for key in override:
        if key not in names:
            raise ConfigError(unknown_name(f"{where}.{section}.{key}", str(key), names))
    converted_fields(cls, {key: value for key, value in override.items() if key != "continued"}, f"{where}.{section}")
    merged = {**params[section], **override}
    if isinstance(override.get("continued"), dict):  # of which a method may say a part too
        merged["continued"] = {**params[section].get("continued", {}), **override["continued"]}
    return merged
