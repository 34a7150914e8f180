"""``python -m tasks.embed PATH``: features of a folder (or archive) of images by a registered encoder, and what is alike.

Writes a parquet file with one row per image, ``id`` (its name below PATH) and ``features``; prints the nearest neighbors of
some images and the near-duplicates. The encoder comes from MLflow's registry: the champion, unless ``--model`` says another.
"""

import argparse
import shutil
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tasks.alike import MOST_PAIRS, Duplicates, duplicates, likeness
from tasks.prepare.decoding import Job, decode_all
from tasks.prepare.images import DEPTH
from tasks.prepare.intake import ONE_WORKER
from tasks.prepare.layout import Item, shown, to_read
from tasks.prepare.source import FileSource
from tasks.prepare.sources.archive import ArchiveSource
from tasks.prepare.sources.folder import FolderSource
from tasks.register import registry
from tasks.runtime import files, settings
from tasks.runtime.errors import DataError, EnvironmentFault, UsageError, run
from tasks.runtime.progress import Progress

BATCH = 256
SHOWN = 5
"""Images whose neighbors are printed without ``--query``; also the most pairs of near-duplicates."""


class _Flat(FileSource):
    """Every image, wherever it is: folders mean nothing here."""

    def place(self, names: Sequence[str], folders: Sequence[str], where: str) -> None:
        self.items = [Item(name, "train") for name in to_read(names)[0]]

    def check_sums(self, text: bytes) -> None:
        pass


class _Folder(_Flat, FolderSource):
    pass


class _Archive(_Flat, ArchiveSource):
    pass


def open_images(path: Path, query: str | None = None) -> FileSource:
    """The images below ``path``, by name, before any is read.

    Raises:
        UsageError: no such path, or ``query`` is none of them.
        DataError: an archive that is no archive.
    """
    if not path.exists():
        raise UsageError(f"{path} does not exist")
    source = _Folder(path) if path.is_dir() else _Archive(path)
    if query is not None and shown(query) not in {shown(item.name) for item in source.items}:
        raise UsageError(f"--query {shown(query)} is not an image below {path}; give its path below that folder")
    return source


def embed(path: Path, encoder: registry.Loaded, source: FileSource | None = None) -> tuple[list[str], torch.Tensor]:
    """(names, features (N, D)) of every readable image below ``path``; the others are named on stderr.

    Args:
        source: the images, where they are open already.

    Raises:
        UsageError: no such path.
        DataError: nothing readable there.
    """
    source = source or open_images(path)
    made = encoder.config["encoder"]
    size, channels, bits = made["image_size"], made["channels"], encoder.config.get("bits", 8)
    names = [item.name for item in source.items]
    features: dict[int, torch.Tensor] = {}
    bad, batch = list(source.bad), []
    progress = Progress("embedding", len(names), "images")

    def flush() -> None:
        pixels = np.stack([np.frombuffer(p, f"uint{bits}").reshape(size, size, channels).transpose(2, 0, 1) for _, p in batch])
        with torch.inference_mode():
            for (row, _), feature in zip(batch, encoder.module(torch.from_numpy(pixels.copy())), strict=True):
                features[row] = feature
        batch.clear()

    jobs = (Job(row, names[row], content) for row, content in source.read(range(len(names))))
    workers, depth = 1 if len(names) <= ONE_WORKER else None, encoder.config.get("bit_depth", DEPTH)
    fit = encoder.config.get("fit", "crop")
    with closing(decode_all(jobs, size, channels, workers, depth, bits, fit)) as answers:
        for done in answers:
            if done.bad:
                bad.append((names[done.row], done.bad))
                continue
            batch.append((done.row, done.pixels))
            if len(batch) == BATCH:
                flush()
                progress.update(len(features) + len(bad))
    if batch:
        flush()
    progress.update(len(names))
    for name, reason in sorted(bad):
        print(f"warning: skipped {name!r}: {reason}", file=sys.stderr)
    if not features:
        raise DataError(f"{path} holds no readable images (JPEG, PNG, BMP, GIF, WebP, TIFF or .npy)")
    rows = sorted(features)
    return [shown(names[row]) for row in rows], torch.stack([features[row] for row in rows])


