"""What a process does that works for another one: it ends with it, however that ends."""

import os
import threading
import time

_SECONDS = 0.5


def end_with(parent: int) -> None:
    """From now on, exit soon after the process that started this one has ended."""
    threading.Thread(target=_watch, args=(parent,), daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_SECONDS)
    os._exit(1)
