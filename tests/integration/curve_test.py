"""Keys: an encrypted job trains the same bits; who has no known key does not get in; keys are not overwritten."""
import json
import pathlib
import re
import signal
import socket
import stat
import unittest
import urllib.request

import cluster

NAMES = "scheduler,server,worker"


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class CurveTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.workspace = cluster.Workspace()
        cls.keys = cls.make_keys("keys")

    @classmethod
    def tearDownClass(cls):
        cls.workspace.close()

    @classmethod
    def make_keys(cls, name):
        directory = cls.workspace.path / name
        code, output = cls.keygen(directory)
        assert code == 0, output
        return directory

    @staticmethod
    def keygen(directory, names=NAMES):
        return cluster.run([str(cluster.BIN / "plexus"), "keygen", f"--out={directory}", f"--names={names}"])

    def train(self, make_command, *flags, **counts):
        run = self.workspace.new_run()
        code, output = cluster.run(make_command(run, self.workspace.overrides(), **counts) + list(flags))
        self.assertEqual(code, 0, output)
        return cluster.result(run)["model_digest"]

    def role(self, program, run, port, keys, *flags):
        """Starts a role program by hand, as in a cluster without MPI; it is ended with the test."""
        address = "--listen" if program == "scheduler" else "--scheduler"
        process = cluster.start(
            [str(cluster.BIN / f"plexus-{program}"), f"--job={cluster.JOB}", f"--run_dir={run}",
             f"{address}=tcp://127.0.0.1:{port}", *([f"--curve_dir={keys}"] if keys else []), *flags,
             *self.workspace.overrides(cluster__servers=1, cluster__workers=1)])
        self.addCleanup(self.end, process)
        return process

    @staticmethod
    def end(process):
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        process.communicate()

    def test_same_bits(self):
        keys = f"--curve_dir={self.keys}"
        plain = self.train(cluster.train_command, workers=2)
        self.assertEqual(plain, self.train(cluster.train_command, keys, servers=2, workers=2))
        self.assertEqual(plain, self.train(cluster.mpirun_command, keys, servers=2, workers=1))
        self.assertEqual(plain, self.train(cluster.mpirun_command, keys, "--set=train.dense_sync=MPI",
                                           servers=1, workers=2))

    def test_strangers_do_not_get_in(self):
        foreign = self.make_keys("foreign")
        # Knows the scheduler's public key; nobody knows its own.
        half = self.make_keys("half")
        for name in ("scheduler", "server"):
            (half / f"{name}.public").write_text((self.keys / f"{name}.public").read_text())
        run, port, data_port = self.workspace.new_run(), free_port(), free_port()
        http = free_port()
        scheduler = self.role("scheduler", run, port, self.keys, f"--http_address=127.0.0.1:{http}")
        server = self.role("ps", run, port, self.keys, f"--listen=tcp://127.0.0.1:{data_port}", "--index=0")
        cluster.members(run, "server")
        strangers = {
            "foreign": self.role("worker", self.workspace.path / "a", port, foreign, "--index=0"),
            "half": self.role("worker", self.workspace.path / "b", port, half, "--index=0"),
            "server": self.role("ps", self.workspace.path / "c", port, foreign, "--index=0",
                                f"--listen=tcp://127.0.0.1:{free_port()}"),
        }
        without = self.role("worker", self.workspace.path / "d", port, None, "--index=0")
        for name, process in strangers.items():
            with self.subTest(stranger=name):
                code, output = cluster.finish(process, 60)
                self.assertEqual(code, 3, output)
                self.assertIn("--curve_dir", output)
                self.assertIn("tcp://127.0.0.1", output)
        members = json.loads((run / "members.json").read_text())
        self.assertEqual([member["role"] for member in members], ["scheduler", "server"])
        with urllib.request.urlopen(f"http://127.0.0.1:{http}/metrics", timeout=10) as page:
            count = re.search(r"plexus_scheduler_connections_refused_total (\d+)", page.read().decode())
        self.assertGreaterEqual(float(count[1]), len(strangers))
        # Nothing has begun.
        code, output = cluster.finish(scheduler, 90)
        self.assertEqual(code, 3, output)
        self.assertIn("worker 0 is not there", output)
        self.assertIn("--curve_dir", output)
        self.assertIn("refused a connection", output)
        self.assertEqual(cluster.finish(server, 30)[0], 3)
        code, output = cluster.finish(without, 90)
        self.assertEqual(code, 3, output)
        self.assertIn("--curve_dir", output)

    def test_key_files(self):
        self.assertEqual(stat.S_IMODE((self.keys / "worker.secret").stat().st_mode), 0o600)
        before = (self.keys / "worker.secret").read_text()
        code, output = self.keygen(self.keys, "worker")
        self.assertEqual(code, 2, output)
        self.assertIn("never overwritten", output)
        self.assertEqual((self.keys / "worker.secret").read_text(), before)
        self.assertNotIn(before.strip(), output)
        self.assertEqual(self.keygen(self.workspace.path / "none", "")[0], 2)
        broken = self.make_keys("broken")
        (broken / "server.secret").write_text("short\n")
        run = self.workspace.new_run()
        for keys, word in ((broken, "server.secret"), (self.workspace.path / "absent", "absent")):
            command = cluster.train_command(run, self.workspace.overrides()) + [f"--curve_dir={keys}"]
            code, output = cluster.run(command)
            self.assertEqual(code, 2, output)
            self.assertIn(word, output)
            self.assertFalse(pathlib.Path(run).exists())
        code, output = cluster.run(
            cluster.train_command(run, self.workspace.overrides(), local=True) + [f"--curve_dir={self.keys}"])
        self.assertEqual(code, 2, output)
        self.assertIn("--local", output)


if __name__ == "__main__":
    unittest.main(verbosity=2)
