"""Keys a second over TCP on one machine beside two limits: a bare table, and bare ZeroMQ.

Each round runs, in turn and each in a process of its own: bench/reference/limits `table own` (find a key and copy its row, one
thread, the best loop we know), `zeromq tcp rpc` (800 KB asked, 6.4 MB answered, no table), and wire_bench (a worker's client, a
server, a table of ten million rows).  Ratios are of medians over the rounds; for each kind of request the best window counts.
"""

import pathlib
import re
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent / "support"))
import harness  # noqa: E402

TARGETS = {"pull_over_table": 0.3, "pull_over_zmq": 0.45, "push_over_table": 0.3}
KINDS = ("pull", "push", "pull_push")


def limit(name, *what):
    command = ["bench/reference/limits/run.sh", *what]
    output = harness.run(command, {"LIMITS_OUT": str(harness.ROOT / "build/bench/limits")})
    return float(re.search(rf"^{re.escape(name)} (\S+)", output, re.MULTILINE)[1])


def measure(args, series):
    ours = [f"{args.bin}/wire_bench", f"--requests={30 if args.quick else 60}"]
    for r in range(1 if args.quick else args.rounds):
        harness.say(f"round {r + 1}")
        series.add("table", limit("hash_own_linear16B_thp_prefetch16_find+copyrow_uniform_t1", "table", "own"))
        for name, value in harness.last_json(harness.run(ours)).items():
            if name.startswith(KINDS):
                series.add(name, value)
        series.add("zeromq", limit("zmq_tcp_rpc_pull100k_d16", "zeromq", "tcp", "rpc"))


def main():
    args = harness.arguments("wire", __doc__.split("\n", 1)[0], rounds=5).parse_args()
    series = harness.Series()
    measure(args, series)
    series.print("million keys/s", 1e6)
    windows = sorted({int(n.rsplit("_", 1)[1]) for n in series.values if n.startswith("pull_") and n.count("_") == 1})
    best = {k: max(windows, key=lambda w, kind=k: series.median(f"{kind}_{w}")) for k in KINDS}
    speed = {k: series.median(f"{k}_{best[k]}") for k in KINDS}
    result = {
        "bench": "wire",
        **{f"{k}_over_table": harness.rounded(speed[k] / series.median("table")) for k in KINDS},
        "pull_over_zmq": harness.rounded(speed["pull"] / series.median("zeromq")),
        "window": best["pull"],
        "windows": best,
        **{f"{k}_mkeys_per_second": harness.rounded(speed[k] / 1e6) for k in KINDS},
        "table_mkeys_per_second": harness.rounded(series.median("table") / 1e6),
        "zeromq_mkeys_per_second": harness.rounded(series.median("zeromq") / 1e6),
        "measured": series.as_json(),
    }
    harness.judge(result, TARGETS)
    harness.finish(result, args.json)


if __name__ == "__main__":
    main()
