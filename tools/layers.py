"""Checks that includes point one way.

usage: layers.py [DIR]     prints FILE:LINE: SENTENCE for each violation; exit 1 if there is one

The longest prefix of a file's path names its layer.  ARCHITECTURE has the picture; this is the law.
"""

import argparse
import functools
import pathlib
import posixpath
import re
import sys

import source_tree

# layer -> the layers (with their subfolders) that it may include beside itself.
ALLOWED = {
    "common": [],
    "proto": ["common"],
    "ps": ["proto", "common"],
    "worker": ["proto", "common"],
    "worker/nn": ["common"],
    "worker/data": ["proto", "common"],
    "scheduler": ["proto", "common"],
    "serving": ["proto", "common"],
    "launch": ["common", "proto", "ps", "worker", "scheduler", "serving"],
    "tests": ["common", "proto", "ps", "worker", "scheduler", "serving", "launch"],
    "bench": ["common", "proto", "ps", "worker", "scheduler", "serving", "launch"],
}

# Third-party header -> path prefixes of its home.  Tests and benchmarks may use all.
HOMES = {
    r"zmq(\.h|\.hpp|_addon\.hpp)$": ["common/net/zmq"],
    r"boost/(beast|asio)\b": ["common/net/http"],
    r"rocksdb/": ["ps/store"],
    r"mpi\.h$": ["launch/bootstrap", "worker/collective"],
    r"(unsupported/)?Eigen/": ["worker/nn/"],
    r"(oneapi/)?dnnl": ["worker/nn/"],
    r"gflags/": ["launch/"],
    r"zlib\.h$": ["worker/data/"],
    r"(xxhash|xxh3)\.h$": ["common/hash"],
    r"prometheus/": ["common/metrics"],
}
FREE = ("tests/", "bench/")

# A shard's state machine owns its rows and nothing else: no IO, no clock, no lock, no randomness of its own.
# IO it may not even reach through what it includes.
STATE_MACHINE = ("ps/table", "ps/shard")
STATE_MACHINE_NEVER = [
    (r"ps/store", "IO"),
    (r"common/net/", "IO"),
    (r"(fstream|filesystem)$", "IO"),
    (r"sys/socket\.h$", "IO"),
    (r"zmq", "IO"),
    (r"boost/(beast|asio)\b", "IO"),
    (r"rocksdb/", "IO"),
    (r"(thread|mutex|shared_mutex|condition_variable)$", "a lock or thread"),
    (r"random$", "randomness without a seed from the job"),
]

SOURCE = {".h", ".hpp", ".inc", ".cc", ".cpp"}
INCLUDE = re.compile(r'^\s*#\s*(?:include|import)\s*([<"])([^>"]+)[>"]')


def layer_of(path):
    return max((l for l in ALLOWED if path.startswith(l + "/")), key=len, default=None)


def is_within(path, layer):
    return path.startswith(layer + "/")


def is_state_machine(path):
    return path.startswith(STATE_MACHINE)


def plain_lines(text):
    """The lines without block comments, continued lines joined, each still at its number."""
    text = re.sub(r"\\\n([^\n]*)\n", r"\1\n\n", text)
    text = re.sub(r"/\*.*?\*/", lambda m: "\n" * m[0].count("\n"), text, flags=re.DOTALL)
    return text.split("\n")


class Tree:
    def __init__(self, root):
        self.root = root
        paths = [p.as_posix() for p in source_tree.walk(root) if p.suffix in SOURCE]
        self.files = {path: self._includes(path) for path in paths}

    def _includes(self, path):
        """(line, header) of each include; ours as paths from the root, others as written."""
        text = (self.root / path).read_text(encoding="utf-8", errors="replace")
        found = []
        for number, line in enumerate(plain_lines(text), 1):
            if match := INCLUDE.match(line):
                found.append((number, self._resolve(path, match[1], match[2])))
        return found

    def _resolve(self, includer, quote, header):
        beside = posixpath.normpath(posixpath.join(posixpath.dirname(includer), header))
        if quote == '"' and (header.startswith(".") or (self.root / beside).is_file()):
            return beside
        return posixpath.normpath(header)

    @functools.cache
    def reached(self, path):
        """path itself and all that it includes, each with the chain of our files that leads there."""
        found, todo = {path: ()}, [path]
        while todo:
            file = todo.pop()
            for _, header in self.files.get(file, []):
                if header not in found:
                    found[header] = (*found[file], file)
                    todo.append(header)
        return found


def check_direction(path, header):
    mine, its = layer_of(path), layer_of(header)
    if its is None:
        return None
    if mine is None:
        return f"{path.split('/')[0]} is no layer: tools/layers.py has to say what it may include"
    if any(is_within(header, allowed) for allowed in [mine, *ALLOWED[mine]]):
        return None
    return f"{mine} may not include {header} (it may include: {', '.join([mine, *ALLOWED[mine]])})"


def check_home(path, header):
    if path.startswith(FREE):
        return None
    for pattern, homes in HOMES.items():
        if re.match(pattern, header) and not path.startswith(tuple(homes)):
            return f"<{header}> may only be included in {' and '.join(homes)}"
    return None


def check_state_machine(tree, path, header):
    if not is_state_machine(path):
        return None
    for reached, chain in tree.reached(header).items():
        for pattern, what in STATE_MACHINE_NEVER:
            if re.match(pattern, reached) and (not chain or what == "IO"):
                via = f" (through {' -> '.join(chain)})" if chain else ""
                return f"the shard's state machine may not reach {reached}{via}: {what}"
    return None


def violations(root):
    tree = Tree(root)
    for path, includes in tree.files.items():
        for line, header in includes:
            for problem in (
                check_direction(path, header),
                check_home(path, header),
                check_state_machine(tree, path, header),
            ):
                if problem:
                    yield f"{path}:{line}: {problem}"
    if not tree.files:
        yield f"{root}: no C++ sources here"


def main():
    parser = argparse.ArgumentParser(prog="layers", description="Checks that includes point one way.")
    parser.add_argument("dir", nargs="?", default=pathlib.Path(__file__).resolve().parent.parent, type=pathlib.Path)
    root = parser.parse_args().dir
    if not root.is_dir():
        parser.error(f"{root} is no folder")
    found = list(violations(root))
    print("\n".join(found) if found else "layers: all includes point one way")
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
