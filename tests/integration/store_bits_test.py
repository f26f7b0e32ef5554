"""Tables of every kind, rows on disk or not: the same model bit for bit at any cluster size and any memory limit that only spills."""
import json
import unittest

import cluster

JOB = cluster.ROOT / "examples/criteo_store.textproto"
# Scaled to the small data.
SMALL = {"cluster__buckets": 64, "tables__limited__max_rows": 128,
         "tables__frequent__eviction__unseen_versions": 8,
         "tables__frequent__eviction__sweep_versions": 4}
# Servers of one process share it: the limit counts tables and frames only, and this one is too small for the rows.
SPILLS = {"cluster__memory_limit": "9600KiB"}


class StoreBitsTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.workspace = cluster.Workspace(cardinality=200000)

    @classmethod
    def tearDownClass(cls):
        cls.workspace.close()

    def train(self, command, servers, workers, **sets):
        run = self.workspace.new_run()
        arguments = {"job": JOB, "servers": servers, "workers": workers}
        if command is None:
            command, arguments["local"] = cluster.train_command, True
        code, output = cluster.run(command(run, self.workspace.overrides(**SMALL, **sets), **arguments))
        self.assertEqual(code, 0, output)
        result = cluster.result(run)
        self.assertTrue(result["deterministic"], output)
        tables = [json.loads((run / f"servers/{s}.json").read_text())["tables"]
                  for s in range(servers)]
        total = {}
        for table in [t for server in tables for t in server.values()]:
            for name, count in table["counters"].items():
                total[name] = total.get(name, 0) + count
        return result["model_digest"], total

    def test_any_cluster_any_limit(self):
        digest, plain = self.train(None, 1, 1)
        self.assertEqual(plain["spilled"], 0)
        for name in ("admitted", "refused_admission", "evicted_unseen", "evicted_limit", "promoted"):
            self.assertGreater(plain[name], 0, f"the job has to try {name}: {plain}")
        for command, servers, workers, sets in [
                (None, 2, 2, {}), (cluster.train_command, 2, 1, {}),
                (cluster.mpirun_command, 3, 1, {}), (None, 1, 1, SPILLS), (None, 1, 4, SPILLS)]:
            other, counters = self.train(command, servers, workers, **sets)
            what = f"{command} {servers} server(s) {workers} worker(s) {sets}"
            self.assertEqual(other, digest, what)
            for name in ("admitted", "evicted_unseen", "evicted_limit", "promoted", "demoted",
                         "refused_admission"):
                self.assertEqual(counters[name], plain[name], f"{what}: {name}")
            self.assertEqual(counters["spilled"] > 0, bool(sets), what)


if __name__ == "__main__":
    unittest.main(verbosity=2)
