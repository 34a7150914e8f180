"""The rules of the house (docs/architecture.md), read off the syntax trees."""

import ast
import contextlib
import re
import textwrap
from pathlib import Path

import pytest
import yaml

from tests.conftest import ROOT

FILES = sorted(p for d in ("ssl_core", "tasks", "flows") for p in (ROOT / d).rglob("*.py"))
STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
ENTRIES = {stage: entry.get("do", entry) for stage, entry in STAGES.items()}


def imports(path: Path) -> set[str]:
    """Every module a file imports, anywhere in it, with dots."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def tops(path: Path) -> set[str]:
    return {name.split(".")[0] for name in imports(path)}


def where(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


ALLOWED = {
    "prefect": ("flows/",),
    "mlflow": ("tasks/tracking/", "tasks/register/"),
    "dvc": ("tasks/dvc/graph.py", "tasks/dvc/lock_files.py", "tasks/dvc/forks.py"),
    "yaml": (
        "tasks/runtime/params.py",
        "tasks/runtime/strict_yaml.py",
        "tasks/runtime/declared.py",
        "tasks/runtime/recorded.py",
    ),
    "matplotlib": ("tasks/report/figures.py", "tasks/report/curves.py"),
    "pandas": ("tasks/leaderboard.py", "tasks/report/", "flows/artifacts.py"),
    "sklearn": ("tasks/report/pictures.py",),
    "onnxruntime": ("tasks/register/export.py",),
    "timm": ("ssl_core/engine/timm_encoder.py", "ssl_core/engine/weights.py", "tasks/pretrain/weights.py"),
}


@pytest.mark.parametrize("path", FILES, ids=where)
def test_each_library_has_one_place(path: Path) -> None:
    for name in tops(path) & ALLOWED.keys():
        assert where(path).startswith(ALLOWED[name]), f"{name} belongs in {' or '.join(ALLOWED[name])}"


@pytest.mark.parametrize("path", [p for p in FILES if where(p).startswith("ssl_core")], ids=where)
def test_science_does_no_input_or_output(path: Path) -> None:
    forbidden = {"tasks", "flows", "os", "pathlib", "logging", "time", "subprocess", "io", "json", "sys", "pandas", "sklearn"}
    assert not tops(path) & forbidden
    calls = [n.func for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Call)]
    assert not {c.id for c in calls if isinstance(c, ast.Name)} & {"open", "print", "input"}


def folder(stage: str) -> str:
    """The folder whose command a stage runs: ``prepare_task`` and ``evaluate_task`` run those of prepare and evaluate."""
    return stage.removesuffix("_task").removesuffix("_more")


def command(stage: str) -> Path:
    """The file that a stage runs."""
    module = ENTRIES[stage]["cmd"].split()[2].replace(".", "/")
    return ROOT / module / "__main__.py" if (ROOT / module).is_dir() else ROOT / f"{module}.py"


SHARED = {
    "tasks.runtime",
    "tasks.results",
    "tasks.trainings",
    "tasks.leaderboard",
    "tasks.columns",
    "tasks.metrics",
    "tasks.conclusions",
    "tasks.by_few",
    "tasks.verdict",
    "tasks.cautions",
    "tasks.judged",
    "tasks.worth",
    "tasks.starts",
    "tasks.choice",
    "tasks.few_labels",
    "tasks.transfer",
    "tasks.tuned",
}
MAY_IMPORT = {f"tasks/{stage}": {f"tasks.{stage}", "tasks.tracking"} | SHARED for stage in map(folder, STAGES)} | {
    "tasks/runtime": {"tasks.runtime"},
    "tasks/tracking": {"tasks.tracking", "tasks.runtime"},
    "tasks/dvc": {"tasks.dvc", "tasks.runtime"},
}


@pytest.mark.parametrize("path", [p for p in FILES if where(p).startswith("tasks")], ids=where)
def test_tasks_know_no_flow_and_a_stage_no_other_stage(path: Path) -> None:
    assert "flows" not in tops(path)
    seen = {".".join(name.split(".")[:2]) for name in imports(path) if name.startswith("tasks.")}
    assert seen <= MAY_IMPORT.get(where(path.parent), seen)


@pytest.mark.parametrize("path", [p for p in FILES if where(p).startswith("flows")], ids=where)
def test_flows_know_no_science(path: Path) -> None:
    assert "ssl_core" not in tops(path)


def test_a_stage_has_the_folder_of_its_name() -> None:
    for stage, entry in ENTRIES.items():
        assert entry["cmd"].startswith(f"python -m tasks.{folder(stage)}")
        assert command(stage).is_relative_to(ROOT / "tasks" / folder(stage))


@pytest.mark.parametrize("path", sorted((ROOT / "ssl_core/methods").glob("[a-z]*.py")), ids=where)
def test_a_method_imports_no_other_method(path: Path) -> None:
    assert not any(name.startswith("ssl_core.methods") for name in imports(path))


UNPICKLES = re.compile(
    r"(pickle|dill|joblib|cloudpickle|shelve|marshal|_pickle|jsonpickle)\..*"
    r"|torch\.(load|(\w+\.)+load(_\w+)?|hub\..*|package\..*|(\w+\.)*aoti_load_package|(\w+\.)*load_pt2)"
    r"|mlflow(\.\w+)*\.(load_model|load_state_dict|load_checkpoint)"
    r"|(pandas|numpy)(\.\w+)*\.read_pickle"
    r"|yaml\.(unsafe|full)_load(_all)?|runpy\..*|importlib\.util\.spec_from_file_location|exec|eval"
)
"""Full names of what executes code that a file holds."""
NUMPY = ("numpy.load", "numpy.lib.format.read_array")
UNSAFE_YAML = re.compile(r"yaml\.load(_all)?\(.*\byaml\.(Unsafe|Full|C)?Loader\b")


def called(tree: ast.AST) -> list[tuple[str, ast.Call]]:
    """Every call by the full name of what it calls, whatever the import has made of it (``from torch import export as e``)."""
    names = {"np": "numpy", "pd": "pandas"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {a.asname: a.name for a in node.names if a.asname}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {a.asname or a.name: f"{node.module}.{a.name}" for a in node.names}
    found = []
    for call in (n for n in ast.walk(tree) if isinstance(n, ast.Call)):
        first, _, rest = ast.unparse(call.func).partition(".")
        found.append((names.get(first, first) + (f".{rest}" if rest else ""), call))
    return found


STARTS_STAGES = ("tasks/dvc/forks.py", "runpy.run_module")
"""The one call that runs a module of the project by its name, as the stage's own ``python -m`` would."""
READS_PTH = "tasks/pretrain/weights.py"
"""The one file that may read what others have pickled: weights to start from, numbers alone."""


