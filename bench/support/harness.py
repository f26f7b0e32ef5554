"""What the benches that hold Plexus against references share: running programs in turn, medians, the table, the JSON line."""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent


def arguments(name, description, rounds):
    parser = argparse.ArgumentParser(prog=f"./dev bench {name}", description=description)
    parser.add_argument("--json", help="also write the JSON object to this file")
    parser.add_argument("--rounds", type=int, default=rounds, help="everything is run this often, in turn")
    parser.add_argument("--quick", action="store_true", help="one round")
    parser.add_argument("--bin", default=str(ROOT / "build/release/bin"), help=argparse.SUPPRESS)
    return parser


def cores():
    return sorted(os.sched_getaffinity(0))


def on_one_core(command):
    return ["taskset", "-c", str(cores()[0]), *command]


def run(command, extra_env=None):
    """The standard output of a program, which must end well."""
    done = subprocess.run(
        [str(part) for part in command],
        cwd=ROOT,
        env={**os.environ, **(extra_env or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        sys.stderr.write(done.stdout[-2000:] + done.stderr[-4000:])
        sys.exit(f"bench: {' '.join(str(part) for part in command)} ended with {done.returncode}")
    return done.stdout


def last_json(output):
    return json.loads(output.strip().splitlines()[-1])


def say(text):
    print(text, file=sys.stderr, flush=True)


class Series:
    """Measurements by name, in the order in which the names came."""

    def __init__(self):
        self.values = {}

    def add(self, name, value):
        self.values.setdefault(name, []).append(value)

    def __contains__(self, name):
        return name in self.values

    def median(self, name):
        return statistics.median(self.values[name])

    def print(self, unit, scale):
        width = max(len(name) for name in self.values)
        print(f"{unit:<{width}} {'median':>10} {'min':>10} {'max':>10} {'n':>3}")
        for name, values in self.values.items():
            figures = [statistics.median(values), min(values), max(values)]
            print(f"{name:<{width}} " + " ".join(f"{f / scale:>10.2f}" for f in figures) + f" {len(values):>3}")

    def as_json(self):
        return {
            name: {"median": round(statistics.median(v)), "min": round(min(v)), "max": round(max(v)), "n": len(v)}
            for name, v in self.values.items()
        }


def rounded(value):
    return None if value is None else round(value, 4)


def judge(result, targets):
    """Prints each target; adds what was missed to the result.  targets: name -> least value; an absent figure is no miss."""
    missed = []
    for name, least in targets.items():
        value = result.get(name)
        kept = value is None or value >= least
        print(f"{name:<22} {'-' if value is None else format(value, '.3f'):>8}  at least {least}{'' if kept else '   MISSED'}")
        if not kept:
            missed.append(name)
    result["missed"] = missed
    result["ok"] = not missed


def finish(result, json_path):
    line = json.dumps(result)
    if json_path:
        path = pathlib.Path(json_path)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(line + "\n", encoding="utf-8")
    print(line)
    sys.exit(0 if result["ok"] else 1)
