"""Baseline: the pixels themselves as features. An encoder below this row has lost what the image already said."""

from ssl_core.engine.frozen import Frozen


class RawPixels(Frozen):
    title = "the pixels"
    family = "baseline"
    noun = "raw pixels"
