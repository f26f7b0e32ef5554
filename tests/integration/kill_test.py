"""SIGKILL of real processes: a worker is replaced and the bits stay; a server or scheduler ends the job with 3.

usage: kill_test.py [--rounds N] [--seed N] [unittest arguments]
"""
import os
import random
import signal
import sys
import time
import unittest

import cluster

ROUNDS = 3
SEED = 1


class KillTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.workspace = cluster.Workspace(rows=60000)
        run = cls.workspace.new_run()
        code, output = cluster.run(cluster.train_command(run, cls.overrides(), servers=2, workers=2))
        assert code == 0, output
        cls.undisturbed = cluster.result(run)
        cls.seconds = cls.undisturbed["seconds"]

    @classmethod
    def tearDownClass(cls):
        cls.workspace.close()

    @classmethod
    def overrides(cls):
        return cls.workspace.overrides(train__batch_size=256)

    def start(self):
        run = self.workspace.new_run()
        process = cluster.start(
            cluster.train_command(run, self.overrides(), servers=2, workers=2))
        return run, process

    def test_a_killed_worker_is_replaced_and_the_bits_stay(self):
        draw = random.Random(SEED)
        too_late = 0
        for round_number in range(ROUNDS):
            run, process = self.start()
            workers = cluster.members(run, "worker")
            moment = draw.uniform(0, 0.7) * self.seconds
            time.sleep(moment)
            victim = draw.choice(workers)
            try:
                os.kill(victim["pid"], signal.SIGKILL)
            except ProcessLookupError:  # The job was faster than the undisturbed one.
                cluster.finish(process)
                too_late += 1
                continue
            code, output = cluster.finish(process)
            where = f"round {round_number} seed {SEED} moment {moment:.3f} s: {output}"
            self.assertEqual(code, 0, where)
            result = cluster.result(run)
            self.assertEqual(result["model_digest"], self.undisturbed["model_digest"], where)
            self.assertEqual(result["samples"], self.undisturbed["samples"], where)
            print(f"round {round_number}: killed worker {victim['index']} after {moment:.3f} s, "
                  f"deaths counted {result['worker_deaths']}, digest {result['model_digest']}",
                  flush=True)
        self.assertLess(too_late, ROUNDS)

    def kill_one(self, role):
        run, process = self.start()
        cluster.wait_for_version(run, 5)
        victim = cluster.members(run, role)[-1]
        os.kill(victim["pid"], signal.SIGKILL)
        began = time.monotonic()
        code, output = cluster.finish(process, timeout=40)
        self.assertLess(time.monotonic() - began, 30)
        self.assertEqual(code, 3, output)
        return run, victim, output

    def test_a_killed_server_ends_the_job_with_3_and_is_named(self):
        run, victim, _ = self.kill_one("server")
        self.assertIn(f"server {victim['index']}", cluster.result(run)["error"])
        self.assertIn("lost", cluster.result(run)["error"])

    def test_a_killed_scheduler_ends_the_job_with_3_and_is_named(self):
        run, _, output = self.kill_one("scheduler")
        self.assertIn("scheduler", output)
        for role in ("server", "worker"):
            for member in cluster.members(run, role):
                self.assertFalse(cluster.alive(member["pid"]), f"{role} {member} lives on")

    def test_a_killed_worker_under_mpirun_is_replaced(self):
        run = self.workspace.new_run()
        process = cluster.start(
            cluster.mpirun_command(run, self.overrides(), servers=2, workers=2))
        cluster.wait_for_version(run, 5)
        os.kill(cluster.members(run, "worker")[0]["pid"], signal.SIGKILL)
        code, output = cluster.finish(process)
        self.assertEqual(code, 0, output)
        self.assertEqual(cluster.result(run)["model_digest"], self.undisturbed["model_digest"])

    def test_a_killed_server_under_mpirun_ends_the_job_with_3(self):
        run = self.workspace.new_run()
        process = cluster.start(
            cluster.mpirun_command(run, self.overrides(), servers=2, workers=2))
        cluster.wait_for_version(run, 5)
        os.kill(cluster.members(run, "server")[0]["pid"], signal.SIGKILL)
        code, output = cluster.finish(process, timeout=60)
        self.assertEqual(code, 3, output)
        self.assertIn("server", cluster.result(run)["error"])

    def test_sigint_finishes_the_step_and_says_so(self):
        run, process = self.start()
        cluster.wait_for_version(run, 5)
        process.send_signal(signal.SIGINT)
        code, output = cluster.finish(process, timeout=30)
        self.assertEqual(code, 0, output)
        result = cluster.result(run)
        self.assertTrue(result["interrupted"])
        self.assertLess(result["samples"], self.undisturbed["samples"])


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
