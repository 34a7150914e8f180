"""``python -m tasks.embed PATH``: features of a folder (or archive) of images by a registered encoder, and what is alike.

Writes a parquet file with one row per image, ``id`` (its name below PATH) and ``features``; prints the nearest neighbors of
some images and the near-duplicates. The encoder comes from MLflow's registry: the champion, unless ``--model`` says another.
"""

import argparse
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ssl_core.evaluation.knn import nearest_neighbors
from tasks.prepare.decoding import Job, decode_all
from tasks.prepare.images import DEPTH
from tasks.prepare.intake import ONE_WORKER
from tasks.prepare.layout import Item, is_image
from tasks.prepare.source import FileSource
from tasks.prepare.sources.archive import ArchiveSource
from tasks.prepare.sources.folder import FolderSource
from tasks.register import registry
from tasks.runtime import settings
from tasks.runtime.errors import DataError, UsageError, run
from tasks.runtime.progress import Progress

BATCH = 256
SHOWN = 5
"""Images whose neighbors are printed without ``--query``; also the most pairs of near-duplicates."""


class _Flat(FileSource):
    """Every image, wherever it is: folders mean nothing here."""

    def place(self, names: Sequence[str], folders: Sequence[str], where: str) -> None:
        self.items = [Item(name, "train", -1) for name in sorted(names) if is_image(name)]

    def check_sums(self, text: bytes) -> None:
        pass


class _Folder(_Flat, FolderSource):
    pass


class _Archive(_Flat, ArchiveSource):
    pass


def embed(path: Path, encoder: registry.Loaded) -> tuple[list[str], torch.Tensor]:
    """(names, features (N, D)) of every readable image below ``path``; the others are named on stderr.

    Raises:
        UsageError: no such path.
        DataError: nothing readable there.
    """
    if not path.exists():
        raise UsageError(f"{path} does not exist")
    source = _Folder(path) if path.is_dir() else _Archive(path)
    made = encoder.config["encoder"]
    size, channels = made["image_size"], made["channels"]
    names = [item.name for item in source.items]
    features: dict[int, torch.Tensor] = {}
    bad, batch = list(source.bad), []
    progress = Progress("embedding", len(names), "images")

    def flush() -> None:
        pixels = np.stack([np.frombuffer(p, np.uint8).reshape(size, size, channels).transpose(2, 0, 1) for _, p in batch])
        with torch.inference_mode():
            for (row, _), feature in zip(batch, encoder.module(torch.from_numpy(pixels.copy())), strict=True):
                features[row] = feature
        batch.clear()

    jobs = (Job(row, names[row], content) for row, content in source.read(range(len(names))))
    workers, depth = 1 if len(names) <= ONE_WORKER else None, encoder.config.get("bit_depth", DEPTH)
    with closing(decode_all(jobs, size, channels, workers, depth)) as answers:
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
        raise DataError(f"{path} holds no readable images (JPEG, PNG, BMP, GIF, WebP or TIFF)")
    rows = sorted(features)
    return [names[row] for row in rows], torch.stack([features[row] for row in rows])


def likeness(features: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(similarity, index), each (N, count): the images most like each image, without itself, by centered cosine.

    Without the mean, which all images share, similarities spread over [-1, 1] and a threshold means something.
    """
    centered = features - features.mean(0) if len(features) > 2 else features
    unit = torch.nn.functional.normalize(centered, dim=1)
    similarity, index = nearest_neighbors(unit, unit, count + 1)
    itself = index == torch.arange(len(unit))[:, None]
    itself[:, -1] |= ~itself.any(1)  # among more than ``count`` copies an image may not find itself
    return similarity[~itself].view(len(unit), -1), index[~itself].view(len(unit), -1)


def duplicates(similarity: torch.Tensor, index: torch.Tensor, threshold: float) -> list[tuple[float, int, int]]:
    """(similarity, first, second) of the pairs that are at least ``threshold`` alike, the most alike first."""
    rows, places = torch.nonzero(similarity >= threshold, as_tuple=True)
    pairs = {
        (min(i, j), max(i, j)): s
        for i, j, s in zip(rows.tolist(), index[rows, places].tolist(), similarity[rows, places].tolist(), strict=True)
    }
    return sorted(((s, i, j) for (i, j), s in pairs.items()), key=lambda p: (-p[0], p[1:]))


def write(path: Path, names: list[str], features: torch.Tensor, uri: str) -> None:
    """A parquet file with columns ``id`` and ``features`` (fixed-size lists of float32); the model is in its metadata."""
    import pyarrow as pa
    from pyarrow import parquet

    values = pa.FixedSizeListArray.from_arrays(pa.array(features.numpy().ravel()), features.shape[1])
    table = pa.table({"id": names, "features": values}).replace_schema_metadata({"model": uri})
    temp = path.with_name(f".{path.name}.tmp")
    parquet.write_table(table, temp)
    temp.replace(path)


def show(names: list[str], features: torch.Tensor, arguments: Any) -> None:
    """Print neighbors and near-duplicates."""
    count = min(max(arguments.neighbors, 1), len(names) - 1)
    if count < 1:
        return
    similarity, index = likeness(features, count)
    chosen = range(min(SHOWN, len(names)))
    if arguments.query is not None:
        if arguments.query not in names:
            raise UsageError(
                f"--query {arguments.query} is not an image below {arguments.path}; give its path below that folder"
            )
        chosen = [names.index(arguments.query)]
    for row in chosen if arguments.neighbors else []:
        print(f"most like {names[row]}:")
        for value, other in zip(similarity[row].tolist(), index[row].tolist(), strict=True):
            print(f"    {value:6.3f}  {names[other]}")
    pairs = duplicates(similarity, index, arguments.threshold)
    print(f"near-duplicates (centered cosine of at least {arguments.threshold}): {len(pairs)} pairs")
    for value, i, j in pairs[: None if arguments.all else SHOWN]:
        print(f"    {value:6.3f}  {names[i]}  {names[j]}")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tasks.embed", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("path", type=Path, help="folder, tar or zip of images")
    parser.add_argument("--model", help="models:/NAME@ALIAS or models:/NAME/VERSION (default: the champion)")
    parser.add_argument("--output", type=Path, default=Path("embeddings.parquet"), help="parquet file to write")
    parser.add_argument("--neighbors", type=int, default=5, help="how many neighbors to show (0: none)")
    parser.add_argument("--query", metavar="FILE", help="show the neighbors of this image, named as below PATH")
    parser.add_argument("--threshold", type=float, default=0.99, help="similarity from which two images are near-duplicates")
    parser.add_argument("--all", action="store_true", help="list every pair of near-duplicates")
    arguments = parser.parse_args()
    settings.apply()
    encoder = registry.load(arguments.model)
    names, features = embed(arguments.path, encoder)
    write(arguments.output, names, features, encoder.uri)
    print(f"{len(names)} images -> {arguments.output} ({features.shape[1]} features each, {encoder.uri})")
    show(names, features, arguments)


if __name__ == "__main__":
    run(main)
