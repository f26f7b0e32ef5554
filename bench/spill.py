"""Training with a table of four times the server's memory limit beside the same job with all of it in memory, bit for bit the same model.

DLRM on synthetic Criteo-shaped data, every field's values from Zipf(1.05), rows of 32 f32 with Adagrad (256 bytes); one server
and one worker, each a process of its own.  Two epochs: the first makes the rows, the second is what counts.  Each round runs both,
in turn.  The limit is a quarter of the table's bytes as the run in memory ends with them: index, records and all.  The kernel's page
cache is dropped before the limited run, and free to grow in it; with --page_cache=limited that server lives in a control group (v1)
of 1.05 x the limit and 64 MiB, so that the page cache is no second memory for its files.
"""

import contextlib
import json
import pathlib
import shutil
import statistics
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent / "support"))
import harness  # noqa: E402

TARGETS = {"spilled_over_memory": 0.5}
WORK = harness.ROOT / "build/bench/spill"
GROUP = pathlib.Path("/sys/fs/cgroup/memory/plexus_bench_spill")
CACHE = 64 << 20
SETTINGS = [
    "tables.embedding.dim=32",
    "tables.embedding.keep_counts=false",
    "train.epochs=2",
    "train.ranks=2",
]


def data(args, rows):
    directory = WORK / f"data-{rows}"
    if not (directory / "synth.json").exists():
        harness.say(f"making {rows:,} samples in {directory}")
        shutil.rmtree(directory, ignore_errors=True)
        harness.run(
            [f"{args.bin}/plexus", "data", "synth", f"--out={directory}", f"--rows={rows}", "--valid_rows=1000", "--test_rows=1000"]
            + [f"--cardinality_total={rows * 13}", "--zipf=1.05"]
        )
    return directory / "train.tsv"


def server_of(train):
    """The pid of the server that `plexus train` started."""
    for _ in range(600):
        for thread in pathlib.Path(f"/proc/{train.pid}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                for child in thread.read_text(encoding="ascii").split():
                    if pathlib.Path(f"/proc/{child}/exe").resolve().name == "plexus-ps":
                        return int(child)
        time.sleep(0.05)
    sys.exit("bench spill: no server was started")


def peak_of(pid, train):
    """The most resident memory of a process until `train` ends, in bytes."""
    peak = 0
    while train.poll() is None:
        with contextlib.suppress(OSError, IndexError):
            status = pathlib.Path(f"/proc/{pid}/status").read_text(encoding="ascii")
            peak = max(peak, int(status.split("VmHWM:")[1].split()[0]) * 1024)
        time.sleep(0.2)
    return peak


def confine(pid, size):
    """Its memory and the page cache that it fills to `size` bytes."""
    GROUP.mkdir(exist_ok=True)
    (GROUP / "memory.limit_in_bytes").write_text(str(size), encoding="ascii")
    (GROUP / "cgroup.procs").write_text(str(pid), encoding="ascii")


def drop_page_cache():
    subprocess.run(["sync"], check=True)
    pathlib.Path("/proc/sys/vm/drop_caches").write_text("1", encoding="ascii")


def train(args, name, file, limit):
    run = WORK / name
    settings = [*SETTINGS, f"data.train={file}"] + ([f"cluster.memory_limit={limit >> 10}KiB", "cluster.spill=true"] if limit else [])
    command = [f"{args.bin}/plexus", "train", "--job=examples/criteo_dlrm.textproto", "--servers=1", "--workers=1", "--overwrite", "--quiet"]
    command += [f"--run_dir={run}"] + [part for setting in settings for part in ("--set", setting)]
    log = run.with_suffix(".log")
    with open(log, "w", encoding="utf-8") as output:
        process = subprocess.Popen(command, cwd=harness.ROOT, stdout=output, stderr=subprocess.STDOUT)
        server = server_of(process)
        if limit and args.page_cache == "limited":
            confine(server, limit + limit // 20 + CACHE)
        peak = peak_of(server, process)
    if process.returncode != 0:
        sys.exit(f"bench spill: {name} ended with {process.returncode}, see {log}")
    result = json.loads((run / "result.json").read_text(encoding="utf-8"))
    if not result["deterministic"]:
        sys.exit(f"bench spill: {name} had to do more than spill: {result['nondeterministic_because']}")
    events = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    second = [event for event in events if event["event"] == "progress" and event["epoch"] == 2]
    rate = (second[-1]["samples"] - second[0]["samples"]) / (second[-1]["seconds"] - second[0]["seconds"])
    harness.say(f"{name}: {rate:,.0f} samples/s in the second epoch, {result['samples_per_second']:,.0f} over all; server's peak {peak >> 20} MiB")
    return {"rate": rate, "peak": peak, "table": result["tables"]["embedding"], "digest": result["model_digest"]}


def main():
    parser = harness.arguments("spill", __doc__.split("\n", 1)[0], rounds=2)
    parser.add_argument("--page_cache", choices=["dropped", "limited"], default="dropped", help="needs root either way")
    args = parser.parse_args()
    rows = 3000000  # Less, and a server's 60 MB beside its tables would be most of the limit.
    WORK.mkdir(parents=True, exist_ok=True)
    file = data(args, rows)
    ratios, runs = [], []
    for _ in range(1 if args.quick else args.rounds):
        memory = train(args, "memory", file, 0)
        limit = memory["table"]["bytes"] // 4
        drop_page_cache()
        spilled = train(args, "spilled", file, limit)
        if spilled["digest"] != memory["digest"]:
            sys.exit(f"bench spill: digests {memory['digest']} and {spilled['digest']} differ")
        ratios.append(spilled["rate"] / memory["rate"])
        runs.append((memory, spilled, limit))
    memory, spilled, limit = runs[-1]
    ratio = statistics.median(ratios)
    figures = {
        "bench": "spill",
        "spilled_over_memory": round(ratio, 3),
        "ratios": [round(value, 3) for value in ratios],
        "memory_samples_per_second": round(statistics.median(run[0]["rate"] for run in runs)),
        "spilled_samples_per_second": round(statistics.median(run[1]["rate"] for run in runs)),
        "rows": memory["table"]["rows"],
        "table_bytes": memory["table"]["bytes"],
        "limit_bytes": limit,
        "spilled_peak_over_limit": round(max(run[1]["peak"] / run[2] for run in runs), 3),
        "page_cache": args.page_cache,
        "model_digest": memory["digest"],
    }
    harness.judge(figures, TARGETS)
    harness.finish(figures, args.json)


if __name__ == "__main__":
    main()
