"""Rows on a disk that is full, or damaged, under a running server: said, counted, and nothing is lost in silence."""
import json
import os
import pathlib
import signal
import subprocess
import time
import unittest
import urllib.request

import cluster

JOB = cluster.ROOT / "examples/criteo_fnn.textproto"
ROWS = 60000
EPOCHS = 3
LIMIT = "128MiB"  # Half of what the rows need.
DISK_MIB = 48     # Less than the other half.


def write_data(path):
    """Every value once an epoch: rows that went to disk are needed again."""
    dense = "\t".join(["3"] * 13)
    with open(path, "w", encoding="ascii") as out:
        for row in range(ROWS):
            values = "\t".join(f"{(1 << 28) + 26 * row + i:x}" for i in range(26))
            out.write(f"{row % 2}\t{dense}\t{values}\n")


class ColdDiskTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.workspace = cluster.Workspace(rows=100, valid_rows=100, test_rows=100)
        write_data(cls.workspace.path / "train.tsv")

    @classmethod
    def tearDownClass(cls):
        cls.workspace.close()

    def start(self, **sets):
        run = self.workspace.new_run()
        overrides = self.workspace.overrides(**{
            "data__train": self.workspace.path / "train.tsv", "data__valid": "", "data__test": "",
            "train__ranks": 2, "train__epochs": EPOCHS, "train__batch_size": 1024, "model__hidden": "8",
            "cluster__memory_limit": LIMIT, **sets})
        return run, cluster.start(cluster.train_command(run, overrides, job=JOB) + ["--http_address=127.0.0.1:0"])

    def mount(self):
        """A file system of its own, of DISK_MIB."""
        place = pathlib.Path(self.workspace.new_run())
        place.mkdir()
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m", "tmpfs", place],
                              capture_output=True, text=True, check=False)
        if done.returncode != 0:
            self.skipTest(f"no right to mount a small file system here: {done.stderr.strip()}")
        self.addCleanup(subprocess.run, ["umount", "-l", place], check=True)
        return place

    def metric(self, run, name):
        """The server's; 0: not there."""
        address = cluster.members(run, "server")[0]["http"]
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as page:
            for line in page.read().decode().splitlines():
                if line.startswith(name):
                    return float(line.split()[-1])
        return 0.0

    def await_metric(self, run, name, process, at_least=1.0, timeout=60):
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline and process.poll() is None:
            try:
                if self.metric(run, name) >= at_least:
                    return
            except OSError:  # It is about to end.
                pass
            time.sleep(0.02)
        code, output = cluster.finish(process, timeout=timeout)
        self.fail(f"{name} did not come to {at_least}; exit code {code}: {output}")

    WRITE_ERRORS = 'plexus_ps_cold_errors_total{op="write"'

    def check_nothing_is_lost(self, run, output):
        table = json.loads((run / "servers/0.json").read_text())["tables"]["embedding"]
        counters = table["counters"]
        self.assertTrue(table["balanced"], output)
        self.assertEqual(counters["admitted"] - counters["evicted_memory"], table["rows"])
        code, out = cluster.run([str(cluster.BIN / "plexus"), "inspect", str(run), "--json"])
        self.assertEqual(code, 0, out)
        self.assertEqual(json.loads(out)["notes"], [], out)
        self.assertEqual(json.loads(out)["tables"]["embedding"]["rows"], table["rows"])
        return table

    def test_a_full_disk_is_said_counted_and_handled_as_declared(self):
        for policy, counter in (("REFUSE", "refused_memory"), ("EVICT", "evicted_memory")):
            with self.subTest(policy):
                run, process = self.start(cluster__spill_dir=self.mount(), cluster__on_memory_limit=policy)
                self.await_metric(run, self.WRITE_ERRORS, process)
                self.await_metric(run, "plexus_ps_memory_emergencies_total", process)
                code, output = cluster.finish(process)
                self.assertEqual(code, 0, output)
                self.assertIn("rows could not be written to disk and stay in memory", output)
                self.assertIn("No space left on device", output)
                result = cluster.result(run)
                self.assertFalse(result["deterministic"], output)
                self.assertIn("its rows cannot go to disk", result["nondeterministic_because"])
                self.assertIn("No space left on device", result["nondeterministic_because"])
                self.assertEqual(result["samples"], ROWS * EPOCHS)
                table = self.check_nothing_is_lost(run, output)
                self.assertGreater(table["counters"][counter], 0)

    def test_a_full_disk_ends_the_job_if_that_is_declared(self):
        run, process = self.start(cluster__spill_dir=self.mount(), cluster__on_memory_limit="FAIL")
        code, output = cluster.finish(process)
        self.assertEqual(code, 1, output)
        self.assertIn("its rows cannot go to disk", cluster.result(run)["error"])
        self.assertIn("No space left on device", cluster.result(run)["error"])

    def test_rows_go_to_disk_again_when_there_is_room(self):
        place = self.mount()
        ballast = place / "ballast"
        ballast.write_bytes(bytes((DISK_MIB - 2) << 20))
        run, process = self.start(cluster__spill_dir=place, cluster__on_memory_limit="REFUSE",
                                  train__epochs=2)
        self.await_metric(run, self.WRITE_ERRORS, process)
        worker = cluster.members(run, "worker")[0]["pid"]
        os.kill(worker, signal.SIGSTOP)
        # While compactions run, files take some times what their rows do.
        subprocess.run(["mount", "-o", "remount,size=1536m", place], check=True)
        ballast.unlink()
        time.sleep(2.5)  # It is tried again every two seconds, if there is something to do.
        os.kill(worker, signal.SIGCONT)
        code, output = cluster.finish(process)
        self.assertEqual(code, 0, output)
        self.assertIn("rows go to disk again", output)
        table = self.check_nothing_is_lost(run, output)
        self.assertGreater(table["counters"]["spilled"], 0)

    def test_damaged_rows_end_the_job(self):
        run, process = self.start()
        self.await_metric(run, 'plexus_ps_cold_rows_total{op="write"', process, at_least=100000)
        server = cluster.members(run, "server")[0]["pid"]
        os.kill(server, signal.SIGSTOP)
        damaged = 0
        for path in (run / "cold/server-0/rows").glob("*.sst"):
            with open(path, "r+b") as file:
                for at in range(1000, path.stat().st_size - 8192, 4096):  # In every block of rows.
                    file.seek(at)
                    byte = file.read(1)[0]
                    file.seek(at)
                    file.write(bytes([byte ^ 16]))
                    damaged += 1
        os.kill(server, signal.SIGCONT)
        self.assertGreater(damaged, 0)
        code, output = cluster.finish(process)
        self.assertEqual(code, 1, output)
        error = cluster.result(run)["error"]
        for words in ("table embedding", "could not be read back from disk", ".sst"):
            self.assertIn(words, error)


if __name__ == "__main__":
    unittest.main(verbosity=2)
