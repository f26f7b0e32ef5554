"""A temporary tree of files, and a check run on it."""

import contextlib
import importlib
import io
import pathlib
import sys
import tempfile
from unittest import mock

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(REPOSITORY / "tools"))


def run(tool, root):
    """(exit status, stdout, stderr) of tools/TOOL.py on the tree at root; in this process, which is much faster."""
    out, err = io.StringIO(), io.StringIO()
    with mock.patch("sys.argv", [tool, str(root)]), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            importlib.import_module(tool).main()
            status = 0
        except SystemExit as exit:
            status = exit.code
    return status, out.getvalue(), err.getvalue()


def run_on(tool, files):
    """The same on a new tree that holds files: path -> text."""
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        for path, text in files.items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_text(text, encoding="utf-8")
        return run(tool, root)
