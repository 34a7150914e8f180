"""An audit that found nothing, to be changed where a test needs a finding."""

import dataclasses
from typing import Any

from tasks.runtime.audit import Audit, Conflicts, Examples, Ignored, Leaks, NearDuplicates, Repeats, Sizes

NOTHING = Audit(
    classes={"train": {}, "test": {}, "holdout": {}},
    unlabelled=0,
    quarantined=(),
    ignored=Ignored(0, ()),
    duplicates=dict.fromkeys(("train", "test"), Repeats(0, 0, 0, ())),
    constant=dict.fromkeys(("train", "test"), Examples(0, ())),
    conflicts=Conflicts(0, ()),
    leaks=Leaks(0, 0, 0, ()),
    near_duplicates=NearDuplicates(0, 0, 0.8, 0, ()),
    sizes=Sizes({}, None, None),
    enlarged=0,
    formats={},
    modes={},
    notes={},
    warnings=(),
)


def audit(**changes: Any) -> Audit:
    """``NOTHING`` with other findings."""
    return dataclasses.replace(NOTHING, **changes)
