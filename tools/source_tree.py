"""Which files a check looks at."""

import os
import pathlib
import subprocess


def walk(root):
    """Relative paths of all files under root, but for build/ and hidden folders."""
    found = []
    for folder, subfolders, names in os.walk(root):
        relative = pathlib.Path(folder).relative_to(root)
        subfolders[:] = [
            s
            for s in subfolders
            if not s.startswith(".") and s != "__pycache__" and (relative / s) != pathlib.Path("build")
        ]
        found += [relative / name for name in names]
    return sorted(found)


def tracked(root):
    """Relative paths of the files that git tracks; of all files where root is no checkout."""
    git = ["git", "-C", str(root)]
    top = subprocess.run([*git, "rev-parse", "--show-toplevel"], capture_output=True, text=True)
    if top.returncode != 0 or pathlib.Path(top.stdout.strip()) != pathlib.Path(root).resolve():
        return walk(root)
    listed = subprocess.run([*git, "ls-files", "-z"], capture_output=True, text=True, check=True).stdout
    paths = [pathlib.Path(p) for p in listed.split("\0") if p]
    return sorted(p for p in paths if (root / p).is_file())
