"""What the job `counter` must end with, computed here from its data alone: for each value of each field, the sums of the integers
that each rank's reads of it pushed, each of which depends on the row as it was when it was pulled.

A push that was lost, applied twice, or computed from another version shows.  Keys are hashes, so rows are compared as a multiset.
"""
import collections
import subprocess

from jobs import cluster

RANKS = 4
CATEGORICAL = slice(14, 40)  # Of a line's columns: label, I1..I13, C1..C26.


def lines_of_ranks(path):
    """A line belongs to the rank in whose share of the bytes its first byte lies."""
    data = path.read_bytes()
    bounds = [len(data) * rank // RANKS for rank in range(RANKS + 1)]
    lines = [[] for _ in range(RANKS)]
    at = rank = 0
    for line in data.splitlines(keepends=True):
        while at >= bounds[rank + 1]:
            rank += 1
        lines[rank].append(line.decode("ascii").rstrip("\n").split("\t")[CATEGORICAL])
        at += len(line)
    return lines


def expected(path, batch_size):
    """(last step, occurrences, sums of the ranks) -> rows."""
    lines = lines_of_ranks(path)
    share = batch_size // RANKS
    rows = {}  # (field, value) -> [last step, occurrences, sums].
    for step in range(max(-(-len(of_rank) // share) for of_rank in lines)):
        reads = collections.defaultdict(lambda: [0] * RANKS)
        for rank, of_rank in enumerate(lines):
            for line in of_rank[step * share:(step + 1) * share]:
                for field, value in enumerate(line):  # A missing value is one.
                    reads[field, value][rank] += 1
        for key, counts in reads.items():
            row = rows.setdefault(key, [0, 0, [0] * RANKS])
            row[0] = step + 1
            row[1] += sum(counts)
            row[2] = [old - count * (1 + abs(old) % 3) for old, count in zip(row[2], counts)]
    return collections.Counter((last, count, *sums) for last, count, sums in rows.values())


def found(run):
    done = subprocess.run([cluster.BIN / "plexus", "dump", run / "model/final"], check=True,
                          capture_output=True, text=True, timeout=60)
    return collections.Counter(tuple(int(float(word)) for word in line.split("\t")[1:])
                               for line in done.stdout.splitlines())


def check(run, path, batch_size):
    """Empty, or how the rows differ."""
    wanted, there = expected(path, batch_size), found(run)
    missing, strange = wanted - there, there - wanted
    if not missing and not strange:
        return ""
    return (f"{sum(missing.values())} of {sum(wanted.values())} rows (last step, count, sums) are not as counted; wanted "
            f"{list(missing)[:3]}, found {list(strange)[:3]}")
