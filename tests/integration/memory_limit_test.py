"""Endless distinct keys against cluster.memory_limit: a server's memory stays within it, whatever gives."""
import json
import threading
import unittest

import cluster

JOB = cluster.ROOT / "examples/criteo_fnn.textproto"
ROWS = 80000
LIMIT_MIB = 192  # Rows and index of all keys take twice as much.
OVER = 1.05


def write_data(path):
    """24 values a row that come once, and two that come back when their rows are on disk."""
    dense = "\t".join(["3"] * 13)
    fresh = 1 << 28
    with open(path, "w", encoding="ascii") as out:
        for row in range(ROWS):
            again = f"{row % (ROWS * 3 // 5):x}"
            values = "\t".join(f"{fresh + i:x}" for i in range(24))
            out.write(f"{row % 2}\t{dense}\t{values}\t{again}\t{again}\n")
            fresh += 24


class PeakMemory(threading.Thread):
    """VmHWM of a process, in bytes, until it is gone; it only rises, so the last look is the peak."""

    def __init__(self, pid):
        super().__init__()
        self.bytes = 0
        self._path = f"/proc/{pid}/status"
        self._gone = threading.Event()

    def run(self):
        while not self._gone.wait(0.005):
            try:
                with open(self._path, encoding="ascii") as status:
                    found = [line for line in status if line.startswith("VmHWM:")]
            except (FileNotFoundError, ProcessLookupError):
                return
            if not found:  # A zombie has no memory.
                return
            self.bytes = int(found[0].split()[1]) << 10

    def stop(self):
        self._gone.set()
        self.join()


class MemoryLimitTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.workspace = cluster.Workspace(rows=100, valid_rows=100, test_rows=100)
        write_data(cls.workspace.path / "endless.tsv")

    @classmethod
    def tearDownClass(cls):
        cls.workspace.close()

    def train(self, **sets):
        """(run, exit code, result, the table's report, output); the limit has held."""
        run = self.workspace.new_run()
        overrides = self.workspace.overrides(
            data__train=self.workspace.path / "endless.tsv", data__valid="", data__test="", train__ranks=2,
            train__batch_size=1024, model__hidden="8", cluster__memory_limit=f"{LIMIT_MIB}MiB", **sets)
        process = cluster.start(cluster.train_command(run, overrides, job=JOB))
        peak = PeakMemory(cluster.members(run, "server")[0]["pid"])
        peak.start()
        code, output = cluster.finish(process)
        peak.stop()
        print(f"{sets}: peak {peak.bytes / (1 << 20):.1f} MiB of {LIMIT_MIB}", flush=True)
        self.assertGreater(peak.bytes, 0.8 * (LIMIT_MIB << 20), "the job has to reach its limit")
        self.assertLessEqual(peak.bytes, OVER * (LIMIT_MIB << 20), output)
        table = json.loads((run / "servers/0.json").read_text())["tables"]["embedding"]
        self.check_balance(table, output)
        return run, code, cluster.result(run), table, output

    def check_balance(self, table, output):
        counters = table["counters"]
        evicted = sum(counters[name] for name in ("evicted_unseen", "evicted_limit", "evicted_memory"))
        self.assertEqual(counters["admitted"] + counters["restored"] - evicted, table["rows"], output)
        self.assertEqual(table["rows"], table["rows_in_memory"] + table["rows_on_disk"], output)
        self.assertTrue(table["balanced"], output)

    def check_model(self, run, table):
        """What was saved is what the server had."""
        code, out = cluster.run([str(cluster.BIN / "plexus"), "inspect", str(run), "--json"])
        self.assertEqual(code, 0, out)
        report = json.loads(out)
        self.assertEqual(report["notes"], [], out)
        of_model = report["tables"]["embedding"]
        self.assertEqual(of_model["rows"], table["rows"])
        self.check_balance(of_model["servers"], out)

    def test_rows_go_to_disk_and_the_limit_holds(self):
        run, code, result, table, output = self.train()
        self.assertEqual(code, 0, output)
        self.assertTrue(result["deterministic"], output)
        self.assertEqual(table["rows"], 24 * ROWS + 2 * (ROWS * 3 // 5), "no key is left without a row")
        self.assertGreater(table["rows_on_disk"], table["rows"] // 4)
        self.assertGreater(table["counters"]["thawed"], 0)
        self.check_model(run, table)

    def train_without_disk(self, policy):
        return self.train(cluster__spill="false", cluster__on_memory_limit=policy)

    def check_dependence(self, code, result, output):
        self.assertEqual(code, 0, output)
        self.assertFalse(result["deterministic"], output)
        self.assertIn("its rows do not go to disk", result["nondeterministic_because"])
        self.assertIn("the trained model depends on it", output)
        self.assertEqual(result["samples"], ROWS)

    def test_refuse_leaves_new_keys_without_rows(self):
        run, code, result, table, output = self.train_without_disk("REFUSE")
        self.check_dependence(code, result, output)
        self.assertGreater(table["counters"]["refused_memory"], 0)
        self.assertEqual(table["counters"]["evicted_memory"], 0)
        self.check_model(run, table)

    def test_evict_lets_the_oldest_rows_go(self):
        run, code, result, table, output = self.train_without_disk("EVICT")
        self.check_dependence(code, result, output)
        self.assertGreater(table["counters"]["evicted_memory"], 0)
        self.assertEqual(table["counters"]["refused_memory"], 0)
        self.check_model(run, table)

    def test_fail_ends_the_job_with_its_reason(self):
        _, code, result, table, output = self.train_without_disk("FAIL")
        self.assertEqual(code, 1, output)
        for words in ("server 0 holds", "cluster.memory_limit", "its rows do not go to disk"):
            self.assertIn(words, result["error"])
        self.assertLess(result["samples"], ROWS)
        self.assertEqual(table["counters"]["refused_memory"] + table["counters"]["evicted_memory"], 0)


if __name__ == "__main__":
    unittest.main(verbosity=2)
