"""One job, the same model bit for bit: local, processes, mpirun; any number of servers and workers."""
import unittest

import cluster


class SameBitsTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.workspace = cluster.Workspace()

    @classmethod
    def tearDownClass(cls):
        cls.workspace.close()

    def digest(self, make_command, servers, workers, **sets):
        run = self.workspace.new_run()
        command = make_command(run, self.workspace.overrides(**sets), servers=servers,
                               workers=workers)
        code, output = cluster.run(command)
        self.assertEqual(code, 0, output)
        result = cluster.result(run)
        self.assertTrue(result["deterministic"])
        self.assertEqual(len(result["model_digest"]), 32)
        self.assertEqual(result["samples"], 20000)
        return result["model_digest"]

    @staticmethod
    def local(run, overrides, **counts):
        return cluster.train_command(run, overrides, local=True, **counts)

    def check(self, starts, **sets):
        digests = {}
        for make, servers, workers in starts:
            name = f"{make.__name__} {servers} server(s) {workers} worker(s)"
            digests[name] = self.digest(make, servers, workers, **sets)
        self.assertEqual(len(set(digests.values())), 1, digests)
        return next(iter(digests.values()))

    def test_bsp(self):
        starts = [(self.local, 1, 1), (self.local, 2, 2), (cluster.train_command, 1, 4),
                  (cluster.mpirun_command, 1, 1), (cluster.mpirun_command, 2, 2),
                  (cluster.mpirun_command, 3, 1)]
        on_servers = self.check(starts)
        over_mpi = self.check([s for s in starts if s[0] is not cluster.train_command],
                              train__dense_sync="MPI")
        self.assertEqual(on_servers, over_mpi)
        self.assertNotEqual(on_servers, self.digest(self.local, 1, 1, train__seed=2))

    def test_deterministic_ssp(self):
        sets = {"train__staleness": 1, "train__deterministic": "true"}
        ssp = self.check([(self.local, 1, 1), (self.local, 2, 2), (cluster.train_command, 1, 4),
                          (cluster.mpirun_command, 3, 1)], **sets)
        self.assertNotEqual(ssp, self.digest(self.local, 1, 1))

    def test_mpirun_counts_hold(self):
        run = self.workspace.new_run()
        command = cluster.mpirun_command(
            run, self.workspace.overrides(cluster__servers=3), servers=2, workers=1)
        code, output = cluster.run(command)
        self.assertEqual(code, 2, output)
        self.assertIn("contradicts mpirun", output)


if __name__ == "__main__":
    unittest.main(verbosity=2)
