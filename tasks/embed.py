"""``python -m tasks.embed PATH``: features of a folder (or archive) of images by a registered encoder, and what is alike.

Writes a parquet file with one row per image, ``id`` (its name below PATH) and ``features``; prints the nearest neighbors of
some images, near-duplicates, outliers and labels that look wrong, and makes a sheet of pictures of them. The encoder comes
from MLflow's registry: the champion, unless ``--model`` says another.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from tasks.alike import MOST_PAIRS, NEIGHBORS, Duplicates, duplicates, likeness, outliers, suspects
from tasks.embedding import Outputs, embed, open_images, tiles_of
from tasks.encoder import need_network, read
from tasks.picture_sheet import ACROSS, Section, pictures, png
from tasks.prepare.decoding import DEPTH
from tasks.prepare.layout import shown
from tasks.prepare.source import Source
from tasks.prepare.split_names import role_of
from tasks.query import at_home, below, check_query, check_tile, features_of, find
from tasks.register import registry
from tasks.runtime import files, settings
from tasks.runtime.errors import UsageError, run
from tasks.runtime.words import counted, printable

SHOWN = 5
"""Images whose neighbors are printed without ``--query``; also the most pairs of near-duplicates."""
MANY_ALIKE = 0.25
"""Share of the images in one group of near-duplicates from which on it is said that this may be the encoder's doing."""


def write(path: Path, names: list[str], features: torch.Tensor, uri: str) -> None:
    """A parquet file with columns ``id`` and ``features`` (fixed-size lists of float32), and model and shape in its metadata.

    Args:
        features: (N, D), or dense (N, C, h, w).
    """
    import pyarrow as pa
    from pyarrow import parquet

    values = pa.FixedSizeListArray.from_arrays(pa.array(features.numpy().ravel()), features[0].numel())
    table = pa.table({"id": names, "features": values}).replace_schema_metadata(
        {"model": uri, "shape": ",".join(map(str, features.shape[1:]))}
    )
    temp = files.beside(path)
    try:
        parquet.write_table(table, temp)
        temp.replace(path)
    finally:
        temp.unlink(missing_ok=True)


BEGINS = {"parquet": b"PAR1", "PNG": b"\x89PNG"}
"""The first bytes of what is written: of an earlier one, nothing is lost when it is replaced."""
ENDINGS = {"parquet": (".parquet", ".parq", ".pq", ""), "PNG": (".png", "")}
"""What its name may end in."""


def check_output(path: Path, kind: str, images: Path) -> None:
    """Before the work: whether ``path`` can be written, and is nothing else that would be lost.

    Args:
        kind: of file, one of ``BEGINS``.
        images: what is read.

    Raises:
        UsageError: it is a folder or a device, lies in no folder, is another kind of file or called so, or is among the
            images.
        OSError: its folder takes no file.
    """
    if path.is_file() and path.stat().st_size:
        with path.open("rb") as file:
            if file.read(4) != BEGINS[kind]:
                raise UsageError(f"{path} is there and no {kind} file; name another one, or remove it")
    if path.suffix.lower() not in ENDINGS[kind]:
        raise UsageError(f"{path}: what is written is a {kind} file; name it {path.with_suffix(ENDINGS[kind][0]).name}")
    if images.resolve() in path.resolve().parents:
        raise UsageError(f"{path} would lie among the images in {images} the next time; name a file elsewhere")
    if path.exists() and not path.is_dir() and not path.is_file():
        raise UsageError(f"{path} is no file but a device or a pipe; name a file")
    if path.is_dir() or not path.parent.is_dir():
        raise UsageError(f"{path}: {'that is a folder' if path.is_dir() else 'there is no such folder'}; name a file")
    temp = files.beside(path)
    temp.touch()
    temp.unlink()


def show(names: list[str], features: torch.Tensor, arguments: Any, asked: torch.Tensor | None = None) -> list[Section]:
    """Print neighbors, near-duplicates, outliers and suspected labels; the same as pictures to show, by row.

    Args:
        asked: features (n, D) of a query that is none of the images: of its tiles, or of it alone.
    """
    sections, told = [], list(map(printable, names))
    if asked is not None:
        sections = show_asked(told, features, asked, printable(arguments.query), arguments.neighbors)
    count = min(max(arguments.neighbors, NEIGHBORS), len(names) - 1)
    if count < 1 or (asked is not None and not arguments.all):
        return sections
    similarity, index = likeness(features, count)
    chosen: Sequence[int] = range(min(SHOWN, len(names))) if asked is None else []
    if arguments.query is not None and asked is None:
        query = shown(arguments.query)
        tiles = [row for row, name in enumerate(names) if name.rpartition("#")[0] == query]
        chosen = [names.index(query)] if query in names else tiles[:SHOWN]
        if not chosen:
            raise UsageError(f"--query {query} cannot be read; see above")
    names = told
    for row in chosen if arguments.neighbors else []:
        print(f"most like {names[row]}:")
        near = list(zip(similarity[row].tolist(), index[row].tolist(), strict=True))[: arguments.neighbors]
        for value, other in near:
            print(f"    {value:6.3f}  {names[other]}")
        sections.append(Section(f"{names[row]} and those most like it", [row, *(other for _, other in near)]))
    if arguments.query is not None and not arguments.all:
        return sections
    if len(features) < 3:  # the middle of two images tells nothing of them
        return sections
    found = duplicates(features, arguments.threshold)
    show_duplicates(names, found, arguments)
    sections += [Section(f"{len(group)} near-duplicates", group[:ACROSS]) for group in found.groups[:SHOWN]]
    return sections + show_odd(names, similarity[:, :NEIGHBORS], index[:, :NEIGHBORS], None if arguments.all else SHOWN)


