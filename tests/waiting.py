"""The one way in which tests wait for what another process or thread does: for an event, with a limit."""
import time
from collections.abc import Callable


def until(happened: Callable[[], object], seconds: float = 60.0) -> None:
    """Return once happened() is true; raise TimeoutError after some seconds."""
    end = time.monotonic() + seconds
    while not happened():
        if time.monotonic() > end:
            raise TimeoutError(f"waited {seconds:g} s for nothing")
        time.sleep(0.01)
