"""What happens in a round, drawn from its seed and from nothing else."""
import dataclasses
import random
import re

import jobs
from jobs import cluster

LEASE_MS = 1500
DURABLE = ("ASYNC", "SYNC")

FAILPOINTS = re.findall(r'^ +"([a-z_]+\.[a-z_]+)",', (cluster.ROOT / "common/failpoint.h").read_text(), re.MULTILINE)
# Passages of a failpoint in one process until which it may be made to fire: those that come often, and the rest.
OFTEN = {"server.before_commit": 120, "server.applied": 60, "server.logging": 100, "server.logged": 60,
         "server.told": 60, "shard.applying": 60, "table.evicting": 400, "log.appended": 120, "log.torn": 120,
         "scheduler.committing": 60, "scheduler.logged": 60, "scheduler.told": 60, "rank.sending": 200,
         "rank.sent": 200, "server.replaying": 30, "file.unnamed": 12, "model.block": 20, "cold.spilling": 8,
         "cold.spilled": 8}
SELDOM = 3


# Of memory, by the number of servers: some rows go to disk, and no emergency comes about.
LIMITS = {1: "88MiB", 2: "62MiB", 3: "57MiB"}
LIMIT_LOCAL = "9600KiB"


@dataclasses.dataclass
class Fault:
    """At `moment` (of the undisturbed job's seconds, since all processes run) or, if it is a failpoint, there."""
    kind: str
    moment: float = 0.0
    victims: tuple = ()  # (role, which of them, counted from 0 and taken modulo their number).
    seconds: float = 0.0
    detail: str = ""

    def __str__(self):
        words = [self.kind, *(f"{role}{number}" for role, number in self.victims), self.detail]
        if self.seconds:
            words.append(f"{self.seconds:.1f}s")
        at = "" if self.kind == "failpoint" else f"@{self.moment:.2f}"
        return "-".join(word for word in words if word) + at


@dataclasses.dataclass
class Plan:
    seed: int
    job: jobs.Job
    launcher: str
    durability: str
    sets: dict
    sizes: list    # (servers, workers) of each life; the last one stays.
    faults: list   # Of the first life ...
    later: list    # ... and of those that go on, one list each; then there are none.
    spills: bool = False     # Rows go to disk.
    must_fire: bool = False  # Each failpoint.

    def sets_of(self, servers):
        """A limit holds for a server, and for one process with all that it needs anyway."""
        if not self.spills:
            return self.sets
        limit = LIMIT_LOCAL if self.launcher == "local" else LIMITS[servers]
        return {**self.sets, "cluster__memory_limit": limit}

    def may_end_restartable(self):
        """Whether exit code 3 is as declared: what died could not come back."""
        faults = [f.kind for f in self.faults + sum(self.later, [])]
        if self.durability not in DURABLE or self.launcher == "local":
            return bool(faults)
        return False

    def describe(self):
        return (f"{self.job.name} {self.launcher} {self.durability} {'spills ' if self.spills else ''}{jobs.describe(self.sets)} "
                f"sizes {' '.join(f'{s}+{w}' for s, w in self.sizes)} faults "
                f"[{' '.join(map(str, self.faults))}]" + "".join(f" then [{' '.join(map(str, f))}]" for f in self.later))


def _failpoint(draw, names):
    name = draw.choice(names)
    passage = 1 + int(OFTEN.get(name, SELDOM) * draw.random() ** 1.5)
    return Fault("failpoint", detail=f"{name}:{passage}")


def _victims(draw, roles, count):
    return tuple((draw.choice(roles), draw.randrange(4)) for _ in range(count))


def _fault(draw, plan_launcher, every_steps, spills):
    moment = draw.uniform(0.0, 1.0)
    if plan_launcher == "local":
        kinds = ["everything", "failpoint"]
        weights = [1, 1]
    else:
        kinds = ["kill", "several", "everything", "failpoint", "stop"]
        weights = [4, 2, 1, 6, 2]
    if plan_launcher == "by_hand":
        kinds += ["delay", "cut", "refuse"]
        weights += [2, 4, 2]
    kind = draw.choices(kinds, weights)[0]
    if kind == "failpoint":
        names = [n for n in FAILPOINTS if spills or not n.startswith("cold.")]
        if every_steps == 0:
            names = [n for n in names if not n.startswith("checkpoint.") and n != "server.restored"]
        return _failpoint(draw, names)
    if kind == "kill":
        return Fault(kind, moment, _victims(draw, ["server", "server", "scheduler", "worker"], 1))
    if kind == "several":
        return Fault(kind, moment, _victims(draw, ["server", "server", "scheduler", "worker"], draw.randint(2, 4)))
    if kind == "stop":
        seconds = draw.choice([draw.uniform(0.1, 0.9), draw.uniform(1.2, 2.5)]) * LEASE_MS / 1000
        return Fault(kind, moment, _victims(draw, ["server", "scheduler", "worker"], 1), seconds)
    if kind == "delay":
        return Fault(kind, moment, (("link", draw.randrange(4)),), draw.uniform(0.2, 1.5),
                     detail=f"{draw.choice([1, 5, 20])}ms")
    if kind == "cut":
        return Fault(kind, moment, (("link", draw.randrange(4)),))
    if kind == "refuse":
        return Fault(kind, moment, (("link", draw.randrange(4)),), draw.uniform(0.1, 2.5))
    return Fault(kind, moment)


