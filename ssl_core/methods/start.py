"""Baseline: the weights that training starts from, frozen. What a continued training adds is its distance to this row."""

from ssl_core.engine.frozen import Frozen


class Start(Frozen):
    title = "the weights that training starts from"
    family = "baseline"
    noun = "its starting weights"
