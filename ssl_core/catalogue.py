"""The methods by name, as their files in ``ssl_core/methods`` declare them. A new file there is a new method.

The declarations are read from the source: importing the files would load torch, which takes seconds, and half of the
commands need only names.
"""

import ast
import importlib
from importlib import resources
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from ssl_core.engine.method import Method

PACKAGE = "ssl_core.methods"


class Entry(NamedTuple):
    """What the class of a method says of itself (``ssl_core.engine.method.Method``)."""

    year: int
    family: str
    paper: str
    title: str


NOTES = ("from_labels", "shows", "about_loss", "noun")
"""What a class may say besides: whether it learns from labels, what the rows of its sheet of views are (top to bottom), what
to know of the curve of its loss, and what a sentence calls the features of a baseline."""


def _declared(source: str) -> dict[str, Any]:
    """The constants of the first class with a title: ``title``, ``family`` and, of a method, ``year`` and ``paper``."""
    for node in ast.parse(source).body:
        if isinstance(node, ast.ClassDef):
            assigned = [a for a in node.body if isinstance(a, ast.Assign) and isinstance(a.value, ast.Constant)]
            constants = {ast.unparse(a.targets[0]): ast.literal_eval(a.value) for a in assigned}
            if "title" in constants:
                return {name: constants[name] for name in (*Entry._fields, *NOTES) if name in constants}
    return {}


def _read() -> dict[str, dict[str, Any]]:
    files = (f for f in resources.files(PACKAGE).iterdir() if f.name.endswith(".py") and not f.name.startswith("_"))
    found = {f.name.removesuffix(".py"): _declared(f.read_text(encoding="utf-8")) for f in files}
    return dict(sorted(found.items(), key=lambda item: (item[1].get("year", 0), item[0])))


_DECLARED = _read()

METHODS: dict[str, Entry] = {
    name: Entry(**{field: value for field, value in about.items() if field in Entry._fields})
    for name, about in _DECLARED.items()
    if about.get("family") != "baseline"
}
"""The self-supervised methods, oldest first."""

SHOWS, ABOUT_LOSS, NOUNS = ({name: about[note] for name, about in _DECLARED.items() if note in about} for note in NOTES[1:])
"""What the rows of a method's sheet of views are, what to know of the curve of its loss, and what a sentence calls a row."""

LABELLED = frozenset(name for name, about in _DECLARED.items() if about.get("from_labels"))
"""The baselines that are trained with labels. The others cost no training: what a method has to be better than."""

BASELINES: dict[str, str] = {name: about["title"] for name, about in _DECLARED.items() if name not in METHODS}
"""The rows to compare with; the same stages run them."""


def load_class(name: str) -> "type[Method]":
    """The class of a method or baseline: the only subclass of ``Method`` defined in ``ssl_core/methods/<name>.py``."""
    from ssl_core.engine.method import Method

    module = importlib.import_module(f"{PACKAGE}.{name}")
    classes = [c for c in vars(module).values() if isinstance(c, type) and c.__module__ == module.__name__]
    methods = [c for c in classes if issubclass(c, Method)]
    if len(methods) != 1:
        raise ValueError(f"ssl_core/methods/{name}.py must define exactly one Method, not {len(methods)}")
    return methods[0]
