"""What a user meets: bad jobs and flags are refused with 2, runs are not overwritten, models predict what they scored."""
import ctypes
import json
import math
import os
import pathlib
import signal
import socket
import subprocess
import time
import unittest

import cluster


class UsageTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.workspace = cluster.Workspace(rows=8000, valid_rows=2000, test_rows=2000)

    @classmethod
    def tearDownClass(cls):
        cls.workspace.close()

    def refuse(self, command, *words):
        code, output = cluster.run(command)
        self.assertEqual(code, 2, output)
        for word in words:
            self.assertIn(word, output)

    def local(self, run, **sets):
        return cluster.train_command(run, self.workspace.overrides(**sets), local=True)

    def test_servers_without_huge_pages_say_so_once(self):
        def switch_off():  # Children inherit it.
            pr_set_thp_disable = 41
            assert ctypes.CDLL(None).prctl(pr_set_thp_disable, 1, 0, 0, 0) == 0

        for local in (True, False):
            run = self.workspace.new_run()
            command = cluster.train_command(run, self.workspace.overrides(), local=local, servers=2)
            done = subprocess.run(command, preexec_fn=switch_off, capture_output=True, text=True, timeout=60,
                                  env={**os.environ, "PLEXUS_BIN": str(cluster.BIN)}, check=True)
            lines = [line for line in done.stderr.splitlines() if "no huge pages" in line]
            self.assertEqual(len(lines), 1 if local else 2, done.stderr)  # Once a process.
            for line in lines:
                self.assertRegex(line, "server [01]: no huge pages: .*What helps: ")

    def test_bad_flags_and_jobs_exit_with_2(self):
        run = self.workspace.new_run()
        plexus = str(cluster.BIN / "plexus")
        self.refuse([plexus, "train", "--no_such_flag=1"], "no_such_flag")
        self.refuse([plexus, "fly"], "plexus train")
        self.refuse([plexus, "train", "--job=/no/such/job"], "/no/such/job")
        self.refuse(self.local(run, train__ranks="many"), "train.ranks")
        self.refuse(self.local(run, model__name="nothing"), "deepfm")
        self.refuse(self.local(run, data__train="/no/such/data"), "/no/such/data")
        self.refuse(cluster.train_command(run, self.workspace.overrides(), workers=9), "workers")
        self.refuse(cluster.train_command(run, self.workspace.overrides(train__dense_sync="MPI")),
                    "mpirun")

    def test_a_run_is_not_overwritten(self):
        run = self.workspace.new_run()
        self.assertEqual(cluster.run(self.local(run))[0], 0)
        self.refuse(self.local(run), "--overwrite")
        self.assertEqual(cluster.run(self.local(run) + ["--overwrite"])[0], 0)

    def test_the_resolved_job_trains_the_same_model(self):
        first, second = self.workspace.new_run(), self.workspace.new_run()
        self.assertEqual(cluster.run(self.local(first))[0], 0)
        again = cluster.train_command(second, [], job=first / "job.textproto", local=True)
        code, output = cluster.run(again)
        self.assertEqual(code, 0, output)
        self.assertEqual(cluster.result(first)["model_digest"],
                         cluster.result(second)["model_digest"])

    def test_evaluate_and_predict_agree_with_the_run(self):
        run = self.workspace.new_run()
        self.assertEqual(cluster.run(self.local(run))[0], 0)
        result = cluster.result(run)
        test = self.workspace.data / "test.tsv"
        code, output = cluster.run([str(cluster.BIN / "plexus"), "evaluate", f"--run_dir={run}",
                                    f"--data={test}"])
        self.assertEqual(code, 0, output)
        figures = json.loads(output.splitlines()[-1])
        self.assertAlmostEqual(figures["auc"], result["test_auc"], places=12)
        out = self.workspace.path / "scores.txt"
        code, output = cluster.run([str(cluster.BIN / "plexus"), "predict", f"--run_dir={run}",
                                    f"--data={test}", f"--out={out}"])
        self.assertEqual(code, 0, output)
        scores = [float(line) for line in out.read_text().splitlines()]
        labels = [line.split("\t", 1)[0] == "1" for line in test.read_text().splitlines()]
        self.assertEqual(len(scores), len(labels))
        loss = -sum(math.log(s if y else 1 - s) for s, y in zip(scores, labels)) / len(scores)
        self.assertAlmostEqual(loss, result["test_logloss"], places=6)

    def test_a_damaged_model_is_named(self):
        run = self.workspace.new_run()
        self.assertEqual(cluster.run(self.local(run))[0], 0)
        victim = next(pathlib.Path(run).glob("model/best/*.model"))
        content = bytearray(victim.read_bytes())
        content[len(content) // 2] ^= 1
        victim.write_bytes(content)
        code, output = cluster.run([str(cluster.BIN / "plexus"), "evaluate", f"--run_dir={run}",
                                    f"--data={self.workspace.data / 'test.tsv'}"])
        self.assertEqual(code, 1, output)
        self.assertIn(victim.name, output)
        self.assertIn("offset", output)

    def test_bad_lines_are_counted_and_bounded(self):
        bad = self.workspace.path / "bad.tsv"
        lines = (self.workspace.data / "train.tsv").read_text().splitlines()
        lines[10] = "garbage"
        lines[20] = lines[20] + "\textra"
        bad.write_text("\n".join(lines) + "\n")
        code, output = cluster.run(self.local(self.workspace.new_run(), data__train=bad))
        self.assertEqual(code, 1, output)
        self.assertIn("bad.tsv:11", output)
        run = self.workspace.new_run()
        code, output = cluster.run(self.local(run, data__train=bad, data__max_bad_lines=2))
        self.assertEqual(code, 0, output)
        self.assertEqual(cluster.result(run)["bad_lines"], 2)
        self.assertEqual(cluster.result(run)["samples"], 7998)

    def test_a_failed_rank_ends_the_others_that_wait_for_its_gradients(self):
        bad = self.workspace.path / "bad_tail.tsv"
        bad.write_text((self.workspace.data / "train.tsv").read_text() + "garbage\n")
        code, output = cluster.run(self.local(self.workspace.new_run(), data__train=bad,
                                              train__dense_sync="MPI"), timeout=30)
        self.assertEqual(code, 1, output)
        self.assertIn("bad_tail.tsv", output)

    def test_a_server_needs_an_address_that_others_reach(self):
        self.refuse([str(cluster.BIN / "plexus-ps"), f"--job={cluster.JOB}",
                     "--scheduler=tcp://127.0.0.1:1", "--listen=tcp://0.0.0.0:0"], "--advertise")

    def test_a_fixed_http_port_is_the_schedulers(self):
        run = self.workspace.new_run()
        command = cluster.train_command(run, self.workspace.overrides(), servers=2, workers=1)
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        code, output = cluster.run(command + [f"--http_address=127.0.0.1:{port}"], timeout=60)
        self.assertEqual(code, 0, output)
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            command[3] = f"--run_dir={self.workspace.new_run()}"
            code, output = cluster.run(command + [f"--http_address=127.0.0.1:{port}"], timeout=60)
        self.assertEqual(code, 1, output)

    def test_an_interrupted_asp_run_counts_its_samples(self):
        run = self.workspace.new_run()
        command = cluster.train_command(run, self.workspace.overrides(
            train__staleness=-1, train__epochs=200, data__valid="", data__test=""))
        process = cluster.start(command)
        cluster.members(run, "worker")
        time.sleep(3)
        process.send_signal(signal.SIGTERM)
        code, output = cluster.finish(process, timeout=30)
        self.assertEqual(code, 0, output)
        self.assertTrue(cluster.result(run)["interrupted"])
        self.assertGreater(cluster.result(run)["samples"], 0)

    def test_early_stopping_and_epochs(self):
        run = self.workspace.new_run()
        code, output = cluster.run(self.local(run, train__epochs=30, train__early_stop_patience=2))
        self.assertEqual(code, 0, output)
        result = cluster.result(run)
        self.assertLess(result["samples"], 30 * 8000)
        self.assertEqual(result["samples"], (result["best_epoch"] + 2) * 8000)


if __name__ == "__main__":
    unittest.main(verbosity=2)
