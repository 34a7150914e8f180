"""The features of a user's images by a registered encoder; ``tasks.embed`` is the command.

Images are decoded as the encoder's training had them: cut, scaled and laid on white alike. What decoding noticed is said.
"""

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import torch

from tasks.prepare import levels
from tasks.prepare.decoding import DEPTH, Facts
from tasks.prepare.intake import ONE_WORKER, depth_of
from tasks.prepare.layout import Item, shown
from tasks.prepare.names import PICTURES, left_out, to_read
from tasks.prepare.source import FileSource, Source
from tasks.prepare.sources.archive import ArchiveSource
from tasks.prepare.sources.folder import FolderSource
from tasks.prepare.tiled import cut
from tasks.prepare.workers import Job, decode_all
from tasks.register import registry
from tasks.runtime.errors import DataError, UsageError
from tasks.runtime.progress import Progress
from tasks.runtime.words import counted

Outputs = Callable[[torch.Tensor], torch.Tensor]
BATCH = 256
NAMED = 5
"""Files of each fault that are named."""


class _Flat(FileSource):
    """Every image, wherever it is: folders mean nothing here."""

    def place(self, names: Sequence[str], folders: Sequence[str], where: str) -> None:
        images, others = to_read(names)
        self.items = [Item(name, "train") for name in images]
        self.warnings += left_out(others, images)

    def check_sums(self, text: bytes, renamed: Callable[[str], str] = str) -> None:
        pass


class _Folder(_Flat, FolderSource):
    pass


class _Archive(_Flat, ArchiveSource):
    pass


def _tell_bad(bad: Sequence[tuple[str, str]]) -> None:
    """Name what is left out, of each reason a few."""
    named: dict[str, list[str]] = {}
    for name, reason in sorted(bad):
        named.setdefault(reason, []).append(name)
    for reason, names in named.items():
        for name in names[:NAMED]:
            print(f"warning: skipped {name!r}: {reason}", file=sys.stderr)
        if len(names) > NAMED:
            print(f"warning: skipped {len(names) - NAMED} more: {reason}", file=sys.stderr)


def open_images(path: Path, follow_links: bool = False) -> FileSource:
    """The images below ``path``, by name, before any is read.

    Raises:
        UsageError: no such path.
        DataError: an archive that is no archive.
    """
    if not path.exists():
        raise UsageError(f"{path} does not exist")
    if path.is_file() and path.suffix.lower() in PICTURES:
        raise UsageError(f"{path} is one image; give its folder, and --query {path.name} for the neighbors of this one")
    source = _Folder(path, follow_links) if path.is_dir() else _Archive(path)
    source.bad = [(name, reason.replace("data.follow_links: true", "--follow-links")) for name, reason in source.bad]
    return source


def tiles_of(source: FileSource, encoder: registry.Loaded) -> Source:
    """The images as tiles, where the encoder was trained on such."""
    tile, made = encoder.config.get("tile"), encoder.config["encoder"]
    return cut(source, tile, made["channels"], encoder.config.get("bits", 8)) if tile else source


def embed(
    path: Path, encoder: registry.Loaded, source: Source | None = None, outputs: Outputs | None = None
) -> tuple[list[str], torch.Tensor]:
    """(names, features (N, D)) of every readable image below ``path``; the others are named on stderr.

    Args:
        source: the images, where they are open already.
        outputs: what to keep of a batch, (B, ...); default the features.

    Raises:
        UsageError: no such path.
        DataError: nothing readable there.
    """
    source = source or tiles_of(open_images(path), encoder)
    made = encoder.config["encoder"]
    size, channels, bits = made["image_size"], made["channels"], encoder.config.get("bits", 8)
    names = [item.name for item in source.items]
    features: dict[int, torch.Tensor] = {}
    bad, batch = list(source.bad), []
    progress = Progress("embedding", len(names), "images")

    def flush() -> None:
        pixels = np.stack([np.frombuffer(p, f"uint{bits}").reshape(size, size, channels).transpose(2, 0, 1) for _, p in batch])
        with torch.inference_mode():
            images = torch.from_numpy(pixels.copy())
            images = images.float() / 65535 if bits == 16 else images  # decoded to all of the 16 bits, whatever the files have
            for (row, _), feature in zip(batch, (outputs or encoder.module)(images), strict=True):
                features[row] = feature
        batch.clear()

    def work(rows: Sequence[int], depth: int) -> Iterator[tuple[int, Facts]]:
        """Make the features of these rows; what their files are."""
        jobs = (Job(row, names[row], content, source.part(row)) for row, content in source.read(rows))
        workers, fit = 1 if len(rows) <= ONE_WORKER else None, encoder.config.get("fit", "crop")
        with closing(decode_all(jobs, size, channels, workers, depth, bits, fit)) as answers:
            for done in answers:
                if done.bad or done.facts is None:
                    bad.append((names[done.row], done.bad))
                    continue
                batch.append((done.row, done.pixels))
                yield done.row, done.facts
                if len(batch) == BATCH:
                    flush()
                    progress.update(min(len(features) + len(bad), len(names)))
        if batch:
            flush()

    notes, deep, few = Counter[str](), dict[int, int](), dict[int, bool]()
    for row, facts in work(range(len(names)), encoder.config.get("bit_depth", DEPTH)):
        notes.update(facts.notes)
        few[row] = bool(facts.levels)
        if facts.peak:
            deep[row] = facts.peak
    if deep and "bit_depth" not in encoder.config:  # trained on 8 bits: these say themselves what is white
        depth = depth_of(max(deep.values()))
        notes[f"more than 8 bits a pixel, scaled from {depth} bits (the largest value is {max(deep.values())})"] = len(deep)
        for row, facts in work(sorted(deep), depth) if depth != DEPTH else ():
            few[row] = bool(facts.levels)
    if count := sum(few.values()):
        notes[f"{levels.BEGINNING} of what the file has; an encoder trained with data.bits: 16 keeps all"] = count
    progress.update(len(names))
    for said in (*source.warnings, *(f"{counted(n, 'image', 'images')}: {note}" for note, n in sorted(notes.items()))):
        print(f"note: {said}", file=sys.stderr)
    _tell_bad(bad)
    if bad and not features:
        raise DataError(f"none of the {counted(len(bad), 'image', 'images')} in {path} can be used, see above")
    if not features:
        raise DataError(f"{path} holds no readable images (JPEG, PNG, BMP, GIF, WebP, TIFF or .npy)")
    rows = sorted(features)
    whole = torch.empty(len(rows), *features[rows[0]].shape)
    for place, row in enumerate(rows):  # one after another: both together would be twice the memory
        whole[place] = features.pop(row)
    return [shown(names[row]) for row in rows], whole
