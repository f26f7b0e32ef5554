"""Real processes under faults that a seed draws; whatever happens, the job ends with the bits of one that nothing happened to.

usage: chaos.py [--seed N] [--rounds K] [--minutes M] [--durability NONE|ASYNC|SYNC] [--job NAME] [--launcher NAME]
                [--keep_going]
       chaos.py --each_failpoint [--failpoint NAME]

Round i has seed N + i, and prints one line.  One that fails prints what repeats it.  docs/failure-model.md
"""
import argparse
import contextlib
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import counted
import jobs
import lives
import plans
from jobs import cluster

LIVES_MAX = 8
LIFE_SECONDS_MAX = 90.0  # Or, on a slow machine, so many times what the undisturbed job takes:
LIFE_SHARE_MAX = 40
DISK_MIB = 512  # More than the logs of a job without checkpoints.


class Failure(Exception):
    """What the oracle says."""


@contextlib.contextmanager
def small_disk(run):
    """A file system of its own at `run`; None if that is not allowed here."""
    run.mkdir(parents=True)
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m", "tmpfs", run],
                          capture_output=True, text=True, check=False)
    try:
        yield run if done.returncode == 0 else None
    finally:
        if done.returncode == 0:
            subprocess.run(["umount", "-l", run], check=True)


class Disturber:
    """Carries out the faults of one life, each at its moment."""

    def __init__(self, life, faults, seconds, run):
        self._life = life
        self._run = run
        self._todo = []  # (when, what, arguments).
        self._seconds = seconds
        self._began = time.monotonic()
        self.done = []
        self.killed_everything = False
        self.failpoints = [fault for fault in faults if fault.kind == "failpoint"]
        for fault in faults:
            if fault.kind != "failpoint":
                self._todo.append((fault.moment * seconds + 0.15, self._strike, (fault,)))

    def pass_time(self):
        now = time.monotonic() - self._began
        due = sorted((entry for entry in self._todo if entry[0] <= now), key=lambda entry: entry[0])
        for entry in due:
            self._todo.remove(entry)
            entry[1](*entry[2])

    def undo(self):
        """What was to end later ends now: no one may wait for a process that is stopped."""
        for _, what, arguments in [entry for entry in self._todo if entry[1] != self._strike]:
            what(*arguments)
        self._todo = []

    def _later(self, seconds, what, *arguments):
        self._todo.append((time.monotonic() - self._began + seconds, what, arguments))

    def _strike(self, fault):
        self.done.append(f"{fault}:{time.monotonic() - self._began:.2f}s")
        if fault.kind == "everything":
            self.killed_everything = True
            self._life.kill_everything()
        elif fault.kind in ("kill", "several"):
            for pid in self._pids(fault):
                lives.send(pid, signal.SIGKILL)
        elif fault.kind == "stop":
            for pid in self._pids(fault):
                if lives.send(pid, signal.SIGSTOP):
                    self._later(fault.seconds, lives.send, pid, signal.SIGCONT)
        elif fault.kind == "full_disk":
            self._fill(fault)
        else:
            self._shake(fault)

    def _pids(self, fault):
        for role, number in fault.victims:
            found = sorted(lives.members(self._run, role, self._life.supervised).items())
            if found:
                yield found[number % len(found)][1]

    def _shake(self, fault):
        links = self._life.proxies.links
        link = links[fault.victims[0][1] % len(links)]
        if fault.kind == "cut":
            self._life.proxies.cut(link)
        elif fault.kind == "delay":
            self._life.proxies.delay(link, float(fault.detail[:-2]) / 1000)
            self._later(fault.seconds, self._life.proxies.delay, link, 0.0)
        else:
            self._life.proxies.refuse(link, True)
            self._later(fault.seconds, self._life.proxies.refuse, link, False)

    def _fill(self, fault):
        ballast = self._run / "ballast"
        with open(ballast, "wb", buffering=0) as out:
            for size in (1 << 20, 1 << 12):
                with contextlib.suppress(OSError):
                    while out.write(bytes(size)) == size:
                        pass
        self._later(fault.seconds, ballast.unlink, True)


