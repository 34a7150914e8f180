"""Baseline: DINOv2 (arXiv 2304.07193), trained by others without labels on 142 million images, frozen."""

from ssl_core.engine.frozen import Frozen


class Dinov2(Frozen):
    title = "DINOv2, trained by others without labels"
    family = "baseline"
    noun = "DINOv2 features"