def show_asked(names: list[str], features: torch.Tensor, asked: torch.Tensor, query: str, count: int) -> list[Section]:
    """Print the images that are most like a query from elsewhere."""
    sections = []
    for number, own in enumerate(asked[: SHOWN if count else 0], 1):
        similarity, index = likeness(torch.cat([own[None], features]), min(count, len(names)), 1)
        of = f"{query}, tile {number} of {len(asked)}" if len(asked) > 1 else query
        print(f"most like {of}:")
        rows = (index[0] - 1).tolist()
        for value, row in zip(similarity[0].tolist(), rows, strict=True):
            print(f"    {value:6.3f}  {names[row]}")
        sections.append(Section(f"most like {of}", rows))
    return sections


def show_odd(names: list[str], similarity: torch.Tensor, index: torch.Tensor, most: int | None) -> list[Section]:
    """Print the images least like others, and those whose folder looks wrong."""
    odd = outliers(similarity)
    if odd:
        neighbors = f"mean likeness to the {similarity.shape[1]} most like it"
        print(f"much less like any other than is usual ({neighbors}): {counted(len(odd), 'image', 'images')}")
    for row in odd[:most]:
        print(f"    {float(similarity[row].mean()):6.3f}  {names[row]}")
    say_rest(len(odd), most)
    wrong = suspects([class_folder(name) for name in names], index)
    if wrong:
        print(f"in another class than their neighbors: {counted(len(wrong), 'image', 'images')}")
    for suspect in wrong[:most]:
        print(f"    {names[suspect.row]}: {suspect.share:.0%} of its neighbors are {suspect.other}")
    say_rest(len(wrong), most)
    sections = [Section("much less like any other than is usual", odd[:ACROSS])] if odd else []
    return sections + ([Section("in another class than their neighbors", [s.row for s in wrong[:ACROSS]])] if wrong else [])


def class_folder(name: str) -> str:
    """The class that an image's folder says; empty for a loose image."""
    parts = [part for part in name.split("/")[:-1] if not role_of(part)]
    return parts[0] if parts else ""


def show_duplicates(names: list[str], found: Duplicates, arguments: Any) -> None:
    """Print pairs, or the groups they form when they are too many to read."""
    what = f"{counted(found.count, 'pair', 'pairs')}, {counted(len(found.groups), 'group', 'groups')} of images"
    print(f"near-duplicates (centered cosine of at least {arguments.threshold}): {what}")
    largest = max(map(len, found.groups), default=0)
    if largest > max(MANY_ALIKE * len(names), 2 * NEIGHBORS):
        print(f"note: {largest:,} of {len(names):,} images are one group: copies, or an encoder that tells little apart")
    most = None if arguments.all else SHOWN
    if found.count <= MOST_PAIRS:
        for value, i, j in found.pairs[:most]:
            print(f"    {value:6.3f}  {names[i]}  {names[j]}")
        say_rest(found.count, most)
        return
    for group in found.groups[:most]:
        print(f"    {len(group)} images:  {'  '.join(names[i] for i in group[:most])}")
    say_rest(len(found.groups), most)


def say_rest(count: int, most: int | None) -> None:
    """That a list goes on, where it does."""
    if most is not None and count > most:
        print(f"    and {count - most:,} more: --all shows them")


def loaded(model: str | None) -> registry.Loaded:
    """The encoder at an address of the registry, or in a folder that ``tasks.encoder.load`` takes."""
    folder = at_home(Path(model)) if model else None
    if folder is None or not folder.is_dir():
        return registry.load(model)
    module, config = read(folder)
    need_network(module, folder)
    return registry.Loaded(module, config, model)


def chosen_layer(encoder: registry.Loaded, layer: str | None) -> str:
    """The layer whose outputs are written, set in the encoder.

    Raises:
        UsageError: it has no such layer.
    """
    if layer is None:
        return str(encoder.config.get("layer", ""))
    if layer not in encoder.config["layers"]:
        raise UsageError(f"--layer {layer}: {encoder.uri} has {', '.join(encoder.config['layers'])}")
    encoder.module.layer = layer
    return layer


