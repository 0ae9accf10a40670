"""The library transformers, without what it prints."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def silent(transformers: Any) -> Iterator[None]:
    """Keep transformers from drawing bars, which fill the logs of jobs, and from printing warnings.

    Args:
        transformers: the imported package; its settings are those of before afterwards.
    """
    logging = transformers.utils.logging
    level, has_bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(level)
        if has_bar:
            logging.enable_progress_bar()
