"""Checkpoints: a job that is killed and goes on ends with the same bits as one that was not, on any number of servers and workers.

usage: resume_test.py [--rounds N] [--seed N] [unittest arguments]
"""
import os
import pathlib
import random
import re
import signal
import sys
import time
import unittest

import cluster

ROUNDS = 3
SEED = 1

JOB = cluster.ROOT / "examples/criteo_store.textproto"  # Tables of every kind, filters, eviction.
EVERY = 7
SETS = {"cluster__buckets": 64, "tables__limited__max_rows": 128,
        "tables__frequent__eviction__unseen_versions": 8,
        "tables__frequent__eviction__sweep_versions": 4,
        "data__shuffle_rows": 700, "train__epochs": 3, "train__evaluate_every_steps": 16,
        "train__early_stop_patience": 40, "checkpoint__every_steps": EVERY}
# What result.json says of the training; the rest is of time and place.
FIGURES = ("model_digest", "version", "samples", "train_logloss", "valid", "test", "best_epoch",
           "valid_auc", "test_auc", "deterministic")


def figures(run):
    result = cluster.result(run)
    found = {name: result[name] for name in FIGURES}
    found["rows"] = {name: table["rows"] for name, table in result["tables"].items()}
    return found


def checkpoints(run):
    """Versions of the complete checkpoints, ascending."""
    return sorted(int(path.parent.name) for path in pathlib.Path(run).glob("checkpoints/*/manifest.textproto")
                  if path.parent.name.isdigit())


def base_of(run, version):
    """The version that a checkpoint builds on; 0: it is whole."""
    text = (pathlib.Path(run) / f"checkpoints/{version}/manifest.textproto").read_text()
    found = re.search(r"^base: (\d+)", text, re.MULTILINE)
    return int(found[1]) if found else 0


