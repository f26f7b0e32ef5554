"""A temporary tree of files, and a check run on it."""

import pathlib
import subprocess
import sys
import tempfile

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent.parent


def run(tool, root):
    """(exit status, stdout, stderr) of tools/TOOL on the tree at root."""
    done = subprocess.run([sys.executable, REPOSITORY / "tools" / tool, root], capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


def run_on(tool, files):
    """The same on a new tree that holds files: path -> text."""
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        for path, text in files.items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_text(text, encoding="utf-8")
        return run(tool, root)
