"""``audit.json``: what prepare found out about the images, for the stages that show it or act on it."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

from ssl_core.config import ConfigError, typed
from tasks.runtime import files
from tasks.runtime.errors import IntegrityError

NAME = "audit.json"
UNWATCHED = "DVC does not look into them: after a change there run dvc repro -f prepare"
"""What a warning of linked folders ends with."""


@dataclass(frozen=True)
class Quarantined:
    """A file that cannot be used, and why."""

    file: str
    reason: str


@dataclass(frozen=True)
class Ignored:
    """Files that are no images: how many, and the first names."""

    count: int
    files: tuple[str, ...]


@dataclass(frozen=True)
class Examples:
    """How many images something is true of, and the first names."""

    count: int
    examples: tuple[str, ...]


@dataclass(frozen=True)
class Repeats:
    """Equal images within one split."""

    groups: int
    """Sets of equal images."""
    extra: int
    """Images beyond the first of each set."""
    extra_files: int
    """Those among them whose whole file is the same, byte for byte."""
    examples: tuple[tuple[str, ...], ...]
    """The names in the first sets."""


class Labelled(NamedTuple):
    """An image and the class it is filed under."""

    name: str
    label: str


@dataclass(frozen=True)
class Conflicts:
    """Pairs of equal images with different labels."""

    count: int
    examples: tuple[tuple[Labelled, Labelled], ...]


@dataclass(frozen=True)
class Leaks:
    """Training images that are also in the test split."""

    count: int
    by_file: int
    """Those among them whose whole file is the same."""
    dropped: int
    """Those that were taken out of the training split."""
    examples: tuple[str, ...]


class NearPair(NamedTuple):
    """A test image and the training image it looks like."""

    test: int
    """Row in the test split."""
    train: int
    """Row in the training split."""
    correlation: float
    mirrored: bool


@dataclass(frozen=True)
class NearDuplicates:
    """Test images that look like a training image without being equal to it."""

    count: int
    checked: int
    """Test images that were compared."""
    threshold: float
    """Correlation from which on a pair counts."""
    mirrored: int
    """Pairs in which one image is the mirror image of the other."""
    pairs: tuple[NearPair, ...]


@dataclass(frozen=True)
class Sizes:
    """Widths and heights of the images as they came, in pixels."""

    common: dict[str, int]
    """How many images have each of the commonest sizes (``28x28``)."""
    smallest: tuple[int, int] | None
    largest: tuple[int, int] | None


@dataclass(frozen=True, kw_only=True)
class Audit:
    """What a person should know about the images before trusting numbers made from them. File names are as shown."""

    classes: dict[str, dict[str, int]]
    """Images of each class in ``train``, ``test`` and ``holdout``."""
    unlabelled: int
    """Training images without a label."""
    quarantined: tuple[Quarantined, ...]
    ignored: Ignored
    duplicates: dict[str, Repeats]
    """By split, ``train`` and ``test``."""
    constant: dict[str, Examples]
    """Images of a single color, by split."""
    conflicts: Conflicts
    leaks: Leaks
    near_duplicates: NearDuplicates
    sizes: Sizes
    enlarged: int
    """Images smaller than ``data.image_size``."""
    formats: dict[str, int]
    """Images of each file format."""
    modes: dict[str, int]
    """Images of each kind of pixel, as Pillow names it."""
    notes: dict[str, int]
    """How many images a remark of the decoder is true of."""
    warnings: tuple[str, ...]
    """What a person should read, a sentence each."""


def write(directory: Path, audit: Audit) -> None:
    """Write the audit of a prepared data set."""
    files.write_json(directory / NAME, asdict(audit))


def load(directory: Path) -> Audit:
    """Read the audit of a prepared data set.

    Raises:
        IntegrityError: absent, not JSON, or not an audit.
    """
    path = directory / NAME
    values = files.read_json(path)
    try:
        if not isinstance(values, dict):
            raise ConfigError("it is not a mapping")
        return typed(Audit, values, "audit")
    except ConfigError as error:
        raise IntegrityError(f"{path} is no audit of this version: {error}; run dvc repro -f prepare") from None


def unwatched(directory: Path) -> str:
    """What a run that finds nothing changed should say of linked folders; empty where there are none, or no audit.

    Raises:
        IntegrityError: as ``load``.
    """
    known = load(directory).warnings if (directory / NAME).exists() else ()
    return next((text for text in known if text.endswith(UNWATCHED)), "")
