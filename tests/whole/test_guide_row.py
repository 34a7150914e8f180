"""The off-the-shelf row of docs/weights.md, added as it says: a file, a block and a name, and DVC has its stages."""

import re
import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT
from tests.support.project import copy_project, environment

CHECK = """
from pathlib import Path
from ssl_core.catalogue import BASELINES, NOUNS, load_class
from tasks.dvc import graph
from tasks.runtime import params

chosen = params.method_params(params.load(), "convnext")
assert not chosen.train.trains and chosen.encoder.weights == "hub" and chosen.encoder.input_size == 96
assert load_class("convnext").__name__ == "ConvNeXt" and NOUNS["convnext"] == "ConvNeXt features"
stages = {stage.name for stage in graph.plan(Path())}
assert {"pretrain@convnext-0", "evaluate@convnext-0"} <= stages, stages
print(BASELINES["convnext"])
"""


def test_a_row_is_a_file_a_block_and_a_name(tmp_path: Path) -> None:
    project, guide = copy_project(tmp_path / "p", git=True), (ROOT / "docs/weights.md").read_text()
    code = re.findall(r'```python\n("""Baseline: ConvNeXt.*?)```', guide, re.DOTALL)
    block = re.findall(r"```yaml\n(  convnext:.*?)```", guide, re.DOTALL)
    (project / "ssl_core/methods/convnext.py").write_text(code[0])
    text = (project / "params.yaml").read_text().replace("\nmethod:\n", f"\nmethod:\n{block[0]}")
    (project / "params.yaml").write_text(text.replace("  - pretrained ", "  - convnext\n  - pretrained "))
    done = subprocess.run(
        [sys.executable, "-c", CHECK], cwd=project, env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0 and done.stdout == "ConvNeXt Pico, trained on ImageNet by others\n", done.stderr
