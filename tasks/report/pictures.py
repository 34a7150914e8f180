"""The report's pictures: thumbnails, nearest-neighbor strips and maps of the features, as PNG."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tasks.report import figures
from tasks.report.figures import CLASS_COLORS, GREEN, GREY, RED
from tasks.runtime.files import load_tensors

THUMBNAIL = 56
"""Largest side of a thumbnail in pixels; the page enlarges smaller ones."""
NEIGHBORS = 5
QUERIES = 12
"""Images whose neighbors are shown, at most: one of every class as far as that goes."""
ASKED = 1000
"""Images that precision is measured on, at most."""
SAMPLED = 200
"""Images whose values say what is black and white in pictures, at most twice as many."""
MAP_POINTS = 600
PERPLEXITY, STEPS = 20.0, 300
"""Of the maps: about how many neighbors a point has, and how long they settle."""
MAP_CLASSES = 24
"""Classes a map can tell apart (8 colors, 3 markers); the rest is grey."""


@dataclass(frozen=True)
class Gallery:
    """The images pictures are made of: the test split, or training images where there is no test split."""

    images: np.ndarray
    """(M, C, S, S) uint8 or uint16."""
    labels: np.ndarray
    """(M,) int64, -1 where unknown."""
    split: str
    """``test`` or ``train``: which features go with them."""
    rows: np.ndarray
    """(M,) which of the split they are."""
    groups: np.ndarray | None = None
    """(M,) equal for images that belong together."""

    def features(self, root: Path, name: str) -> np.ndarray | None:
        """Unit-length features (M, D) of the encoder ``name``, or None where they are not there."""
        path = root / f"out/features/{name}.safetensors"
        if not path.exists():
            return None
        x = load_tensors(path)[self.split][self.rows].astype(np.float32)
        return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)

    def queries(self) -> list[int]:
        """Positions of the images whose neighbors are shown: the first of every class, or of classes evenly over many."""
        known = np.unique(self.labels[self.labels >= 0])
        if len(known) < 2:
            return evenly(len(self.images), QUERIES // 2).tolist()
        chosen = known[np.linspace(0, len(known) - 1, min(QUERIES, len(known))).astype(int)]
        return [int(np.flatnonzero(self.labels == label)[0]) for label in chosen]


@dataclass(frozen=True)
class Precision:
    """How many of the most similar images are of the query's class, on average."""

    share: float
    low: float
    high: float
    """Ends of the 95 % interval over the queries."""
    queries: int


def precision(features: np.ndarray, labels: np.ndarray, groups: np.ndarray | None = None) -> Precision | None:
    """The share of the ``NEIGHBORS`` most similar images that have the class of the query, over ``ASKED`` queries at most.

    Args:
        features: (M, D) of unit length.
        labels: (M,), -1 where unknown: such an image is neither asked nor found.
        groups: (M,), equal for images that belong together: none is found for another one of its group.

    Returns:
        None without two labelled classes, or where no other group has so many images.
    """
    known = np.flatnonzero(labels >= 0)
    own = np.arange(len(known)) if groups is None else np.unique(groups[known], return_inverse=True)[1]
    if len(np.unique(labels[known])) < 2 or len(known) - np.bincount(own).max() < NEIGHBORS:
        return None
    x, y = features[known], labels[known]
    asked = evenly(len(x), ASKED)
    right = (y[most_similar(x, asked, own)] == y[asked, None]).mean(1)
    together = np.bincount(own[asked], right - right.mean())  # a group's queries are right or wrong together
    half = 1.96 * _wider(own[asked], groups is not None) * float((together**2).sum()) ** 0.5 / len(right)
    return Precision(right.mean(), max(0.0, right.mean() - half), min(1.0, right.mean() + half), len(right))


def _wider(own: np.ndarray, grouped: bool) -> float:
    """By which an interval of these groups is wider than a normal one; of two groups at least."""
    if not grouped:
        return 1.0
    import torch

    from ssl_core.evaluation.intervals import effective, widening

    return widening(max(2, effective(torch.from_numpy(np.bincount(own)))))


def evenly(images: int, count: int) -> np.ndarray:
    """Positions of at most ``count`` of so many images."""
    count = min(images, count)
    return np.arange(count) * images // max(1, count)


def most_similar(features: np.ndarray, queries: Sequence[int], groups: np.ndarray | None = None) -> np.ndarray:
    """(Q, NEIGHBORS) positions of the images most similar to each query (cosine), the query itself and its group left out."""
    similarity = features[list(queries)] @ features.T
    own = np.arange(len(features)) if groups is None else groups
    similarity[own[list(queries), None] == own] = -np.inf
    if len(features) <= NEIGHBORS:
        return np.argsort(-similarity, axis=1, kind="stable")[:, : len(features) - 1]
    nearest = np.argpartition(-similarity, NEIGHBORS, axis=1)[:, :NEIGHBORS]
    order = np.argsort(-np.take_along_axis(similarity, nearest, 1), axis=1, kind="stable")
    return np.take_along_axis(nearest, order, 1)


