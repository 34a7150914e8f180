"""docs/reliability.md: what may go wrong (tests/faults.toml), what happens then, and the tests that show it.

``python -m tests.reliability`` writes the page from the marks of the tests: ``@pytest.mark.fault("F1", "I3")``.
"""

import ast
import tomllib
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FAULTS, PAGE = ROOT / "tests/faults.toml", ROOT / "docs/reliability.md"

HEAD = """# What may go wrong, and what happens then

This page is made of `tests/faults.toml` and of the marks of the tests by `python -m tests.reliability`; a test checks that it
is up to date. **{covered} of {total} faults are covered**: a test carries their mark. {partly} are covered partly (what is
missing is said), {open} not at all. Tests marked *long* run with `make stress`
([what they last showed](stress.md)), all others with `make test`.
"""


@dataclass(frozen=True)
class Fault:
    """One entry of the list."""

    what: str
    happens: str
    missing: str = ""
    """What no test shows."""


def faults() -> dict[str, dict[str, Fault]]:
    """The list by its chapters."""
    chapters = tomllib.loads(FAULTS.read_text())
    return {title: {key: Fault(*texts) for key, texts in chapter.items()} for title, chapter in chapters.items()}


def marks() -> dict[str, list[tuple[str, bool]]]:
    """By fault: the tests that cover it, as pytest calls them, and whether each is a long one."""
    found = defaultdict(list)
    for path in sorted(ROOT.glob("tests/**/test_*.py")):
        for function in ast.parse(path.read_text()).body:
            if isinstance(function, ast.FunctionDef):
                test = f"{path.relative_to(ROOT).as_posix()}::{function.name}"
                names = dict(_marks_of(function))
                for key in names.get("fault", ()):
                    found[key].append((test, "stress" in names))
    return found


def _marks_of(function: ast.FunctionDef) -> Iterator[tuple[str, list[str]]]:
    for decorator in function.decorator_list:
        call = decorator.func if isinstance(decorator, ast.Call) else decorator
        if ast.unparse(call).startswith("pytest.mark."):
            given = decorator.args if isinstance(decorator, ast.Call) else []
            yield ast.unparse(call).rpartition(".")[2], [a.value for a in given if isinstance(a, ast.Constant)]


def page() -> str:
    """The text of docs/reliability.md.

    Raises:
        ValueError: a test names a fault that is not on the list.
    """
    chapters, tests = faults(), marks()
    known = {key: fault for chapter in chapters.values() for key, fault in chapter.items()}
    if tests.keys() - known.keys():
        raise ValueError(f"not in {FAULTS.name}: {sorted(tests.keys() - known.keys())}")
    shown = [key for key in known if tests[key]]
    partly = [key for key in shown if known[key].missing]
    text = HEAD.format(covered=len(shown) - len(partly), total=len(known), partly=len(partly), open=len(known) - len(shown))
    for title, chapter in chapters.items():
        text += f"\n## {title}\n\n| | what goes wrong | what is meant to happen | tests |\n|---|---|---|---|\n"
        for key, fault in chapter.items():
            text += f"| {key} | {fault.what} | {fault.happens} | {_cell(tests[key], fault)} |\n"
    return text


def _cell(tests: list[tuple[str, bool]], fault: Fault) -> str:
    """The tests of a fault by the last part of their names, and what is missing."""
    names = []
    for test, is_long in tests:
        path, _, name = test.partition("::")
        said = name.removeprefix("test_").replace("_", " ")
        names.append(f"[{said}](../{path}){' (*long*)' if is_long else ''}")
    if fault.missing or not names:
        names.append(f"**{'partly' if names else 'not covered'}**{f': {fault.missing}' if fault.missing else ''}")
    return "<br>".join(names)


if __name__ == "__main__":
    PAGE.write_text(page())
