"""Which files are images by their names, before any is opened."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePosixPath

from tasks.runtime.words import counted, few

NOT_IMAGES = set(  # what lies beside images; any other suffix is judged by content
    ".txt .md .rst .csv .tsv .json .jsonl .xml .yaml .yml .toml .html .htm .css .js .py .ipynb .sh .log .mat .db .sqlite"  # noqa: SIM905
    " .ini .lock .cls .dvc .sha256 .md5 .npz .parquet .xls .xlsx .doc .docx"
    " .xmp .tfw .jgw .pgw .wld .prj .ovr".split()
)
HOLD_IMAGES = set(".mp4 .avi .mov .mkv .webm .m4v .mpg .zip .tar .gz .tgz .rar .7z".split())  # noqa: SIM905
"""Videos and archives: not read, and told."""
NO_IMAGES = NOT_IMAGES | HOLD_IMAGES
HIDDEN = {"thumbs.db", "desktop.ini", "__macosx", "@eadir", "dicomdir"}
HIDDEN |= {"$recycle.bin", "system volume information", "lost+found"}
OWN = {".git", ".dvc", ".ssl", ".venv", ".ipynb_checkpoints", ".thumbnails"}
"""Hidden folders in which tools keep what is theirs."""
PICTURES = set(".jpg .jpeg .png .bmp .gif .webp .tif .tiff .npy .dcm".split())  # noqa: SIM905
SUMS = "SHA256SUMS"
ARRAY = ".npy"


def is_image(name: str) -> bool:
    """Whether a file counts as an image: not hidden, and not of a kind that lies beside images (text, tables, code)."""
    path = PurePosixPath(name)
    return not is_hidden(name) and path.name != SUMS and path.suffix.lower() not in NO_IMAGES


def is_hidden(name: str) -> bool:
    """Whether a file, or a folder around it, is hidden or one of those that systems leave behind."""
    return any(part.startswith(".") or part.lower() in HIDDEN for part in PurePosixPath(name).parts)


def to_read(names: Iterable[str]) -> tuple[list[str], list[str]]:
    """(images, the other files), each in order. Arrays in .npy files are images where there are no pictures."""
    found: dict[str, list[str]] = {"picture": [], "array": [], "other": []}
    for name in sorted(names):
        array = PurePosixPath(name).suffix.lower() == ARRAY
        found["other" if not is_image(name) else "array" if array else "picture"].append(name)
    read, left = (found["picture"], found["array"]) if found["picture"] else (found["array"], [])
    return read, sorted(name for name in (*found["other"], *left) if name != SUMS)


def left_out(others: Iterable[str], read: Sequence[str]) -> list[str]:
    """Warnings of what may hold images among the files that are not ``read``: in hidden folders (not those where tools keep
    theirs), arrays beside pictures, videos and archives."""
    others = list(others)
    arrays = sum(PurePosixPath(name).suffix.lower() == ARRAY and is_image(name) for name in others)
    lie = counted(arrays, ".npy file lies", ".npy files lie")
    found = [f"{lie} beside pictures and are not used"] if arrays and read else []
    if holders := [name for name in others if PurePosixPath(name).suffix.lower() in HOLD_IMAGES and not is_hidden(name)]:
        what = counted(len(holders), "video or archive is", "videos or archives are")
        found.append(f"{what} not read: {few(map(repr, holders))}")
    counts = Counter[str]()
    for path in map(PurePosixPath, others):
        hidden = next((part for part in path.parts[:-1] if part.startswith(".")), "")
        if hidden and hidden.lower() not in OWN and path.suffix.lower() in PICTURES and not path.name.startswith("."):
            counts[hidden] += 1
    lie = counted(counts.total(), "image in a hidden folder is", "images in hidden folders are")
    return [*found, f"{lie} not used: {by_count(counts)}; give the folder a name without the dot"] if counts else found


def by_count(counts: Mapping[str, int], most: int = 5) -> str:
    """``'raw' (20), 'masks' (7)``, the most first."""
    return few((f"{name!r} ({count})" for name, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))), most)
