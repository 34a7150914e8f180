"""What a terminal says of an encoder: the lines of Python that load it, and search with it, if they would work now."""

import json
import os
from pathlib import Path

from tasks.runtime import settings
from tasks.runtime.errors import Stop
from tasks.runtime.redaction import redact
from tasks.tracking import own_store
from tasks.tracking.registered import CHAMPION, left_alone, load, look


def how_to_load(root: Path, best: str, title: str = "best encoder", alias: str = CHAMPION, current: bool = True) -> str:
    """What a terminal says of the encoder ``best``: the lines that load it by ``alias`` from any directory, if they would work
    now; not ``current``, what is registered is of an earlier run."""
    if not current:
        return f"{title}: {best}, in out/encoders/{best}; what is registered may be older, make run brings it up to date"
    try:
        wanted, (reason, left) = load(root), look(root)
    except Stop as error:
        wanted, reason, left = None, str(error), {}
    if alias in left:
        return f"{title}: {best}, in out/encoders/{best}; {left_alone({alias: left[alias]})}"
    if wanted and not reason and CHAMPION not in wanted.aliases and alias == CHAMPION and best in wanted.packages:
        title, alias = f"{title} (of this run; another one stays champion)", best.rpartition("-")[0]
    if wanted is not None and best in wanted.left_out:
        return f"{title}: {best}, in out/encoders/{best}; not registered, for its export does not give the same features"
    if wanted is None or reason or wanted.aliases.get(alias) != best:
        return f"{title}: {best}, in out/encoders/{best}; not registered{f' ({reason})' if reason else ' yet'}, make run does"
    model = "" if alias == CHAMPION else f" --model models:/{wanted.model}@{alias}"
    search = f"# to search images, in the project's folder: python -m tasks.embed IMAGES{model}"
    return "\n    ".join([f"{title}, {best}:", *load_lines(root, wanted.model, alias), search])


def how_to_load_folder(root: Path, name: str, title: str) -> str:
    """The lines that load an encoder which is in no registry from its folder, search with it, and have it in other tools."""
    folder = json.dumps(str(root.resolve() / "out" / "encoders" / name))
    search = f"# to search images, in the project's folder: python -m tasks.embed IMAGES --model out/encoders/{name}"
    others = f"# for other tools, in the project's folder: python -m tasks.encoder out/encoders/{name} FOLDER"
    return "\n    ".join([f"{title}, {name}:", _importing(root), f"encoder = load({folder})", search, others])


def _importing(root: Path) -> str:
    return f"import sys; sys.path.insert(0, {json.dumps(str(root.resolve()))}); from tasks.encoder import load"


def load_lines(root: Path, model: str, alias: str = CHAMPION) -> tuple[str, str]:
    """The Python that loads an encoder in any directory, from the store in use; an address with a password is not shown."""
    given = [os.environ.get(name) for name in ("MLFLOW_REGISTRY_URI", "MLFLOW_TRACKING_URI")]
    uri = next(filter(None, given), settings.store_uri(root.resolve()))
    file = own_store.file_of(uri)
    store = f"{own_store.SQLITE}{file}" if file else uri
    first = _importing(root)
    if redact(store) != store:
        return first, f'encoder = load("models:/{model}@{alias}")  # MLFLOW_TRACKING_URI as here: {redact(store)}'
    return first, f'encoder = load("models:/{model}@{alias}", store={json.dumps(store)})'