class Round:
    def __init__(self, plan, workspace, undisturbed):
        self.plan = plan
        self._workspace = workspace
        self._undisturbed = undisturbed
        self._run = workspace.new_run()
        self.codes = []
        self.struck = []
        self.fired = set()
        self.skipped = ""

    def play(self):
        expected, seconds = self._undisturbed.of(self.plan.job)
        try:
            if any(fault.kind == "full_disk" for fault in self.plan.faults):
                with small_disk(self._run) as run:
                    if run is None:
                        self.skipped = "no right to mount a small file system here"
                        return
                    self._live_on(expected, seconds)
            else:
                self._live_on(expected, seconds)
        finally:
            shutil.rmtree(self._run, ignore_errors=True)
            shutil.rmtree(self._markers(), ignore_errors=True)

    def failpoints_not_passed(self):
        faults = self.plan.faults + sum(self.plan.later, [])
        return [f.detail for f in faults if f.kind == "failpoint" and f.detail not in self.fired]

    def _markers(self):
        return pathlib.Path(f"{self._run}.markers")

    def _live_on(self, expected, seconds):
        self._markers().mkdir(exist_ok=True)
        for number in range(LIVES_MAX):
            faults = ([self.plan.faults] + self.plan.later + [[]] * LIVES_MAX)[number]
            code = self._live(number, faults, seconds)
            if code == 0:
                found = jobs.figures(self._run)
                if self.plan.spills and not found["deterministic"]:
                    self.skipped = "a memory emergency came about, and is said"
                elif found != expected:
                    raise Failure(f"the figures differ:\n  undisturbed {jobs.dump(expected)}\n  "
                                  f"found       {jobs.dump(found)}")
                self._check_files()
                return
        raise Failure(f"not done after {LIVES_MAX} lives")

    def _check_files(self):
        if self.plan.job.name == "counter":
            differences = counted.check(self._run, self._workspace.data / "train.tsv", 256)
            if differences:
                raise Failure(differences)
        code, output = cluster.run([cluster.BIN / "plexus", "fsck", self._run], 60)
        if code != 0:
            raise Failure(f"fsck says {code}: {output}")
        for path in self._run.rglob("*.tmp"):
            raise Failure(f"{path} was left behind")

    def _environment(self, number, faults):
        passages = [fault.detail for fault in faults if fault.kind == "failpoint"]
        points = [f"{passage}:{self._markers()}/{number}-{i}" for i, passage in enumerate(passages)]
        return {"PLEXUS_FAILPOINT": ",".join(points)} if points else {}

    def _live(self, number, faults, seconds):
        servers, workers = self.plan.sizes[min(number, len(self.plan.sizes) - 1)]
        life = lives.KINDS[self.plan.launcher](
            self.plan.job, self._run, self._workspace, self.plan.sets_of(servers), servers, workers, resume=number > 0,
            environment=self._environment(number, faults))
        disturber = Disturber(life, faults, seconds, self._run)
        try:
            code = self._wait(life, disturber, max(LIFE_SECONDS_MAX, LIFE_SHARE_MAX * seconds))
            left = life.sweep()
            self._judge(life, disturber, code, left)
            return code
        finally:
            disturber.undo()
            life.kill_everything()
            life.close()

    def _wait(self, life, disturber, patience):
        deadline = time.monotonic() + patience
        while (code := life.poll()) is None:
            disturber.pass_time()
            if time.monotonic() > deadline:
                disturber.undo()
                raise Failure(f"a hang: not done after {patience:.0f} s\n"
                              + lives.who_waits(self._run, life.output()))
            time.sleep(lives.POLL_SECONDS)
        return code

    def _judge(self, life, disturber, code, left):
        self.struck += disturber.done
        for i, fault in enumerate(disturber.failpoints):
            if (self._markers() / f"{len(self.codes)}-{i}").exists():
                self.struck.append(fault.detail)
                self.fired.add(fault.detail)
        self.codes.append(code)
        # A supervisor comes to failpoints too, before it has started anyone.
        all_died = disturber.killed_everything or code == -signal.SIGKILL
        # Under mpirun nobody brings back who left in order, when the scheduler dies behind its last word.
        left_early = self.plan.launcher == "mpirun" and (self._run / "model/final/manifest.textproto").exists()
        allowed = code == 0 or all_died or (
            code == 3 and (self.plan.may_end_restartable() or left_early))
        if not allowed:
            raise Failure(f"exit code {code}\n" + lives.who_waits(self._run, life.output()))
        if left and not all_died:
            raise Failure(f"{left} processes outlived the job\n" + life.output())


