"""Prints the build targets that the tests in `ctest --show-only=json-v1` on stdin run, built or not.

usage: ctest ... --show-only=json-v1 | test_targets.py BUILD_DIR
"""

import json
import pathlib
import re
import sys


def main():
    build = pathlib.Path(sys.argv[1]).resolve()
    chosen = {test["name"] for test in json.load(sys.stdin)["tests"]}
    targets = set()
    # ctest leaves out the command of a test whose executable is not built yet; the files that it reads have it.
    for file in build.rglob("CTestTestfile.cmake"):
        for name, command in re.findall(r"^add_test\(\[=\[(.*?)\]=\] (.*)\)$", file.read_text(encoding="utf-8"), re.M):
            if name in chosen:
                targets.update(re.findall(rf'"{re.escape(str(build))}/bin/([^"/]+)"', command))
    if not targets:
        sys.exit(f"test_targets: none of the chosen tests ({', '.join(sorted(chosen)) or 'there are none'}) needs building")
    print(*sorted(targets))


main()
