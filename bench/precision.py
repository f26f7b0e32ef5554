"""Test AUC and bytes a row of DeepFM on real Criteo data with rows in fewer bytes, beside f32 rows.

--data is a file in the Criteo format; its first 80 % are trained on, the last 10 % are the test.  Each precision is trained with
each seed (examples/criteo_deepfm.textproto, Adagrad); the mean over the seeds must not fall behind that of f32 rows.
"""

import json
import pathlib
import statistics
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent / "support"))
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import harness  # noqa: E402
import quality  # noqa: E402

ALLOWANCE = 0.002
# Name: precision of values, of state, whether the scale is learned.
ROWS = {
    "f32": ("F32", "F32", False),
    "bf16": ("BF16", "F32", False),
    "bf16, state bf16": ("BF16", "BF16", False),
    "int8": ("INT8", "F32", False),
    "int8, state bf16": ("INT8", "BF16", False),
    "int8 ALPT": ("INT8", "F32", True),
    "int4 ALPT": ("INT4", "F32", True),
}
# int4 is shown, not promised.
PROMISED = [name for name in ROWS if name not in ("f32", "int4 ALPT")]


def train(args, data, rows, seed):
    run_dir = quality.WORK / "precision"
    precision, state, learned = ROWS[rows]
    files = dict(zip(("data.train", "data.valid", "data.test"), data.parts))
    settings = {**files, "data.shuffle_rows": data.train_rows, "train.batch_size": quality.BATCH, "train.ranks": 1, "train.seed": seed}
    for table in ("embedding", "linear"):
        settings[f"tables.{table}.precision"] = precision
        settings[f"tables.{table}.state_precision"] = state
        settings[f"tables.{table}.learned_scale"] = str(learned).lower()
    command = [f"{args.bin}/plexus", "train", "--job=examples/criteo_deepfm.textproto", "--local", f"--run_dir={run_dir}", "--overwrite"]
    for name, value in settings.items():
        command += ["--set", f"{name}={value}"]
    harness.run(command)
    report = json.loads((run_dir / "servers/0.json").read_text(encoding="utf-8"))
    row = report["tables"]["embedding"]["record_bytes"]
    return json.loads((run_dir / "result.json").read_text(encoding="utf-8"))["test_auc"], row["values"] + row["state"]


def main():
    parser = harness.arguments("precision", __doc__.split("\n", 1)[0], rounds=3)
    parser.add_argument("--data", required=True, help="a file in the Criteo format, plain or gzip")
    args = parser.parse_args()
    quality.WORK.mkdir(parents=True, exist_ok=True)
    data = quality.Data(args.data, f"{args.bin}/plexus")
    seeds = range(1, 2 if args.quick else args.rounds + 1)
    figures = {}
    for rows in ROWS:
        runs = [train(args, data, rows, seed) for seed in seeds]
        figures[rows] = {"auc": [auc for auc, _ in runs], "auc_mean": round(statistics.mean(auc for auc, _ in runs), 5), "record_bytes": runs[0][1]}
        harness.say(f"{rows}: {figures[rows]}")
    print(f"{'rows (16 values, Adagrad)':<26} {'bytes a row':>11} {'test AUC':>9} {'to f32':>9}   at least {-ALLOWANCE}")
    missed = []
    for rows, figure in figures.items():
        figure["difference"] = round(figure["auc_mean"] - figures["f32"]["auc_mean"], 5)
        if rows in PROMISED and figure["difference"] < -ALLOWANCE:
            missed.append(rows)
        print(f"{rows:<26} {figure['record_bytes']:>11} {figure['auc_mean']:>9.5f} {figure['difference']:>+9.5f}   {'MISSED' if rows in missed else ''}")
    harness.finish({"bench": "precision", "data": data.hash, "rows": figures, "missed": missed, "ok": not missed}, args.json)


if __name__ == "__main__":
    main()
