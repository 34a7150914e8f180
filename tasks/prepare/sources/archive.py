"""``source: archive``: a tar or zip archive of a folder of images."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from tasks.prepare.archives import Archive
from tasks.prepare.class_folders import ClassFolder
from tasks.prepare.names import SUMS, to_read
from tasks.prepare.source import OWN_LICENSE, Content, FileSource, Source
from tasks.prepare.split_names import role_of
from tasks.runtime.errors import UsageError
from tasks.runtime.image_folders import images_path
from tasks.runtime.params import DataConfig


def open_source(config: DataConfig) -> Source:
    """The archive at ``data.path``.

    Raises:
        UsageError: no file there.
        DataError: the archive is rejected, or holds nothing usable.
    """
    path = images_path(config.path)
    if not path.is_file():
        raise UsageError(
            f"data.path: {path} is not a file; use data.source: folder for a folder, or webdataset for one of shards"
        )
    return ArchiveSource(path, config.class_folder)


class ArchiveSource(FileSource):
    """A tar or zip archive of a folder of images; one folder around everything is looked through."""

    def __init__(self, path: Path, class_folder: ClassFolder | None = None):
        super().__init__(path.name.partition(".")[0] or path.name, path.name, OWN_LICENSE)
        self.class_folder = class_folder
        self._archive = Archive(path)
        names = list(self._archive.members)
        visible, _ = to_read(names)
        tops = {n.partition("/")[0] for n in visible}
        wrapped = len(tops) == 1 and all("/" in n for n in visible) and not any(map(role_of, tops))
        self._prefix = f"{tops.pop()}/" if wrapped else ""
        inside = [n.removeprefix(self._prefix) for n in names if n.startswith(self._prefix)]
        folders = [f.removeprefix(self._prefix) for f in self._archive.folders if f.startswith(self._prefix)]
        self.place(inside, folders, str(path))
        if SUMS in inside:
            self.check_sums(next(c for _, c in self._archive.read([self._prefix + SUMS]) if isinstance(c, bytes)))

    def read(self, rows: Sequence[int]) -> Iterator[tuple[int, Content]]:
        """Read the items at ``rows``."""
        by_name = {self._prefix + self.items[row].name: row for row in rows}
        for name, content in self._archive.read(list(by_name)):
            yield by_name[name], content
