"""The stages: files, processes and tracking around ``ssl_core``."""

import os

# Threads that wait for each other sleep instead of spinning; on a shared machine spinning was measured to slow a
# two-thread training three to eight times. OpenMP reads this once, before torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# NumPy's own threads do spin: the maps of a report beside another stage took twice as long with two as with one.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
