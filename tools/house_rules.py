"""Our own rules, over the files that git tracks.

usage: house_rules.py [DIR]     prints FILE:LINE: SENTENCE for each violation; exit 1 if there is one

Long files and functions are only noticed, on stderr.
"""

import argparse
import dataclasses
import pathlib
import re
import sys

import source_tree

CPP = {".h", ".cc"}
TEXT = {*CPP, ".py", ".sh", ".cmake", ".proto", ".textproto", ".txt", ".yaml", ".yml", ".json", ""}
BLOB_BYTES = 1 << 20
FUNCTION_LINES = 70
FILE_LINES = 600

# These two spell out what they forbid.
THE_RULES_THEMSELVES = {"tools/house_rules.py", "tests/lint/house_rules_test.py"}


@dataclasses.dataclass(frozen=True)
class Rule:
    """No line of a file with one of these suffixes may match, except below the given path prefixes."""

    pattern: str
    sentence: str
    suffixes: frozenset = frozenset(CPP)
    except_in: tuple = ()
    code_only: bool = True  # Comments and string literals do not count.


RULES = [
    Rule(r"\b(FIXME|nocommit|NOCOMMIT)\b", "finish it before it goes in", frozenset(TEXT), code_only=False),
    Rule(r"\bTODO\b(?!\([\w.-]+\): )", "write TODO(name): what", frozenset(TEXT), code_only=False),
    Rule(
        r"(?<![\w.>:])(std::)?s?rand\s*\(|\brandom_device\b",
        "numbers come from common/random.h, keyed by the job's seed",
    ),
    Rule(r"\bsystem_clock::now\b", "time comes from common/clock", except_in=("common/clock",)),
    Rule(
        r"\bstd::thread\b(?!::(id|hardware_concurrency)\b)",
        "use std::jthread, which joins",
        except_in=("common/thread",),
    ),
    Rule(
        r"\b(sleep_for|sleep_until|usleep|nanosleep)\s*\(",
        "wait for an event with a deadline instead of sleeping",
        except_in=("tests/",),
    ),
    Rule(
        r"\b(__builtin_prefetch|_mm_prefetch)\b",
        "use PrefetchLine (common/prefetch.h), which the compiler does not delete",
    ),
    Rule(
        r"^\s*#\s*(if|ifdef|ifndef|elif)\b.*\b__(AVX|SSE|FMA|F16C|BMI)",
        "one file an instruction set, chosen at run time",
    ),
    Rule(r"\bDISABLED_\w+", "fix the test or delete it"),
    Rule(r"\bGLOB(_RECURSE)?\b", "list the sources", frozenset({".txt", ".cmake"})),
]


def code_of(text):
    """text with comments and the contents of string literals blanked, line by line."""

    def blank(match):
        kept = match[0][0] + match[0][-1] if match[0][0] in "\"'" else ""
        return kept + "\n" * match[0].count("\n")

    tokens = r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"|' + r"(?<![0-9A-Fa-f])'(?:\\.|[^'\\\n])*'"
    return re.sub(tokens, blank, text, flags=re.DOTALL)


def check_lines(path, text):
    rules = [r for r in RULES if path.suffix in r.suffixes and not path.as_posix().startswith(r.except_in)]
    raw, code = text.split("\n"), code_of(text).split("\n") if path.suffix in CPP else None
    for rule in rules:
        lines = code if rule.code_only and code else raw
        for number, line in enumerate(lines, 1):
            if match := re.search(rule.pattern, line):
                yield f"{path}:{number}: {match[0].strip()}: {rule.sentence}"


def listed_sources(root, files):
    """A pattern for each source that some CMakeLists.txt names; ${VARIABLES} match one path component."""
    for file in files:
        if file.name != "CMakeLists.txt":
            continue
        text = re.sub(r"#[^\n]*", "", (root / file).read_text(encoding="utf-8"))
        for name in re.findall(r'[^\s()"]+\.(?:cc|proto)\b', text):
            name = re.sub(r"^\$\{(CMAKE_CURRENT|PROJECT|CMAKE)_SOURCE_DIR\}/", "", name)
            variable_free = [re.escape(part) for part in re.split(r"\$\{\w+\}", name)]
            yield re.compile(f"({re.escape(file.parent.as_posix())}/)?" + r"[\w.-]+".join(variable_free))


def check_listed(root, files):
    patterns = list(listed_sources(root, files))
    for path in files:
        if path.suffix in {".cc", ".proto"} and not any(p.fullmatch(path.as_posix()) for p in patterns):
            yield f"{path}:1: no CMakeLists.txt lists this file, so nothing builds it"


def check_size(root, files):
    for path in files:
        if (size := (root / path).stat().st_size) > BLOB_BYTES:
            yield f"{path}:1: {size} bytes; a tracked file has at most {BLOB_BYTES}"


def notices(path, text):
    lines = text.split("\n")
    if len(lines) > FILE_LINES:
        yield f"{path}:1: {len(lines)} lines; more than {FILE_LINES} are hard to hold in a head"
    start = None
    for number, line in enumerate(lines, 1):
        if re.match(r"[A-Za-z_~]", line) and not re.match(r"(namespace|class|struct|enum|union|extern|using)\b", line):
            start = number
        elif line == "}" and start:
            if number - start >= FUNCTION_LINES:
                yield f"{path}:{start}: a function of {number - start + 1} lines"
            start = None


def check(root):
    files = source_tree.tracked(root)
    violations = [*check_size(root, files), *check_listed(root, files)]
    noticed = []
    for path in files:
        if path.suffix not in TEXT or path.as_posix() in THE_RULES_THEMSELVES:
            continue
        text = (root / path).read_text(encoding="utf-8", errors="replace")
        violations += check_lines(path, text)
        if path.suffix in CPP:
            noticed += notices(path, text)
    return violations, noticed


def main():
    parser = argparse.ArgumentParser(prog="house_rules", description="Checks our own rules.")
    parser.add_argument("dir", nargs="?", default=pathlib.Path(__file__).resolve().parent.parent, type=pathlib.Path)
    root = parser.parse_args().dir
    if not root.is_dir():
        parser.error(f"{root} is no folder")
    violations, noticed = check(root)
    for notice in noticed:
        print(f"notice: {notice}", file=sys.stderr)
    print("\n".join(violations) if violations else "house rules: all kept")
    sys.exit(1 if violations else 0)


if __name__ == "__main__":
    main()
