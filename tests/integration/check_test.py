"""plexus fsck, diff, dump: on models that real jobs saved, whole and damaged."""
import random
import shutil
import subprocess
import unittest

import cluster

PLEXUS = str(cluster.BIN / "plexus")


def plexus(*arguments):
    """(exit code, stdout, stderr)."""
    done = subprocess.run([PLEXUS, *map(str, arguments)], capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout, done.stderr


class CheckTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        """The same job on one server, on two, and with another seed."""
        cls.workspace = cluster.Workspace(rows=8000, valid_rows=1000, test_rows=1000, cardinality=4000)
        cls.runs = []
        for servers, seed in ((1, 1), (2, 1), (2, 2)):
            run = cls.workspace.new_run()
            overrides = cls.workspace.overrides(model__hidden="16", train__seed=seed) + [
                "--set", "tables.embedding.dim=4", "--set", "tables.embedding.precision=INT8"]
            code, output = cluster.run(
                cluster.train_command(run, overrides, servers=servers, workers=1, local=True))
            assert code == 0, output
            cls.runs.append(run)

    @classmethod
    def tearDownClass(cls):
        cls.workspace.close()

    def copy(self):
        run = self.workspace.new_run()
        shutil.copytree(self.runs[1], run)
        return run

    def test_whole_models_are_clean(self):
        for place in ("", "model/best", "model/final"):
            code, out, err = plexus("fsck", self.runs[1] / place)
            self.assertEqual((code, err), (0, ""), out)
            self.assertEqual(out.count(": clean;"), 1 if place else 2, out)

    def test_fsck_needs_no_job(self):
        run = self.copy()
        (run / "job.textproto").unlink()
        self.assertEqual(plexus("fsck", run)[0], 0)

    def test_every_damage_is_named(self):
        run = self.copy()
        draws = random.Random(7)
        for file in sorted((run / "model/final").iterdir()):
            content = file.read_bytes()
            for _ in range(20):
                damaged = bytearray(content)
                at = draws.randrange(len(damaged))
                damaged[at] ^= 1 << draws.randrange(8)
                file.write_bytes(damaged)
                code, out, _ = plexus("fsck", run)
                self.assertEqual(code, 1, f"{file.name}: byte {at}")
                self.assertIn(f"{file} at offset ", out)
            file.write_bytes(content[:len(content) // 2])
            self.assertIn(f"{file} at offset ", plexus("fsck", run)[1])
            file.unlink()
            code, out, _ = plexus("fsck", run)
            self.assertEqual(code, 1)
            self.assertIn(f"{file}: missing", out)
            file.write_bytes(content)
        (run / "model/final/left.over").write_text("")
        code, out, _ = plexus("fsck", run)
        self.assertEqual(code, 0, out)
        self.assertIn("left.over: extra", out)

    def test_where_there_is_no_model(self):
        for command in (["fsck"], ["dump", "--table=linear"]):
            code, _, err = plexus(command[0], self.workspace.data, *command[1:])
            self.assertEqual(code, 1)
            self.assertIn("no saved model", err)
        self.assertEqual(plexus("diff", self.runs[0], self.workspace.data)[0], 2)

    def test_diff(self):
        code, out, err = plexus("diff", self.runs[0], self.runs[1])
        self.assertEqual(code, 0, out + err)
        self.assertTrue(out.endswith("equal\n"), out)
        code, out, _ = plexus("diff", self.runs[1] / "model/final", self.runs[2] / "model/final", "--top=3")
        self.assertEqual(code, 1)
        self.assertTrue(out.endswith("different\n"), out)
        self.assertIn("largest difference", out)
        self.assertEqual(out.count("  key "), 6, "three of each table")
        self.assertIn("dense ", out)
        (self.copy() / "job.textproto").rename(self.workspace.path / "elsewhere")
        code, _, err = plexus("diff", self.runs[0], self.workspace.path / f"run{self.workspace._runs}")
        self.assertEqual(code, 2)
        self.assertIn("job.textproto", err)

    def test_dump(self):
        rows = cluster.result(self.runs[1])["tables"]["embedding"]["rows"]
        code, out, err = plexus("dump", self.runs[1], "--which=final", "--table=embedding", "--sorted", "--header")
        self.assertEqual(code, 0, err)
        lines = out.splitlines()
        self.assertEqual(lines[0].split("\t")[:4], ["key", "last_step", "count", "value0"])
        keys = [int(line.split("\t")[0]) for line in lines[1:]]
        self.assertEqual(len(keys), rows)
        self.assertEqual(keys, sorted(set(keys)))
        unsorted = plexus("dump", self.runs[0], "--which=final", "--table=embedding")[1].splitlines()
        self.assertEqual(sorted(unsorted), sorted(lines[1:]), "whatever the number of servers")
        key = keys[len(keys) // 2]
        for text in (str(key), hex(key)):
            code, out, _ = plexus("dump", self.runs[1], "--which=final", "--table=embedding", f"--key={text}")
            self.assertEqual((code, out), (0, lines[1 + len(keys) // 2] + "\n"))
        code, out, err = plexus("dump", self.runs[1], "--table=embedding", "--key=3")
        self.assertEqual((code, out), (1, ""))
        self.assertIn("no row of key 3", err)
        code, _, err = plexus("dump", self.runs[1], "--table=nothing")
        self.assertEqual(code, 1)
        self.assertIn("embedding, linear", err)
        self.assertEqual(plexus("dump", self.runs[1], "--table=linear", "--key=x")[0], 2)

    def test_help_explains(self):
        for command in ("fsck", "diff", "dump"):
            code, out, _ = plexus(command, "--help")
            self.assertEqual(code, 0)
            self.assertIn(f"plexus {command}", out)
            self.assertIn("Exit codes:", out)


if __name__ == "__main__":
    unittest.main(verbosity=2)