def numbers_alone(call: ast.Call) -> bool:
    return any(k.arg == "weights_only" and isinstance(k.value, ast.Constant) and k.value.value is True for k in call.keywords)


def unpickling(text: str, reads_pth: bool = False) -> list[str]:
    """The calls in a file that would execute code which another file holds."""
    bad = []
    for name, call in called(ast.parse(textwrap.dedent(text))):
        if reads_pth and name == "torch.load" and numbers_alone(call):
            continue
        allow = {k.arg: k.value for k in call.keywords}.get("allow_pickle")
        numbers = isinstance(allow, ast.Constant) and allow.value is False
        if (name in NUMPY and not numbers) or UNPICKLES.fullmatch(name) or UNSAFE_YAML.match(ast.unparse(call)):
            bad.append(name)
    return bad


@pytest.mark.parametrize("path", FILES, ids=where)
@pytest.mark.fault("F71")
def test_nothing_is_unpickled(path: Path) -> None:
    assert not tops(path) & {"pickle", "dill", "joblib", "cloudpickle"}
    found = unpickling(path.read_text(), where(path) == READS_PTH)
    assert not {(where(path), name) for name in found} - {STARTS_STAGES}, (
        "use safetensors, JSON, or numpy.load(allow_pickle=False)"
    )


@pytest.mark.parametrize(
    "line",
    [
        "import torch; torch.load(p, weights_only=True)",
        "import torch; torch.export.load(p)",
        "from torch import export as e; e.load(p)",
        "from torch.export import load; load(p)",
        "import torch; torch.jit.load(p)",
        "import torch; torch._inductor.aoti_load_package(p)",
        "from torch.hub import load_state_dict_from_url as get; get(u)",
        "from torch.package import PackageImporter; PackageImporter(p)",
        "import mlflow; mlflow.pytorch.load_model(u)",
        "from mlflow import pyfunc; pyfunc.load_model(u)",
        "from mlflow.pyfunc import load_model as load; load(u)",
        "import numpy as np; np.load(p)",
        "import numpy as np; np.load(p, allow_pickle=True)",
        "import pandas as pd; pd.read_pickle(p)",
        "import yaml; yaml.load(t, Loader=yaml.Loader)",
        "exec(text)",
    ],
)
def test_what_would_unpickle_is_seen(line: str) -> None:
    assert unpickling(line)


