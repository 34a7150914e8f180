"""Imported last into the process that the commands are forked from: what it has imported is never looked through for garbage.

Each fork would otherwise do so, and copy every page of it.
"""

import gc

gc.collect()
gc.freeze()