def write(path: Path, names: list[str], features: torch.Tensor, uri: str) -> None:
    """A parquet file with columns ``id`` and ``features`` (fixed-size lists of float32); the model is in its metadata."""
    import pyarrow as pa
    from pyarrow import parquet

    values = pa.FixedSizeListArray.from_arrays(pa.array(features.numpy().ravel()), features.shape[1])
    table = pa.table({"id": names, "features": values}).replace_schema_metadata({"model": uri})
    temp = files.beside(path)
    try:
        parquet.write_table(table, temp)
        temp.replace(path)
    finally:
        temp.unlink(missing_ok=True)


def check_space(path: Path, count: int, dim: int) -> None:
    """Before the work: whether the features of ``count`` images fit on the disk of ``path``.

    Raises:
        EnvironmentFault: they do not.
    """
    needed, free = count * (4 * dim + 200), shutil.disk_usage(path.absolute().parent).free
    if needed > free:
        raise EnvironmentFault(f"--output {path} needs about {needed / 1e6:,.0f} MB but {free / 1e6:,.0f} MB are free there")


def check_output(path: Path) -> None:
    """Before the work: whether ``path`` can be written.

    Raises:
        UsageError: it is a folder, or lies in none.
        OSError: its folder takes no file.
    """
    if path.is_dir() or not path.parent.is_dir():
        raise UsageError(f"--output {path}: {'that is a folder' if path.is_dir() else 'there is no such folder'}; name a file")
    temp = files.beside(path)
    temp.touch()
    temp.unlink()


def show(names: list[str], features: torch.Tensor, arguments: Any) -> None:
    """Print neighbors and near-duplicates."""
    count = min(max(arguments.neighbors, 1), len(names) - 1)
    if count < 1:
        return
    similarity, index = likeness(features, count)
    chosen = range(min(SHOWN, len(names)))
    if arguments.query is not None:
        query = shown(arguments.query)
        if query not in names:
            raise UsageError(f"--query {query} is not an image below {arguments.path}; give its path below that folder")
        chosen = [names.index(query)]
    for row in chosen if arguments.neighbors else []:
        print(f"most like {names[row]}:")
        for value, other in zip(similarity[row].tolist(), index[row].tolist(), strict=True):
            print(f"    {value:6.3f}  {names[other]}")
    show_duplicates(names, duplicates(features, arguments.threshold), arguments)


def show_duplicates(names: list[str], found: Duplicates, arguments: Any) -> None:
    """Print pairs, or the groups they form when they are too many to read."""
    what = f"{found.count} pairs, {len(found.groups)} groups of images"
    print(f"near-duplicates (centered cosine of at least {arguments.threshold}): {what}")
    most = None if arguments.all else SHOWN
    if found.count <= MOST_PAIRS:
        for value, i, j in found.pairs[:most]:
            print(f"    {value:6.3f}  {names[i]}  {names[j]}")
        return
    for group in found.groups[:most]:
        print(f"    {len(group)} images:  {'  '.join(names[i] for i in group[:most])}")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tasks.embed", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("path", type=Path, help="folder, tar or zip of images")
    parser.add_argument("--model", help="models:/NAME@ALIAS or models:/NAME/VERSION (default: the champion)")
    parser.add_argument("--output", type=Path, default=Path("embeddings.parquet"), help="parquet file to write")
    parser.add_argument("--neighbors", type=int, default=5, help="how many neighbors to show (0: none)")
    parser.add_argument("--query", metavar="FILE", help="show the neighbors of this image, named as below PATH")
    parser.add_argument("--threshold", type=float, default=0.99, help="similarity from which two images are near-duplicates")
    parser.add_argument(
        "--all", action="store_true", help="list every pair of near-duplicates; every group of them, when there are many"
    )
    arguments = parser.parse_args()
    settings.apply()
    arguments.path, arguments.output = arguments.path.expanduser(), arguments.output.expanduser()
    check_output(arguments.output)
    source = open_images(arguments.path, arguments.query)
    encoder = registry.load(arguments.model)
    check_space(arguments.output, len(source.items), encoder.config["dim"])
    names, features = embed(arguments.path, encoder, source)
    write(arguments.output, names, features, encoder.uri)
    print(f"{len(names)} images -> {arguments.output} ({features.shape[1]} features each, {encoder.uri})")
    show(names, features, arguments)


if __name__ == "__main__":
    run(main)
