"""A batch whose gradients overflow: the job goes on as if its rank had had nothing in that step, and names the rank."""
import json
import unittest

import cluster

# Row 7000 of 20000 belongs to rank 1 of 4: ranks read equal byte ranges.
ROW = 7000
HUGE = "3e38"
JOB = cluster.ROOT / "examples/criteo_dcn.textproto"


class VoidPushTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.workspace = cluster.Workspace(valid_rows=1000, test_rows=1000)
        path = cls.workspace.data / "train.tsv"
        lines = path.read_text().splitlines(keepends=True)
        columns = lines[ROW].split("\t")
        lines[ROW] = "\t".join([columns[0]] + [HUGE] * 13 + columns[14:])
        path.write_text("".join(lines))

    @classmethod
    def tearDownClass(cls):
        cls.workspace.close()

    def train(self, make_command, servers, workers, local=False, **sets):
        # Without a transform a cross layer multiplies two such numbers.
        sets = {"data__fields__I*__transform": "IDENTITY", **sets}
        run = self.workspace.new_run()
        extra = {"local": True} if local else {}
        command = make_command(run, self.workspace.overrides(**sets), JOB, servers=servers,
                               workers=workers, **extra)
        code, output = cluster.run(command)
        self.assertEqual(code, 0, output)
        result = cluster.result(run)
        self.assertEqual(result["void_pushes"], 1)
        self.assertEqual(result["void_pushes_by_rank"], {"1": 1})
        self.assertEqual(result["samples"], 20000 - 128, "the batch's samples do not count")
        self.assertIsNotNone(result["valid_auc"])
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        named = [line for line in lines if line["event"] == "void_push"]
        self.assertEqual([line["rank"] for line in named], [1])
        self.assertIn("rank 1 has gradients that are not finite", output)
        return result

    def test_the_same_bits_on_any_cluster(self):
        starts = [(1, 1, True), (2, 2, False), (3, 1, True)]
        for sets in ({}, {"train__push_precision": "INT8", "train__clip_value": 0.01}):
            results = [self.train(cluster.train_command, servers, workers, local, **sets)
                       for servers, workers, local in starts]
            self.assertTrue(all(result["deterministic"] for result in results))
            digests = {result["model_digest"] for result in results}
            self.assertEqual(len(digests), 1, digests)

    def test_it_stays_out_of_the_reduction(self):
        on_servers = self.train(cluster.train_command, 1, 1, True)
        over_mpi = self.train(cluster.mpirun_command, 2, 2, train__dense_sync="MPI")
        self.assertEqual(on_servers["model_digest"], over_mpi["model_digest"])

    def test_staleness(self):
        sets = {"train__staleness": 1, "train__deterministic": "true"}
        digests = {self.train(cluster.train_command, servers, 1, True, **sets)["model_digest"]
                   for servers in (1, 2)}
        self.assertEqual(len(digests), 1, digests)
        self.train(cluster.train_command, 2, 2, True, train__staleness=-1)


if __name__ == "__main__":
    unittest.main(verbosity=2)