def play(plan, repeat, workspace, undisturbed):
    """One line, and whether all was well."""
    this = Round(plan, workspace, undisturbed)
    began = time.monotonic()
    failure = None
    try:
        this.play()
        unseen = this.failpoints_not_passed() if plan.must_fire and not this.skipped else []
        if unseen:
            raise Failure(f"nobody came to {' '.join(unseen)}")
    except Failure as caught:
        failure = caught
    verdict = f"skipped: {this.skipped}" if this.skipped else "digest ok" if failure is None else "FAILED"
    print(f"chaos seed {plan.seed}: {verdict}, exit codes {this.codes}, {time.monotonic() - began:.1f} s, "
          f"{plan.describe()}, happened [{' '.join(this.struck)}]", flush=True)
    if failure is not None:
        print(f"{failure}\nrepeat it with: ./dev chaos {repeat}", flush=True)
    return failure is None


def rounds_of(options):
    """Each plan, and what repeats it."""
    if options.each_failpoint:
        for name in plans.FAILPOINTS:
            if options.failpoint in (None, name):
                yield plans.make_for_failpoint(name), f"--each_failpoint --failpoint {name}"
        return
    choices = "".join(f" --{name} {value}" for name in ("durability", "job", "launcher")
                      if (value := getattr(options, name)))
    rounds = options.rounds or (20 if options.minutes is None else 1 << 30)
    for seed in range(options.seed, options.seed + rounds):
        plan = plans.make(seed, durability=options.durability, job=options.job, launcher=options.launcher)
        yield plan, f"--seed {seed} --rounds 1{choices}"


def main():
    parser = argparse.ArgumentParser(prog="./dev chaos", description=__doc__.split("\n")[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=None, help="default 20, or as many as --minutes hold")
    parser.add_argument("--minutes", type=float, default=None)
    parser.add_argument("--durability", choices=["NONE", *plans.DURABLE])
    parser.add_argument("--job", choices=[job.name for job in jobs.JOBS])
    parser.add_argument("--launcher", choices=list(lives.KINDS))
    parser.add_argument("--each_failpoint", action="store_true", help="a round for each, of a job that comes to it")
    parser.add_argument("--failpoint", choices=plans.FAILPOINTS, help="of these, this one")
    parser.add_argument("--keep_going", action="store_true", help="go on after a round that failed")
    options = parser.parse_args()
    deadline = time.monotonic() + 60 * options.minutes if options.minutes is not None else float("inf")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # So that everything is cleaned up.
    workspace = cluster.Workspace(rows=16000, valid_rows=2000, test_rows=2000, cardinality=100000)
    undisturbed = jobs.Undisturbed(workspace)
    good = failed = 0
    try:
        for plan, repeat in rounds_of(options):
            if time.monotonic() > deadline:
                break
            if play(plan, repeat, workspace, undisturbed):
                good += 1
            else:
                failed += 1
                if not options.keep_going:
                    break
    finally:
        workspace.close()
    print(f"chaos: {good} rounds good, {failed} failed", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