def _full_disk(draw, on_log_error):
    if on_log_error == "GO_ON":  # There is room again before the job ends and saves its model.
        return Fault("full_disk", draw.uniform(0.05, 0.2), seconds=draw.uniform(0.1, 0.4))
    return Fault("full_disk", draw.uniform(0.05, 0.4), seconds=draw.uniform(0.2, 3.0))


def make(seed, *, durability=None, job=None, launcher=None):
    """REQUIRES: what is not None is a choice that the draw could have made."""
    draw = random.Random(f"plexus chaos {seed}")
    drawn_job = draw.choice(jobs.JOBS)
    drawn_durability = draw.choices(["ASYNC", "SYNC", "NONE"], [6, 3, 1])[0]
    drawn_launcher = draw.choices(["supervised", "by_hand", "mpirun", "local"], [8, 5, 1, 2])[0]
    drawn_job = next((j for j in jobs.JOBS if j.name == job), drawn_job)
    durability = durability or drawn_durability
    launcher = launcher or drawn_launcher
    every = draw.choice([0, 3, 7, 20])
    if durability == "NONE":
        every = max(every, 3)
    sets = {"cluster__lease_ms": LEASE_MS, "checkpoint__durability": durability,
            "checkpoint__every_steps": every, "checkpoint__keep": draw.choice([1, 2])}
    if durability in DURABLE and draw.random() < 0.2:
        sets["checkpoint__log_limit"] = draw.choice(["1MiB", "4MiB"])
    spills = drawn_job.name.startswith("store" if launcher == "local" else "deepfm") and draw.random() < 0.4
    full_disk = durability in DURABLE and launcher == "supervised" and draw.random() < 0.08
    if full_disk:
        sets["checkpoint__every_steps"] = 0
        sets.pop("checkpoint__log_limit", None)
        sets["checkpoint__on_log_error"] = draw.choice(["PAUSE", "PAUSE", "GO_ON"])
        drawn_job = next(j for j in jobs.JOBS if j.name == "long")
    sizes = [(draw.randint(1, 3), draw.randint(1, 4))]
    for _ in range(2):
        sizes.append(sizes[-1] if draw.random() < 0.6 else (draw.randint(1, 3), draw.randint(1, 4)))
    faults = [_full_disk(draw, sets["checkpoint__on_log_error"])] if full_disk else [
        _fault(draw, launcher, every, spills) for _ in range(draw.randint(1, 4))]
    later = [[_fault(draw, launcher, every, spills) for _ in range(draw.randint(0, 2))] for _ in range(2)]
    if full_disk:
        later = []
    return Plan(seed, drawn_job, launcher, durability, sets, sizes, faults, later, spills)


def make_for_failpoint(name):
    """A job that comes to it, dies there, and goes on in place."""
    job = next(j for j in jobs.JOBS if j.name == "store2")
    sets = {"cluster__lease_ms": LEASE_MS, "checkpoint__durability": "ASYNC", "checkpoint__every_steps": 7,
            "checkpoint__keep": 1}
    launcher = "supervised"
    if name.startswith("cold."):
        launcher = "local"
    passage = 1 if name.startswith(("cold.", "checkpoint.", "log.truncated", "log.dropping")) else 3
    faults = [Fault("failpoint", detail=f"{name}:{passage}")]
    if name in ("server.restored", "server.replaying", "server.recovered", "log.truncated"):
        faults = [Fault("failpoint", detail=f"{name}:1"), Fault("kill", 0.5, (("server", 0),))]
    return Plan(0, job, launcher, "ASYNC", sets, [(1, 2) if launcher == "local" else (2, 2)], faults, [], name.startswith("cold."), True)
