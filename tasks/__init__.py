"""All that touches files, processes and other programs, around the science of ``ssl_core``.

- ``prepare``, ``pretrain``, ``evaluate``, ``finetune``, ``report``, ``register``: a folder for each stage of dvc.yaml, in the
  order in which they run. ``python -m tasks.STAGE`` is the stage's command. No stage imports another one; it reads what the
  other one wrote.
- ``results`` and ``leaderboard`` read the numbers of all methods. Both last stages use them, and ``make run`` does.
- ``runtime``, ``tracking`` and ``dvc`` carry the stages: how one runs, what is noted of it, and when it runs.
- The other modules are what a user starts: ``run``, ``budget``, ``preset``, ``label``, ``embed``, ``ui``, ``sync``,
  ``doctor``, ``replay`` and ``standalone``; and ``encoder``, which loads a registered one.

``flows`` imports this package. This package imports no flow.
"""

import gc
import importlib.util
import os
import sys

GARBAGE = (50_000, 20, 20)
"""How seldom a command looks for garbage. The libraries make half a million objects that stay; Python by itself looks through
them several times while it imports them, which takes a tenth of that time."""

is_command = sys.argv[:1] == ["-m"]
if importlib.util.find_spec("safetensors") is None:  # in a Python of the system
    lacking = "this Python lacks the project's packages. In its folder: . .venv/bin/activate (make run makes it)"
    if not is_command:
        raise ImportError(lacking)
    print(f"error: {lacking}", file=sys.stderr)
    sys.exit(4)
if is_command:
    gc.set_threshold(*GARBAGE)

# Threads that wait for each other sleep instead of spinning; on a shared machine spinning was measured to slow a
# two-thread training three to eight times. OpenMP reads this once, before torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# Without it cuBLAS is refused where train.mode is deterministic; read when it starts.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
# NumPy's own threads do spin: the maps of a report beside another stage took twice as long with two as with one.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
