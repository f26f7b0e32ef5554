"""checkpoint.durability: what is killed comes back, and the job ends with the bits of one that nothing happened to."""
import os
import pathlib
import signal
import subprocess
import time
import unittest

import cluster

FIGURES = ("model_digest", "version", "samples", "train_logloss", "valid_auc", "test_auc", "best_epoch")


def figures(run):
    result = cluster.result(run)
    return {name: result[name] for name in FIGURES}


def kill_all(process):
    """SIGKILL to every process of the job; returns when all are gone."""
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=20)  # The pipe closes when its last holder is gone.


def wait_for_steps(run, bytes_min=1 << 16, timeout=60):
    """Until the scheduler's log says that steps were committed."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if sum(path.stat().st_size for path in pathlib.Path(run).glob("log/*/*.log")) >= bytes_min:
            return
        time.sleep(0.02)
    raise AssertionError(f"no steps were logged within {timeout} s")


class FailoverTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.workspace = cluster.Workspace(rows=40000)
        run = cls.workspace.new_run()
        code, output = cluster.run(cls.command(run, "NONE"))
        assert code == 0, output
        cls.undisturbed = figures(run)

    @classmethod
    def tearDownClass(cls):
        cls.workspace.close()

    @classmethod
    def command(cls, run, durability, *flags, make=cluster.train_command, servers=2, workers=2, **sets):
        local = {"local": True} if sets.pop("local", False) else {}
        overrides = cls.workspace.overrides(train__batch_size=256, checkpoint__durability=durability, **sets)
        return make(run, overrides + list(flags), servers=servers, workers=workers, **local)

    def start(self, durability, **more):
        run = self.workspace.new_run()
        process = cluster.start(self.command(run, durability, **more))
        wait_for_steps(run)
        self.assertFalse((run / "result.json").exists(), "the job was faster than the test")
        return run, process

    def finish(self, run, process):
        code, output = cluster.finish(process)
        self.assertEqual(code, 0, output)
        self.assertEqual(figures(run), self.undisturbed, output)
        return output

    def check_kill(self, role, durability, **more):
        run, process = self.start(durability, **more)
        victim = cluster.members(run, role)[-1]
        os.kill(victim["pid"], signal.SIGKILL)
        self.finish(run, process)
        return run

    def test_a_killed_server_comes_back_async(self):
        run = self.check_kill("server", "ASYNC")
        self.assertEqual(cluster.result(run)["server_deaths"], 1)

    def test_a_killed_server_comes_back_sync(self):
        self.check_kill("server", "SYNC")

    def test_a_killed_server_comes_back_to_a_checkpoint_and_its_log(self):
        self.check_kill("server", "ASYNC", checkpoint__every_steps=7)

    def test_a_killed_scheduler_comes_back_async(self):
        self.check_kill("scheduler", "ASYNC")

    def test_a_killed_scheduler_comes_back_sync(self):
        self.check_kill("scheduler", "SYNC", checkpoint__every_steps=7)

    def test_a_killed_worker_comes_back(self):
        self.check_kill("worker", "ASYNC")
        self.check_kill("worker", "SYNC")

    def test_everything_killed_goes_on_with_resume(self):
        for durability in ("ASYNC", "SYNC"):
            run, process = self.start(durability)
            kill_all(process)
            process = cluster.start(self.command(run, durability, "--resume"))
            self.finish(run, process)
            self.assertGreater(cluster.result(run)["resumed_from"], 0)

    def test_everything_killed_goes_on_with_other_numbers_of_processes(self):
        run, process = self.start("ASYNC", checkpoint__every_steps=7)
        kill_all(process)
        process = cluster.start(self.command(run, "ASYNC", "--resume", servers=3, workers=1, checkpoint__every_steps=7))
        self.finish(run, process)

    def test_under_mpirun_server_and_scheduler_come_back(self):
        self.check_kill("server", "ASYNC", make=cluster.mpirun_command)
        self.check_kill("scheduler", "SYNC", make=cluster.mpirun_command)

    def test_one_process_goes_on_with_resume(self):
        run, process = self.start("ASYNC", local=True)
        kill_all(process)
        process = cluster.start(self.command(run, "ASYNC", "--resume", local=True))
        self.finish(run, process)
        self.assertGreater(cluster.result(run)["resumed_from"], 0)

    def test_without_durability_a_killed_server_ends_the_job_with_3(self):
        run = self.workspace.new_run()
        process = cluster.start(self.command(run, "NONE"))
        cluster.wait_for_version(run, 5)
        os.kill(cluster.members(run, "server")[0]["pid"], signal.SIGKILL)
        code, output = cluster.finish(process, timeout=40)
        self.assertEqual(code, 3, output)
        self.assertIn("server 0", cluster.result(run)["error"])
        self.assertFalse((run / "log").exists())

    def test_what_cannot_be_durable_is_refused_with_a_sentence(self):
        for sets, words in [({"train__staleness": 2}, "durability needs staleness 0 (BSP)"),
                            ({"train__dense_sync": "MPI"}, "durability needs dense_sync SERVERS")]:
            code, output = cluster.run(self.command(self.workspace.new_run(), "ASYNC", **sets))
            self.assertEqual(code, 2, output)
            self.assertIn(words, output)

    def test_a_second_job_in_a_directory_in_use_is_refused(self):
        run, process = self.start("ASYNC")
        for flag in ("--resume", "--overwrite"):
            second = cluster.start(self.command(run, "ASYNC", flag))
            output, _ = second.communicate(timeout=60)
            if process.poll() is not None:
                break  # It was over before the second one gave up waiting.
            self.assertEqual(second.returncode, 2, output)
            self.assertIn(f"a job is running in {run}", output)
        self.finish(run, process)


if __name__ == "__main__":
    unittest.main(verbosity=2)
