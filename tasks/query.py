"""The image to search with: one of those that ``tasks.embed`` reads, or any other."""

import os
import shutil
import tempfile
from pathlib import Path

import torch

from tasks.embedding import Outputs, embed, open_images, tiles_of
from tasks.picture_sheet import pictures
from tasks.prepare.decoding import DEPTH
from tasks.prepare.layout import shown
from tasks.prepare.source import Source
from tasks.register import registry
from tasks.runtime.errors import UsageError

UNREADABLE = "it is damaged, or no image, or so long that only data.tile could cut it"


def below(path: Path, query: str | None) -> str | None:
    """The name of an image below ``path``: of ``./NAME``, and of its path from here or from the root, too."""
    if query is None or not path.is_dir():
        return query
    folders = [os.path.abspath(path), os.path.realpath(path)]  # noqa: PTH100  what a link is called counts too
    for whole in (f"{folders[0]}/{query}", os.path.abspath(at_home(Path(query)))):  # noqa: PTH100
        image = os.path.normpath(whole)
        inside = [image.removeprefix(f"{folder}/") for folder in folders if image.startswith(f"{folder}/")]
        if inside and Path(image.rpartition("#")[0] or image).is_file():  # or a tile of it
            return inside[0]
    return query


def find(path: Path, images: Source, query: str) -> str | Path:
    """The name of the image at ``path`` that ``query`` is, as ``below`` gives it, or else the file that it names.

    Raises:
        UsageError: it is neither.
    """
    names = {shown(item.name) for item in images.items}
    if _names(query) & names:
        return query
    for image in (path / query, at_home(Path(query))):  # below the folder, but hidden, or a link that is not followed
        if image.is_file():
            return image
    known = [name for name in sorted(names) if name.rpartition("/")[2] == shown(query).rpartition("/")[2]]
    to_do = f"is it {known[0]}?" if known else "give its path there, or that of any other file"
    raise UsageError(f"--query {shown(query)} is not an image below {path}; {to_do}")


def _names(query: str) -> set[str]:
    """What the image may be called that ``query`` is, or is a tile of."""
    return {shown(query), shown(query).rpartition("#")[0]}


def check_query(query: str, tiles: Source, encoder: registry.Loaded) -> None:
    """Refuse a query that cannot be decoded, before all others are.

    Args:
        tiles: the images, cut where the encoder was trained on tiles.

    Raises:
        UsageError: it is so.
    """
    called = [{shown(item.name), shown(item.name).rpartition("#")[0]} for item in tiles.items]
    rows = [row for row, names in enumerate(called) if names & _names(query) - {""}][:1]
    if not pictures(tiles, rows, encoder.config["encoder"]["channels"], encoder.config.get("bit_depth", DEPTH)):
        raise UsageError(f"--query {shown(query)} cannot be read: {UNREADABLE}")


def check_tile(query: str, tiles: Source) -> None:
    """Refuse a query that names a tile which there is not.

    Raises:
        UsageError: it is so.
    """
    wanted = shown(query)
    if not any((name := shown(item.name)) == wanted or name.startswith(f"{wanted}#") for item in tiles.items):
        raise UsageError(f"--query {wanted}: {wanted.rpartition('#')[0]} has no such tile")


def features_of(image: Path, encoder: registry.Loaded, outputs: Outputs | None) -> torch.Tensor:
    """(n, ...) of one image: of its tiles, or of it alone."""
    with tempfile.TemporaryDirectory(prefix="ssl-query-") as place:  # what lies beside it may be a whole disk
        name = image.name.lstrip(".")  # a hidden file would not be read
        shutil.copyfile(image, Path(place, name))
        source = tiles_of(open_images(Path(place)), encoder)
        try:
            check_query(name, source, encoder)
        except UsageError:
            raise UsageError(f"--query {image} cannot be read: {UNREADABLE}") from None
        return embed(Path(place), encoder, source, outputs)[1]


def at_home(path: Path) -> Path:
    """``path`` with a ``~`` replaced.

    Raises:
        UsageError: it names a user that this machine does not know.
    """
    try:
        return path.expanduser()
    except RuntimeError:
        raise UsageError(f"{path}: no such user is known here") from None