def width(encoder: registry.Loaded, outputs: Outputs | None) -> int:
    """How many numbers are written of an image."""
    made = encoder.config["encoder"]
    blank = torch.zeros(1, made["channels"], made["image_size"], made["image_size"])
    return outputs(blank).numel() if outputs else int(encoder.config["dim"])


def write_sheet(path: Path, sections: Sequence[Section], names: list[str], source: Source, encoder: registry.Loaded) -> None:
    """The pictures of ``sections``, whose rows are of ``names``, as a PNG."""
    places = {shown(item.name): row for row, item in enumerate(source.items)}
    here = [Section(section.title, [places[names[row]] for row in section.rows]) for section in sections]
    wanted = [row for section in here for row in section.rows]
    found = pictures(source, wanted, encoder.config["encoder"]["channels"], encoder.config.get("bit_depth", DEPTH))
    files.write_bytes(path, png(here, found, {row: printable(shown(source.items[row].name)) for row in wanted}))
    print(f"sheet of pictures -> {path}")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tasks.embed", description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("path", type=Path, help="folder, tar or zip of images")
    parser.add_argument("--model", help="models:/NAME@ALIAS, models:/NAME/VERSION or a folder (default: the champion)")
    parser.add_argument("--output", type=Path, default=Path("embeddings.parquet"), help="parquet file to write")
    parser.add_argument("--neighbors", type=int, default=5, help="how many neighbors to show (0: none)")
    parser.add_argument("--query", metavar="FILE", help="show only what is most like this image, which may lie anywhere")
    parser.add_argument("--threshold", type=float, default=0.99, help="similarity from which two images are near-duplicates")
    parser.add_argument(
        "--all", action="store_true", help="show whole lists: near-duplicates (by groups, when there are many) and odd images"
    )
    parser.add_argument("--follow-links", action="store_true", help="read what links out of the folder point to")
    parser.add_argument("--sheet", type=Path, metavar="PNG", help="write a sheet of pictures of the first of what is found")
    parser.add_argument("--layer", help="another layer than the evaluation chose: block1, block2, ...")
    parser.add_argument("--dense", action="store_true", help="write the layer's maps (C, h, w) instead of their mean")
    arguments = parser.parse_args()
    settings.apply()
    if arguments.neighbors < 0:
        raise UsageError(f"--neighbors is {arguments.neighbors}; it must be at least 0")
    if not -1 <= arguments.threshold <= 1:
        raise UsageError(f"--threshold is {arguments.threshold:g}; a similarity lies between -1 and 1")
    arguments.path, arguments.output = at_home(arguments.path), at_home(arguments.output)
    arguments.sheet = arguments.sheet and at_home(arguments.sheet)
    arguments.output = arguments.output.resolve()  # a link stays a link
    check_output(arguments.output, "parquet", arguments.path)
    if arguments.sheet:
        check_output(arguments.sheet, "PNG", arguments.path)
    if arguments.sheet and arguments.sheet.resolve() == arguments.output:
        raise UsageError(f"--output and --sheet are both {arguments.output}; give each its own file")
    images = open_images(arguments.path, arguments.follow_links)
    arguments.query = below(arguments.path, arguments.query)
    query = None if arguments.query is None else find(arguments.path, images, arguments.query)
    encoder = loaded(arguments.model)
    if encoder.caution:
        print(f"warning: {encoder.uri}: {encoder.caution} (--model takes another encoder, or a folder)", file=sys.stderr)
    source = tiles_of(images, encoder)
    if isinstance(query, str):
        check_query(query, source, encoder)
        check_tile(query, source)
    layer = chosen_layer(encoder, arguments.layer)
    dense: Outputs | None = (lambda images: encoder.module.maps(images)[layer].float()) if arguments.dense else None
    files.check_space(arguments.output, len(source.items) * (4 * width(encoder, dense) + 200), "name a file on another disk")
    asked = features_of(query, encoder, dense) if isinstance(query, Path) else None
    names, features = embed(arguments.path, encoder, source, dense)
    write(arguments.output, names, features, encoder.uri)
    size = " x ".join(map(str, features.shape[1:]))
    print(f"{counted(len(names), 'image', 'images')} -> {arguments.output} ({size} features each, {encoder.uri})")
    flat = [None if each is None else each.flatten(2).mean(2) if arguments.dense else each for each in (features, asked)]
    sections = show(names, flat[0], arguments, flat[1])
    if arguments.sheet and sections:
        write_sheet(arguments.sheet, sections, names, source, encoder)
    elif arguments.sheet:
        print("no sheet of pictures: there is nothing to show")


if __name__ == "__main__":
    run(main)
