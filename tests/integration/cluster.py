"""What the integration tests share: making data, starting jobs of real processes, reading what they left.

Every wait has a deadline.  The programs lie in $PLEXUS_BIN (ctest sets it).
"""
import json
import os
import pathlib
import signal
import subprocess
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
BIN = pathlib.Path(os.environ.get("PLEXUS_BIN", ROOT / "build/release/bin"))
JOB = ROOT / "examples/criteo_deepfm.textproto"


class Workspace:
    """A folder with a small Criteo-shaped data set and room for runs."""

    def __init__(self, rows=20000, valid_rows=4000, test_rows=4000, cardinality=20000):
        self._folder = tempfile.TemporaryDirectory(prefix="plexus-")
        self.path = pathlib.Path(self._folder.name)
        self.data = self.path / "data"
        subprocess.run(
            [BIN / "plexus", "data", "synth", f"--out={self.data}", f"--rows={rows}",
             f"--valid_rows={valid_rows}", f"--test_rows={test_rows}", f"--cardinality_total={cardinality}"],
            check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=60)
        self._runs = 0

    def close(self):
        self._folder.cleanup()

    def new_run(self):
        self._runs += 1
        return self.path / f"run{self._runs}"

    def overrides(self, **sets):
        """--set arguments: the data, and e.g. train__ranks=4 for train.ranks=4."""
        base = {"data__train": self.data / "train.tsv", "data__valid": self.data / "valid.tsv",
                "data__test": self.data / "test.tsv", "train__ranks": 4, "train__batch_size": 512}
        base.update(sets)
        arguments = []
        for name, value in base.items():
            arguments += ["--set", f"{name.replace('__', '.')}={value}"]
        return arguments


def train_command(run, overrides, job=JOB, local=False, servers=1, workers=1):
    command = [str(BIN / "plexus"), "train", f"--job={job}", f"--run_dir={run}", "--quiet",
               f"--servers={servers}", f"--workers={workers}", *map(str, overrides)]
    return command + (["--local"] if local else [])


def mpirun_command(run, overrides, job=JOB, servers=1, workers=1):
    return [str(ROOT / "launch/mpirun.sh"), str(job), "--servers", str(servers), "--workers",
            str(workers), f"--run_dir={run}", "--quiet", *map(str, overrides)]


def run(command, timeout=120):
    """Runs to the end; (exit code, output)."""
    process = start(command)
    return finish(process, timeout)


def start(command):
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                            start_new_session=True, env={**os.environ, "PLEXUS_BIN": str(BIN)})


def finish(process, timeout=120):
    try:
        output, _ = process.communicate(timeout=timeout)
        return process.returncode, output
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        raise AssertionError(f"not done after {timeout} s: {process.args}\n{output}") from None


def result(run_dir):
    return json.loads((pathlib.Path(run_dir) / "result.json").read_text())


def members(run_dir, role, timeout=20):
    """The members of a role, once there are any."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        try:
            found = [m for m in json.loads((pathlib.Path(run_dir) / "members.json").read_text())
                     if m["role"] == role]
            if found:
                return found
        except (FileNotFoundError, json.JSONDecodeError):
            pass
        time.sleep(0.02)
    raise AssertionError(f"no {role} came within {timeout} s")


def wait_for_version(run_dir, version, timeout=60):
    """Until the run's metrics speak of a version of at least `version`."""
    deadline = time.monotonic() + timeout
    path = pathlib.Path(run_dir) / "metrics.jsonl"
    while time.monotonic() < deadline:
        if path.exists():
            for line in path.read_text().splitlines():
                try:
                    if json.loads(line).get("version", 0) >= version:
                        return
                except json.JSONDecodeError:
                    pass
        time.sleep(0.02)
    raise AssertionError(f"version {version} was not reached within {timeout} s")


def alive(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().split(")")[-1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
