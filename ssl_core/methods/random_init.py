"""Baseline: the untrained encoder. What a method adds is its distance to this row.

Its residual branches are on. The methods start with them off, which helps training and nothing else.
"""

from typing import Any

from ssl_core.engine.augment import AugmentConfig
from ssl_core.engine.encoders import Encoder, open_residuals
from ssl_core.engine.frozen import Frozen
from ssl_core.engine.method import DataInfo


class RandomInit(Frozen):
    title = "the untrained encoder"
    family = "baseline"
    noun = "an untrained encoder"

    def __init__(self, encoder: Encoder, config: Any, augment: AugmentConfig, data: DataInfo):
        super().__init__(open_residuals(encoder), config, augment, data)
