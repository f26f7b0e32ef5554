"""Prints the build targets of the tests that `ctest --show-only=json-v1` lists on stdin.

usage: ctest ... --show-only=json-v1 | test_targets.py BUILD_DIR
"""

import json
import os
import sys


def main():
    binaries = os.path.join(os.path.abspath(sys.argv[1]), "bin") + os.sep
    tests = json.load(sys.stdin)["tests"]
    if not tests:
        sys.exit("test_targets: no test has these labels")
    targets = {
        argument[len(binaries) :]
        for test in tests
        for argument in test.get("command", [])
        if argument.startswith(binaries)
    }
    print(*sorted(targets))


main()
