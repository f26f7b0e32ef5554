"""Prints what ./dev demo trained, beside the best that its data allow.

usage: demo_table.py RESULT_JSON SYNTH_JSON
"""

import json
import sys


def load(path):
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except (OSError, ValueError) as error:
        sys.exit(f"demo_table: {path}: {error}")


def shown(value, form):
    return "-" if value is None else format(value, form)


def print_table(result, synth):
    tables = result["tables"].values()
    rows = sum(table["rows"] for table in tables)
    size = sum(table["bytes"] for table in tables)
    print(f"""
                      trained   best possible
  test AUC         {result["test_auc"]:10.5f}      {shown(synth.get("best_auc"), "10.5f")}
  test log loss    {result["test_logloss"]:10.5f}      {shown(synth.get("best_logloss"), "10.5f")}

  model            {result["model"]}, version {result["version"]}
  samples          {result["samples"]:,} in {result["seconds"]:.1f} s = {result["samples_per_second"]:,.0f} a second
  rows             {rows:,}, {size / max(rows, 1):.1f} bytes a row, {size / 2**20:.1f} MiB
  model digest     {result["model_digest"]}""")


NEXT = """
What next?
  the same on more processes, the same digest:
    launch/mpirun.sh build/demo/run/job.textproto --servers 2 --workers 2 --run_dir=build/demo/mpirun
  your own data, in Criteo's format (label, 13 integers, 26 strings, tab-separated, plain or .gz):
    build/release/bin/plexus train --job=examples/criteo_deepfm.textproto --local --run_dir=RUN --set data.train=FILE
  other formats and models: examples/*.textproto, proto/job.proto"""


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    print_table(load(sys.argv[1]), load(sys.argv[2]))
    print(NEXT)


main()
