"""A disk on which a written file waits for its name: with this folder on PYTHONPATH a kill can meet it in mid file."""

import os
import time
from typing import Any

SECONDS = 0.2
_replace = os.replace


def _replace_later(*args: Any, **kwargs: Any) -> None:
    time.sleep(SECONDS)
    _replace(*args, **kwargs)


os.replace = _replace_later
