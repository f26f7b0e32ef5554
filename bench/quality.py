"""Test AUC on real Criteo data beside PyTorch's: DeepFM, DCN-V2, DLRM, one epoch.  needs: tools/packages_bench.txt

--data is a file in the Criteo format; its first 80 % are trained on, the last 10 % are the test.  Each model is trained with each
seed by plexus (examples/criteo_*.textproto) and by bench/reference/torch_ctr.py, the same shape, optimizers and batch; the mean
over the seeds must not fall behind.  What PyTorch gave is kept in build/bench by the data's hash and not computed again.
--compute=BF16 holds plexus with bf16 products against plexus with f32 ones instead.
"""

import hashlib
import json
import pathlib
import shutil
import statistics
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent / "support"))
import harness  # noqa: E402

MODELS = ["deepfm", "dcnv2", "dlrm"]
TORCH_ALLOWANCE = 0.003
BF16_ALLOWANCE = 0.002
BATCH = 1024
WORK = harness.ROOT / "build/bench/quality"
BEST_BLAS = "/usr/lib/x86_64-linux-gnu/openblas-openmp"


class Data:
    """The file, cut."""

    def __init__(self, path, plexus):
        self.path = pathlib.Path(path).resolve()
        if not self.path.is_file():
            sys.exit(f"bench: no file {path}")
        self.hash = hashlib.sha256(self.path.read_bytes()).hexdigest()[:16]
        rows = int(subprocess.run(f"gzip -cdf '{self.path}' | wc -l", shell=True, capture_output=True, text=True, check=True).stdout)
        # As torch_ctr.py cuts.
        self.train_rows, valid_end = int(rows * 0.8), int(rows * 0.9)
        self.folder = WORK / f"data-{self.hash}"
        if not (self.folder / "complete").exists():
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir(parents=True)
            command = [plexus, "data", "split", f"--in={self.path}", f"--out={self.folder}", f"--at={self.train_rows},{valid_end}"]
            harness.run(command)
            (self.folder / "complete").touch()
        self.parts = [self.folder / f"{name}.tsv" for name in ("train", "valid", "test")]


def ours(args, data, model, seed, compute):
    run_dir = WORK / "run"
    train, valid, test = data.parts
    settings = {
        "data.train": train,
        "data.valid": valid,
        "data.test": test,
        "data.shuffle_rows": data.train_rows,
        "train.batch_size": BATCH,
        "train.epochs": 1,
        "train.ranks": args.ranks,
        "train.seed": seed,
        "train.compute": compute,
    }
    command = [f"{args.bin}/plexus", "train", f"--job=examples/criteo_{model}.textproto", "--local", f"--run_dir={run_dir}", "--overwrite"]
    for name, value in settings.items():
        command += ["--set", f"{name}={value}"]
    harness.run(command)
    return json.loads((run_dir / "result.json").read_text(encoding="utf-8"))["test_auc"]


def torch(data, model, seed):
    """From the cache, or computed and kept."""
    kept = WORK / f"torch-{data.hash}-{model}-{seed}-{BATCH}.json"
    if not kept.exists():
        command = ["/usr/bin/python3", "bench/reference/torch_ctr.py", "--model", model, "--data", data.path, "--seed", seed, "--batch", BATCH]
        kept.write_text(harness.run(command, {"LD_LIBRARY_PATH": BEST_BLAS}), encoding="utf-8")
    else:
        harness.say(f"torch {model} seed {seed}: kept from an earlier run")
    return json.loads(kept.read_text(encoding="utf-8"))["test_auc"]


def compare(args, data, model, seeds):
    """Both sides of one model; the second is the reference."""
    bf16 = args.compute == "BF16"
    left, right = [], []
    for seed in seeds:
        left.append(ours(args, data, model, seed, args.compute))
        right.append(ours(args, data, model, seed, "F32") if bf16 else torch(data, model, seed))
        harness.say(f"{model} seed {seed}: {left[-1]:.5f} beside {right[-1]:.5f}")
    names = ("bf16", "f32") if bf16 else ("ours", "torch")
    means = [statistics.mean(left), statistics.mean(right)]
    return {
        names[0]: left,
        names[1]: right,
        f"{names[0]}_mean": round(means[0], 5),
        f"{names[1]}_mean": round(means[1], 5),
        "difference": round(means[0] - means[1], 5),
    }


def main():
    parser = harness.arguments("quality", __doc__.split("\n", 1)[0].split("  ")[0], rounds=3)
    parser.add_argument("--data", required=True, help="a file in the Criteo format, plain or gzip")
    parser.add_argument("--compute", choices=["F32", "BF16"], default="F32")
    parser.add_argument("--ranks", type=int, default=1)
    args = parser.parse_args()
    WORK.mkdir(parents=True, exist_ok=True)
    data = Data(args.data, f"{args.bin}/plexus")
    seeds = range(1, 2 if args.quick else args.rounds + 1)
    allowance = BF16_ALLOWANCE if args.compute == "BF16" else TORCH_ALLOWANCE
    models = {m: compare(args, data, m, seeds) for m in (MODELS[:1] if args.quick else MODELS)}

    print(f"{'test AUC, mean of ' + str(len(seeds)):<22} {'this':>8} {'reference':>10} {'difference':>11}   at least {-allowance}")
    missed = []
    for model, figures in models.items():
        this, reference = (v for n, v in figures.items() if n.endswith("_mean"))
        if figures["difference"] < -allowance:
            missed.append(model)
        print(f"{model:<22} {this:>8.5f} {reference:>10.5f} {figures['difference']:>+11.5f}   {'MISSED' if model in missed else ''}")
    harness.finish(
        {"bench": "quality", "compute": args.compute, "ranks": args.ranks, "data": data.hash, **models, "missed": missed, "ok": not missed},
        args.json,
    )


if __name__ == "__main__":
    main()
