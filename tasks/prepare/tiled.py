"""``data.tile``: every image of a source cut into square tiles, which are images of their own with its label.

Tiles of one image are a group: they stay in one split, and in one part of the training labels.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from ssl_core.config import ConfigError
from tasks.prepare.decoding import Part
from tasks.prepare.source import ArraySource, Content, Source
from tasks.prepare.workers import Job, decode_all
from tasks.runtime.params import DataConfig
from tasks.runtime.progress import Progress
from tasks.runtime.words import counted

SIDE = 8
"""At which the first tile of an image is decoded when its tiles are counted."""


def cut_as_asked(source: Source, config: DataConfig, check: Callable[[], None], file: Path | None) -> Source:
    """The source as tiles where ``data.tile`` asks for them; else as it is.

    Args:
        check: called now and then; may raise to stop.
        file: where to leave the progress for a watching process.

    Raises:
        ConfigError: its images come decoded.
    """
    if config.tile is None:
        return source
    if isinstance(source, ArraySource):
        raise ConfigError(
            f"data.tile is {config.tile}, but data.source: {config.source} has no image files to cut; set it to null"
        )
    return cut(source, config.tile, config.channels, config.bits, check, file)


def cut(
    source: Source, tile: int, channels: int, bits: int, check: Callable[[], None] = lambda: None, file: Path | None = None
) -> "TiledSource":
    """The source as tiles with sides of at most ``tile`` pixels.

    How many an image has is known when it is decoded, so all are decoded once more than without tiles.
    """
    counts: dict[int, int] = {}
    bad = list(source.bad)
    progress = Progress("prepare: counting tiles", len(source.items), "images", file=file)
    jobs = (Job(row, source.items[row].name, content, (tile, 0)) for row, content in source.read(range(len(source.items))))
    with closing(decode_all(jobs, SIDE, channels, bits=bits)) as answers:
        for number, done in enumerate(answers, 1):
            check()
            reason = source.differs(done.row, done.facts.sha256) if done.facts else done.bad
            if reason or not done.facts:
                bad.append((source.items[done.row].name, reason))
            else:
                counts[done.row] = done.facts.tiles
            progress.update(number)
    return TiledSource(source, tile, counts, bad)


class TiledSource(Source):
    """The tiles of another source's images.

    Args:
        counts: row of the source -> its number of tiles; an image without is bad.
    """

    def __init__(self, whole: Source, largest: int, counts: dict[int, int], bad: list[tuple[str, str]]):
        super().__init__(whole.name, whole.origin, whole.license, classes=whole.classes, ignored=whole.ignored, bad=bad)
        self._whole, self._largest = whole, largest
        self._places = [(row, number) for row in sorted(counts) for number in range(counts[row])]
        for row, number in self._places:
            item = whole.items[row]
            self.items.append(replace(item, name=f"{item.name}#{number:03}", group=item.group or item.name))
        tiles, images = counted(len(self.items), "tile", "tiles"), counted(len(counts), "image", "images")
        self.warnings = [f"{tiles} of {images}: each is cut into squares of at most {largest} pixels", *whole.warnings]

    @property
    def files(self) -> int:
        """How many images there are, whole ones."""
        return self._whole.files

    def part(self, row: int) -> Part:
        """Which tile of its image the item is."""
        return self._largest, self._places[row][1]

    def read(self, rows: Sequence[int]) -> Iterator[tuple[int, Content]]:
        """The whole image of each item at ``rows``: read once, for all of them."""
        wanted: dict[int, list[int]] = {}
        for row in rows:
            wanted.setdefault(self._places[row][0], []).append(row)
        for whole, content in self._whole.read(sorted(wanted)):
            for row in wanted[whole]:
                yield row, content