def png(pixels: np.ndarray) -> bytes:
    """(H, W) or (H, W, 3) uint8 as PNG."""
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(pixels).save(out, format="PNG")
    return out.getvalue()


def ends(images: np.ndarray, rows: Sequence[int]) -> tuple[float, float]:
    """Which values pictures of the (N, C, S, S) ``images`` at ``rows`` show black and white: the ends of what there may be or,
    where the images use less than half of that, as satellites' do, of what there is, but for one value in a hundred."""
    most = np.iinfo(images.dtype).max
    step = max(1, len(rows) // SAMPLED)
    black, white = np.percentile(np.stack([images[row][:3] for row in rows[::step]]), (0.5, 99.5))
    return (float(black), float(white)) if 0 < white - black < most / 2 else (0.0, float(most))


def shades(image: np.ndarray, shown: tuple[float, float]) -> np.ndarray:
    """uint8 of an array of integers, 0 and 255 where its values are those of ``shown``, or beyond."""
    black, white = shown
    if image.dtype == np.uint8 and shown == (0, 255):
        return image
    return (np.clip((image - black) / (white - black), 0, 1) * 255).round().astype(np.uint8)


def thumbnail(image: np.ndarray, shown: tuple[float, float]) -> np.ndarray:
    """(C, S, S) uint8 or uint16 -> (s, s, 3) uint8 with s at most ``THUMBNAIL``; ``shown``: see ``ends``."""
    from PIL import Image

    eight = shades(image, shown)
    pixels = eight[:3] if len(eight) >= 3 else np.repeat(eight[:1], 3, 0)  # of more bands, the first three as color
    pixels = np.ascontiguousarray(pixels.transpose(1, 2, 0))
    if len(pixels) <= THUMBNAIL:
        return pixels
    return np.asarray(Image.fromarray(pixels).resize((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS))


def neighbor_sheet(gallery: Gallery, queries: Sequence[int], found: np.ndarray) -> bytes:
    """A column for each query: the query, a gap, and its neighbors (Q, NEIGHBORS), the most similar one first.

    The bar below a neighbor is green where the class is the query's, red where it is not, grey without classes.
    """
    columns, shown = [], ends(gallery.images, queries)
    for query, line in zip(queries, found, strict=True):
        top = thumbnail(gallery.images[query], shown)
        width, own = top.shape[1], gallery.labels[query]
        parts = [top, np.full((max(3, width // 6), width, 3), 255, np.uint8)]
        for index in line:
            bar = np.zeros((max(2, width // 12), width, 3), np.uint8)
            bar[:] = _rgb(GREY if own < 0 else GREEN if gallery.labels[index] == own else RED)
            parts += [thumbnail(gallery.images[index], shown), bar, np.full((2, width, 3), 255, np.uint8)]
        column = np.concatenate(parts)
        columns += [column, np.full((len(column), 3, 3), 255, np.uint8)]
    return png(np.concatenate(columns[:-1], axis=1))


def _rgb(color: str) -> tuple[int, ...]:
    return tuple(int(color[i : i + 2], 16) for i in (1, 3, 5))


def map_points(gallery: Gallery) -> np.ndarray:
    """Positions of the images on the maps: evenly spaced, the same for every method."""
    return evenly(len(gallery.images), MAP_POINTS)


def groups(labels: np.ndarray) -> list[int]:
    """The labels that get a color and a marker: the most frequent ones, in their own order."""
    found, counts = np.unique(labels[labels >= 0], return_counts=True)
    return sorted(int(g) for g in found[np.argsort(-counts, kind="stable")][:MAP_CLASSES])


def plane(features: np.ndarray) -> np.ndarray:
    """t-SNE (van der Maaten & Hinton, JMLR 9, 2008): similar rows near one another, the same on every machine of one kind.

    Args:
        features: (n, D), n of a few hundred.

    Returns:
        (n, 2) float32; zeros where the features do not vary or are fewer than five.
    """
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    if len(features) < 5 or not features.std(0).max() > 1e-6:
        return np.zeros((len(features), 2), np.float32)
    wide = np.pad(features, ((0, 0), (0, max(0, 2 - features.shape[1]))))
    perplexity = min(PERPLEXITY, (len(features) - 1) / 3)
    with threadpool_limits(1):  # several threads add in an order that changes
        return TSNE(perplexity=perplexity, max_iter=STEPS, init="pca", random_state=0).fit_transform(wide)


def feature_map(features: np.ndarray, labels: np.ndarray) -> bytes:
    """The rows of ``features`` in the plane, a color and marker for each group."""
    return figures.scatter_map(plane(features), labels, groups(labels))


def legend(names: Sequence[str], others: bool = False) -> list[tuple[str, str, str]]:
    """(color, sign, name) of each group of ``groups``, for the page; ``others``: and of the points that are of none."""
    signs = "●▲■"
    found = [(CLASS_COLORS[i % len(CLASS_COLORS)], signs[i // len(CLASS_COLORS)], name) for i, name in enumerate(names)]
    return [*found, (figures.GREY, "●", "others")] if others else found
