"""Keys a second over TCP on one machine beside two limits: a bare table, and bare ZeroMQ; narrower rows, two workers, ipc, inproc.

Each round runs, in turn and each in a process of its own: bench/reference/limits `table own` (find a key and copy its row, one
thread, the best loop we know), `zeromq tcp rpc` (800 KB asked, 6.4 MB answered, no table), and wire_bench (a worker's client, a
server, a table of ten million rows): over TCP with f32 and with bf16 pulls, with two workers at once, over ipc and inproc.  For
each kind of request the window counts whose median is best; ratios are medians of the rounds' own ratios.
"""

import pathlib
import re
import statistics
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent / "support"))
import harness  # noqa: E402

TARGETS = {
    "pull_over_table": 0.4,
    "pull_over_zmq": 0.45,
    "push_over_table": 0.35,
    "pull_push_over_table": 0.2,
    "bf16_pull_over_f32": 1.1,
}
KINDS = ("pull", "push", "pull_push")
# Name of a series' prefix -> arguments of wire_bench.
RUNS = {
    "tcp": ["--workers=2"],
    "bf16": ["--precision=BF16"],
    "ipc": ["--transport=ipc", "--windows=2"],
    "inproc": ["--transport=inproc", "--windows=2"],
}


def limit(name, *what):
    command = ["bench/reference/limits/run.sh", *what]
    output = harness.run(command, {"LIMITS_OUT": str(harness.ROOT / "build/bench/limits")})
    return float(re.search(rf"^{re.escape(name)} (\S+)", output, re.MULTILINE)[1])


def measure(args, series):
    ours = [f"{args.bin}/wire_bench", f"--requests={30 if args.quick else 60}"]
    for r in range(1 if args.quick else args.rounds):
        harness.say(f"round {r + 1}")
        series.add("table", limit("hash_own_linear16B_thp_prefetch16_find+copyrow_uniform_t1", "table", "own"))
        for prefix, arguments in RUNS.items():
            for name, value in harness.last_json(harness.run([*ours, *arguments])).items():
                if name.startswith(KINDS) or name.startswith("two_"):
                    series.add(f"{prefix}_{name}", value)
        series.add("zeromq", limit("zmq_tcp_rpc_pull100k_d16", "zeromq", "tcp", "rpc"))


def best(series, prefix):
    """The series prefix_WINDOW with the best median."""
    names = [n for n in series.values if re.fullmatch(rf"{prefix}_\d+", n)]
    return max(names, key=series.median)


def ratio(series, name, other):
    return statistics.median(a / b for a, b in zip(series.values[name], series.values[other]))


def main():
    args = harness.arguments("wire", __doc__.split("\n", 1)[0], rounds=5).parse_args()
    series = harness.Series()
    measure(args, series)
    series.print("million keys/s", 1e6)
    ours = {k: best(series, f"tcp_{k}") for k in KINDS}
    figures = {f"{k}_over_table": ratio(series, ours[k], "table") for k in KINDS}
    figures["pull_over_zmq"] = ratio(series, ours["pull"], "zeromq")
    figures["bf16_pull_over_f32"] = ratio(series, best(series, "bf16_pull"), ours["pull"])
    figures |= {f"two_workers_{k}_over_one": ratio(series, best(series, f"tcp_two_{k}"), ours[k]) for k in KINDS}
    figures |= {f"{t}_pull_over_tcp": ratio(series, best(series, f"{t}_pull"), "tcp_pull_2") for t in ("ipc", "inproc")}
    result = {
        "bench": "wire",
        **{name: harness.rounded(value) for name, value in figures.items()},
        "windows": {k: int(name.rsplit("_", 1)[1]) for k, name in ours.items()},
        **{f"{k}_mkeys_per_second": harness.rounded(series.median(ours[k]) / 1e6) for k in KINDS},
        "table_mkeys_per_second": harness.rounded(series.median("table") / 1e6),
        "zeromq_mkeys_per_second": harness.rounded(series.median("zeromq") / 1e6),
        "measured": series.as_json(),
    }
    for name, value in figures.items():
        if name not in TARGETS:
            print(f"{name:<28} {value:.3f}")
    harness.judge(result, TARGETS)
    harness.finish(result, args.json)


if __name__ == "__main__":
    main()