@pytest.mark.parametrize("option", ["", ", weights_only=False", ", weights_only=safe"])
def test_weights_of_others_are_read_as_numbers_alone(option: str) -> None:
    assert unpickling(f"import torch; torch.load(p{option})", reads_pth=True)
    assert not unpickling("import torch; torch.load(p, weights_only=True)", reads_pth=True)


@pytest.mark.parametrize("path", sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]), ids=where)
def test_nobody_is_told_to_unpickle(path: Path) -> None:
    """In blocks of Python, that is: prose may say what not to do. A fragment that does not parse alone is no advice to load."""
    for block in re.findall(r"```python\n(.*?)```", path.read_text(), re.DOTALL):
        with contextlib.suppress(SyntaxError):
            assert not unpickling(block)


@pytest.mark.parametrize("path", FILES, ids=where)
def test_text_is_utf8_whatever_the_locale_says(path: Path) -> None:
    calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    read = [c for c in calls if isinstance(c.func, ast.Attribute) and c.func.attr == "read_text"]
    assert all(any(word.arg == "encoding" for word in c.keywords) for c in read)


def test_the_loop_names_no_method() -> None:
    from ssl_core.catalogue import METHODS

    words = {n.id for n in ast.walk(ast.parse((ROOT / "ssl_core/engine/train.py").read_text())) if isinstance(n, ast.Name)}
    assert not words & METHODS.keys()
    assert not [name for name in imports(ROOT / "ssl_core/engine/train.py") if name.startswith("ssl_core.methods")]


def test_source_files_have_one_subject() -> None:
    long = {where(p): n for p in FILES if (n := len(p.read_text().splitlines())) > 320}
    assert not long


CARRIERS = ("tasks/runtime/", "tasks/tracking/", "tasks/dvc/", "ssl_core/config.py")
"""What carries the stages: it runs them, reads and writes their formats. It shapes no result: an edit makes nothing stale."""
CATALOGUE = "ssl_core/catalogue.py"
"""Finds a method by its name and reads what its file declares. Only the report and the model card show that."""


def closure(path: Path) -> set[str]:
    """``path`` and the files of the project it imports, directly or through others, but for what carries the stages."""
    found, waiting = {where(path)}, [path]
    while waiting:
        for name in imports(waiting.pop()):
            file = ROOT / (name.replace(".", "/") + ".py")
            if not name.startswith(("ssl_core.", "tasks.")) or not file.exists():
                continue
            if where(file) not in found and not where(file).startswith(CARRIERS):
                found.add(where(file))
                waiting += [file] if where(file) != CATALOGUE else []
    return found


def runs(stage: str) -> set[str]:
    """The files a stage runs. A method or a source of images is loaded by its name; the catalogue only finds it."""
    needed = closure(command(stage))
    if command(stage) == ROOT / "tasks/prepare/__main__.py":
        needed |= set().union(*map(closure, (ROOT / "tasks/prepare/sources").glob("[a-z]*.py")))
    methods = [where(path) for path in (ROOT / "ssl_core/methods").glob("[a-z]*.py")]
    if stage == "pretrain":
        for method in methods:
            needed |= {f for f in closure(ROOT / method) if "/methods/" not in f} | {"ssl_core/methods/${item.method}.py"}
    return needed | set(methods) if stage == "report" else needed - {CATALOGUE}


@pytest.mark.parametrize("stage", sorted(STAGES))
def test_a_stage_depends_on_the_folders_of_the_code_it_runs(stage: str) -> None:
    """An edit of any file that a stage runs makes it stale; no dependency holds nothing that it runs."""
    code, needed = [d for d in ENTRIES[stage]["deps"] if d.startswith(("ssl_core/", "tasks/"))], runs(stage)
    covered = {d: {f for f in needed if f == d or f.startswith(f"{d}/")} for d in code}
    assert needed == set().union(*covered.values())
    assert all(covered.values()), covered


def test_the_tree_of_tests_is_the_tree_of_the_source() -> None:
    for folder in {p.parent for p in (ROOT / "tests").rglob("test_*.py")}:
        name = folder.relative_to(ROOT / "tests")
        assert name.as_posix() == "whole" or (ROOT / name).is_dir(), name
