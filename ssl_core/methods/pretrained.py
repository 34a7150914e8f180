"""Baseline: a network that others trained on ImageNet, frozen. Training that gives less is not worth it."""

from ssl_core.engine.frozen import Frozen


class Pretrained(Frozen):
    title = "trained on ImageNet by others"
    family = "baseline"
    noun = "ImageNet features"
