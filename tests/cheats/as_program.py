"""Runs a script, where torch is loaded already, with the paths and the last words of `python SCRIPT`."""
import atexit
import runpy
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.argv.pop(0)
    folder = Path(sys.argv[0]).parent
    sys.path[:0] = map(str, [folder, folder / "path"])
    if (folder / "path" / "sitecustomize.py").exists():
        import sitecustomize  # noqa: F401, as the module site does
    atexit._clear()
    runpy.run_path(sys.argv[0], run_name="__main__")
    atexit._run_exitfuncs()
