"""Training speed beside PyTorch's: DeepFM on Criteo-shaped samples from memory, ten million rows.  needs: tools/packages_bench.txt

Each round runs, in turn and each in a process of its own: PyTorch with one and with two threads (bench/reference/torch_speed.py
as fast as we can make it: OpenBLAS with OpenMP, bound to cores); train_bench with one rank a core; both once more on one core;
train_bench from text, with bf16 products where the CPU has them, with other numbers of ranks; and the model's matrix products
alone.  Ratios are of medians over the rounds.
"""

import pathlib
import re
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent / "support"))
import harness  # noqa: E402

TARGETS = {"ratio_2core": 1.5, "ratio_1core": 1.2, "tsv_over_memory": 0.9, "bf16_over_f32": 1.3}
FLOP_A_SAMPLE = 2.95e6  # Of the products, forward and backward.
FLOOR_FLOPS = 105e9  # A core's: what oneDNN reaches on AVX-512 units of half width.
BEST_BLAS = "/usr/lib/x86_64-linux-gnu/openblas-openmp"


def torch(threads, one_core=False):
    command = ["/usr/bin/python3", "bench/reference/torch_speed.py", threads, "deepfm", "one", "adagrad", 4096, "best"]
    env = {"LD_LIBRARY_PATH": BEST_BLAS, "OMP_PROC_BIND": "true", "OMP_NUM_THREADS": str(threads)}
    output = harness.run(harness.on_one_core(command) if one_core else command, env)
    return float(re.search(r"^torch_ctr\S* (\d+) samples/s", output, re.MULTILINE)[1])


class Ours:
    def __init__(self, args):
        self.program = [f"{args.bin}/train_bench", f"--windows={3 if args.quick else 9}"]
        self.shares = []

    def __call__(self, ranks, *flags, one_core=False, keep_shares=False):
        command = [*self.program, f"--ranks={ranks}", *flags]
        result = harness.last_json(harness.run(harness.on_one_core(command) if one_core else command))
        if keep_shares:
            self.shares.append({name: result[name] for name in ("read", "exchange", "compute", "wait")})
        return result["samples_per_second"]

    def phases(self):
        return {n: harness.rounded(sum(s[n] for s in self.shares) / len(self.shares)) for n in self.shares[0]}


def bare_products(args):
    """Samples a second that one core could compute if there were nothing but the matrix products."""
    output = harness.run(harness.on_one_core([f"{args.bin}/model_bench", "--model=deepfm", "--batch=4096", "--steps=30"]))
    sample, over = re.search(r"([\d.]+) us/sample.* ([\d.]+) x bare", output).groups()
    return 1e6 / (float(sample) / float(over))


def measure(args, ours, series):
    cores = len(harness.cores())
    has_bf16 = "avx512_bf16" in pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8")
    for r in range(1 if args.quick else args.rounds):
        harness.say(f"round {r + 1}")
        if cores > 1:
            series.add("torch, 1 thread", torch(1))
            series.add("torch, 2 threads", torch(2))
        series.add(f"ours, {cores} ranks", ours(cores, keep_shares=True))
        series.add("torch, one core", torch(1, one_core=True))
        series.add("ours, one core", ours(1, one_core=True))
        series.add("ours, text", ours(cores, "--tsv"))
        if has_bf16:
            series.add("ours, bf16", ours(cores, "--bf16"))
        for ranks in {1, 2, 4} - {cores}:
            series.add(f"ours, {ranks} ranks", ours(ranks))
        series.add("products alone, one core", bare_products(args))


def main():
    parser = harness.arguments("train", __doc__.split("\n", 1)[0].split("  ")[0], rounds=5)
    args = parser.parse_args()
    ours, series, cores = Ours(args), harness.Series(), len(harness.cores())
    measure(args, ours, series)
    series.print("1000 samples/s", 1e3)

    def ratio(a, b):
        return harness.rounded(series.median(a) / b) if a in series else None

    main_speed = series.median(f"ours, {cores} ranks")
    best_torch = max(series.median(n) for n in ("torch, 1 thread", "torch, 2 threads")) if cores > 1 else None
    result = {
        "bench": "train",
        "cores": cores,
        "ratio_2core": harness.rounded(main_speed / best_torch) if cores > 1 else None,
        "ratio_1core": ratio("ours, one core", series.median("torch, one core")),
        "floor_share": harness.rounded(FLOP_A_SAMPLE * main_speed / (FLOOR_FLOPS * cores)),
        "products_share": harness.rounded(main_speed / (cores * series.median("products alone, one core"))),
        "tsv_over_memory": ratio("ours, text", main_speed),
        "bf16_over_f32": ratio("ours, bf16", main_speed),
        "phases": ours.phases(),
        "samples_per_second_by_ranks": {str(n): round(series.median(f"ours, {n} ranks")) for n in (1, 2, 4)},
        "measured": series.as_json(),
    }
    print("a rank's seconds: " + ", ".join(f"{n} {100 * v:.1f} %" for n, v in result["phases"].items()))
    harness.judge(result, TARGETS)
    harness.finish(result, args.json)


if __name__ == "__main__":
    main()