def kill_all(process):
    """SIGKILL to every process of the job; returns when all are gone."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.communicate(timeout=20)  # The pipe closes when its last holder is gone.


def wait_for_checkpoint(run, newer_than=0, timeout=60):
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        versions = checkpoints(run)
        if versions and versions[-1] > newer_than:
            return versions
        time.sleep(0.01)
    raise AssertionError(f"no checkpoint newer than {newer_than} within {timeout} s")


class ResumeTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.workspace = cluster.Workspace(cardinality=200000)
        run = cls.workspace.new_run()
        code, output = cluster.run(cls.command(run, 2, 2, checkpoint__every_steps=0))
        assert code == 0, output
        cls.undisturbed = figures(run)
        cls.seconds = cluster.result(run)["seconds"]

    @classmethod
    def tearDownClass(cls):
        cls.workspace.close()

    @classmethod
    def command(cls, run, servers, workers, *flags, local=False, make=cluster.train_command, **sets):
        arguments = {"local": True} if local else {}
        overrides = cls.workspace.overrides(**{**SETS, **sets}) + list(flags)
        return make(run, overrides, job=JOB, servers=servers, workers=workers, **arguments)

    def finish(self, run, servers, workers, **more):
        code, output = cluster.run(self.command(run, servers, workers, "--resume", **more))
        self.assertEqual(code, 0, output)
        self.assertEqual(figures(run), self.undisturbed, output)
        return output

    def started_and_killed(self, servers=2, workers=2):
        run = self.workspace.new_run()
        process = cluster.start(self.command(run, servers, workers))
        wait_for_checkpoint(run, newer_than=2 * EVERY)
        kill_all(process)
        self.assertFalse((run / "result.json").exists(), "the job was faster than the test")
        return run

    def test_checkpoints_change_nothing_and_only_the_newest_stay(self):
        run = self.workspace.new_run()
        code, output = cluster.run(self.command(run, 2, 2))
        self.assertEqual(code, 0, output)
        self.assertEqual(figures(run), self.undisturbed)
        # One that is due while the last one is being written begins later.
        versions = checkpoints(run)
        last = versions[-1]
        self.assertGreaterEqual(last, self.undisturbed["version"] - 3 * EVERY)
        bases = {version: base_of(run, version) for version in versions}
        built_on, whole = set(), 0
        for place, version in enumerate(reversed(versions)):
            self.assertTrue(place < 2 or version in built_on or whole < 2, f"{bases}: {version} is of no use")
            built_on.add(bases[version])
            whole += bases[version] == 0
        self.assertLessEqual(built_on - {0}, set(versions), "what others build on stays")
        self.assertEqual((run / "checkpoints/LATEST").read_text(), f"{last}\n")
        code, output = cluster.run([cluster.BIN / "plexus", "fsck", run])
        self.assertEqual(code, 0, output)
        for version in checkpoints(run):
            self.assertIn(f"checkpoints/{version}: clean", output)
        a, b = (run / f"checkpoints/{version}" for version in versions[-2:])
        code, output = cluster.run([cluster.BIN / "plexus", "diff", a, b])
        self.assertEqual(code, 1, output)
        self.assertIn("different", output)
        # Going on with a job that is done does its last steps again.
        self.finish(run, 1, 1)
        self.assertEqual(cluster.result(run)["resumed_from"], last)

    def test_killed_at_any_moment_it_goes_on_to_the_same_bits(self):
        draw = random.Random(SEED)
        for round_number in range(ROUNDS):
            run = self.workspace.new_run()
            kills, flags, resumed = 0, [], []
            while True:
                servers, workers = draw.randint(1, 3), draw.randint(1, 4)
                process = cluster.start(self.command(run, servers, workers, *flags))
                moment = draw.uniform(0.3, 1.0) * self.seconds if kills < 3 else 120
                flags = ["--resume"]
                try:
                    output, _ = process.communicate(timeout=moment)
                except cluster.subprocess.TimeoutExpired:
                    kill_all(process)
                    kills += 1
                    resumed.append((checkpoints(run) or [0])[-1])
                    continue
                where = f"round {round_number} seed {SEED} kills {kills} resumed {resumed}: {output}"
                self.assertEqual(process.returncode, 0, where)
                self.assertEqual(figures(run), self.undisturbed, where)
                print(f"round {round_number}: {kills} kills, resumed from {resumed}, at last with {servers} "
                      f"server(s) {workers} worker(s), digest {figures(run)['model_digest']}", flush=True)
                break

    def test_a_killed_server_ends_the_job_with_3_and_it_goes_on(self):
        run = self.workspace.new_run()
        process = cluster.start(self.command(run, 2, 2))
        wait_for_checkpoint(run)
        os.kill(cluster.members(run, "server")[1]["pid"], signal.SIGKILL)
        code, output = cluster.finish(process, timeout=40)
        self.assertEqual(code, 3, output)
        self.finish(run, 2, 2)
        self.assertGreater(cluster.result(run)["resumed_from"], 0)

    def test_sigterm_leaves_a_checkpoint_of_its_last_step(self):
        run = self.workspace.new_run()
        process = cluster.start(self.command(run, 2, 2, checkpoint__every_steps=100000))
        cluster.wait_for_version(run, 5)
        process.send_signal(signal.SIGTERM)
        code, output = cluster.finish(process, timeout=40)
        self.assertEqual(code, 0, output)
        stopped = cluster.result(run)
        self.assertTrue(stopped["interrupted"])
        self.assertEqual(checkpoints(run), [stopped["version"]])
        self.finish(run, 1, 3, checkpoint__every_steps=100000)
        self.assertEqual(cluster.result(run)["resumed_from"], stopped["version"])
        self.assertFalse(cluster.result(run)["interrupted"])

    def test_under_mpirun_and_in_one_process(self):
        run = self.started_and_killed()
        process = cluster.start(self.command(run, 3, 2, "--resume", make=cluster.mpirun_command))
        before = checkpoints(run)[-1]
        wait_for_checkpoint(run, newer_than=before)
        kill_all(process)
        self.finish(run, 1, 1, local=True)

    def test_rows_on_disk_come_back_whatever_the_limit(self):
        # The limit is too small for the rows, in one process; see store_bits_test.
        spills = {"cluster__memory_limit": "9600KiB"}
        run = self.workspace.new_run()
        process = cluster.start(self.command(run, 1, 1, local=True, **spills))
        wait_for_checkpoint(run, newer_than=4 * EVERY)
        kill_all(process)
        self.finish(run, 1, 4, local=True, **spills)
        text = (run / "servers/0.json").read_text()
        tables = cluster.json.loads(text)["tables"]
        self.assertGreater(sum(t["counters"]["spilled"] for t in tables.values()), 0)

    def test_damage_is_named_and_the_checkpoint_before_it_is_taken(self):
        run = self.started_and_killed()
        older, newest = checkpoints(run)[-2:]  # A third may not be deleted yet.
        file = run / f"checkpoints/{newest}/shard-00001.model"
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
        code, output = cluster.run([cluster.BIN / "plexus", "fsck", file.parent])
        self.assertEqual(code, 1, output)
        self.assertIn(f"{file} at offset", output)
        output = self.finish(run, 2, 1)
        self.assertIn(f"{file} at offset", output)
        self.assertEqual(cluster.result(run)["resumed_from"], older)
        self.assertTrue((run / f"checkpoints/{newest}.damaged").exists())

    def test_an_incremental_checkpoint_is_as_good_as_a_whole_one(self):
        run = self.workspace.new_run()
        process = cluster.start(self.command(run, 2, 2, checkpoint__full_every=100))
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            versions = wait_for_checkpoint(run)
            if base_of(run, versions[-1]) > 0:
                break
            time.sleep(0.01)
        kill_all(process)
        newest = checkpoints(run)[-1]
        self.assertGreater(base_of(run, newest), 0)
        dump = [cluster.BIN / "plexus", "dump", run / f"checkpoints/{newest}", "--table=limited", "--sorted"]
        code, output = cluster.run(dump)
        self.assertEqual(code, 0, output)
        keys = [int(line.split("\t")[0]) for line in output.splitlines() if "\t" in line]
        self.assertEqual(keys, sorted(set(keys)), "each row once")
        self.finish(run, 3, 1)
        self.assertEqual(cluster.result(run)["resumed_from"], newest)

    def test_what_is_refused(self):
        run = self.started_and_killed()
        code, output = cluster.run(self.command(run, 1, 1))
        self.assertEqual(code, 2, output)
        self.assertIn("--resume", output)
        code, output = cluster.run(self.command(run, 1, 1, "--resume", train__learning_rate=0.5))
        self.assertEqual(code, 2, output)
        self.assertIn("train.learning_rate", output)
        for version in checkpoints(run):
            with open(run / f"checkpoints/{version}/shard-00000.model", "r+b") as file:
                file.truncate(100)
        code, output = cluster.run(self.command(run, 1, 1, "--resume"))
        self.assertEqual(code, 2, output)
        self.assertIn("no checkpoint in", output)
        for sets, words in [({"train__staleness": 2}, "staleness 0 (BSP)"),
                            ({"train__dense_sync": "MPI"}, "dense_sync SERVERS")]:
            code, output = cluster.run(self.command(self.workspace.new_run(), 1, 1, **sets))
            self.assertEqual(code, 2, output)
            self.assertIn(words, output)


if __name__ == "__main__":
    arguments = []
    left = sys.argv[1:]
    while left:
        name = left.pop(0)
        if name == "--rounds":
            ROUNDS = int(left.pop(0))
        elif name == "--seed":
            SEED = int(left.pop(0))
        else:
            arguments.append(name)
    unittest.main(argv=[sys.argv[0], *arguments], verbosity=2)
