"""plexus inspect: what a run's servers said and what its model holds add up, field by field; bad runs are refused."""
import json
import pathlib
import shutil
import subprocess
import unittest

import cluster

PLEXUS = str(cluster.BIN / "plexus")
ROWS_MAX = 6000
PARTS = ["values", "state", "free", "index", "counts and headers", "filters"]


def inspect(*arguments):
    """(exit code, stdout, stderr)."""
    done = subprocess.run([PLEXUS, "inspect", *map(str, arguments)], capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout, done.stderr


class InspectTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        """A job of two servers that admits at the second occurrence, and evicts."""
        cls.workspace = cluster.Workspace(rows=20000, valid_rows=2000, test_rows=2000)
        cls.run_dir = cls.workspace.new_run()
        cls.job_overrides = cls.workspace.overrides(
            model__hidden="16", train__evaluate_every_steps=10) + [
                "--set", "tables.embedding.dim=4",
                "--set", "tables.embedding.precision=INT8",
                "--set", "tables.embedding.admission.kind=COUNT",
                "--set", f"tables.embedding.max_rows={ROWS_MAX}",
                "--set", "tables.embedding.eviction.order=COUNT",
                "--set", "tables.embedding.eviction.half_life_versions=20",
                "--set", "tables.embedding.eviction.unseen_versions=16",
                "--set", "tables.embedding.eviction.sweep_versions=4"]
        code, output = cluster.run(cluster.train_command(cls.run_dir, cls.job_overrides, servers=2, workers=2))
        assert code == 0, output

    @classmethod
    def tearDownClass(cls):
        cls.workspace.close()

    def copy(self):
        run = self.workspace.new_run()
        shutil.copytree(self.run_dir, run)
        return run

    def report(self, *arguments):
        code, out, err = inspect(*arguments, "--json")
        self.assertEqual(code, 0, err)
        self.assertEqual(out.count("\n"), 1)
        return json.loads(out)

    def test_servers_leave_balanced_reports(self):
        for server in range(2):
            said = json.loads((self.run_dir / f"servers/{server}.json").read_text())
            self.assertEqual(said["server"], server)
            self.assertEqual(said["event"], "left")
            self.assertEqual(said["version"], cluster.result(self.run_dir)["version"])
            for table in said["tables"].values():
                counters = table["counters"]
                evicted = sum(counters[f"evicted_{why}"] for why in ("unseen", "limit", "memory"))
                self.assertEqual(counters["admitted"] + counters["restored"] - evicted, table["rows"])
                self.assertEqual(table["rows"], table["rows_in_memory"] + table["rows_on_disk"])
                self.assertTrue(table["balanced"])

    def test_the_model_agrees_with_the_servers_and_the_result(self):
        report = self.report(self.run_dir, "--which=final", "--top=5")
        result = cluster.result(self.run_dir)
        self.assertEqual(report["notes"], [])
        self.assertEqual(report["model_digest"], result["model_digest"])
        self.assertEqual(report["version"], result["version"])
        self.assertEqual(report["reports"], {"expected": 2, "found": 2, "version": result["version"]})
        self.assertEqual(set(report["tables"]), {"embedding", "linear"})
        for name, table in report["tables"].items():
            said = table["servers"]
            self.assertEqual(table["rows"], result["tables"][name]["rows"])
            self.assertEqual(table["rows"], said["rows"])
            self.assertEqual(said["memory_bytes"]["total"], result["tables"][name]["bytes"])
            self.assertEqual(sum(said["bytes"][part] for part in PARTS), said["bytes"]["together"])
            self.assertTrue(said["balanced"])
            norms = table["norms"]
            self.assertEqual(sum(bucket["rows"] for bucket in norms["log2"]) + norms["zero"] + norms["not_finite"],
                             table["rows"])
            self.assertEqual(len(table["hottest"]), 5)
            counts = [key["count"] for key in table["hottest"]]
            self.assertEqual(counts, sorted(counts, reverse=True))
            self.assertGreater(counts[-1], 0)
            self.assertLess(0.1, said["index"]["load_factor"])
            self.assertLessEqual(said["index"]["load_factor"], 1)
        embedding = report["tables"]["embedding"]
        self.assertEqual(embedding["record_bytes"]["values"], 4 + 4)
        self.assertLessEqual(embedding["rows"], ROWS_MAX)
        counters = embedding["servers"]["counters"]
        for event in ("admitted", "evicted_unseen", "evicted_limit", "refused_admission"):
            self.assertGreater(counters[event], 0, event)
        self.assertEqual(report["totals"]["rows"], sum(table["rows"] for table in report["tables"].values()))
        self.assertEqual(report["totals"]["dense_parameters"], result["dense_parameters"])

    def test_fields_add_up(self):
        report = self.report(f"--run_dir={self.run_dir}", "--which=final", "--fields", "--top=1")
        fields = report["fields"]
        self.assertEqual(fields["samples"], 20000)
        self.assertEqual(list(fields["fields"]), [f"C{i}" for i in range(1, 27)])
        columns = zip(*(line.split("\t")[14:] for line in
                        (self.workspace.data / "train.tsv").read_text().splitlines()))
        for (name, field), column in zip(fields["fields"].items(), columns):
            self.assertEqual(field["values"], len(set(column)), name)
            for of_table in field["tables"].values():  # A salted value has a row of its own.
                self.assertEqual(of_table["values_with_row"], of_table["rows"])
        for name, table in report["tables"].items():
            sums = fields["tables"][name]
            rows = sum(field["tables"][name]["rows"] for field in fields["fields"].values())
            self.assertEqual(sums["rows"], table["rows"])
            self.assertEqual(sums["rows_of_fields"], rows)
            self.assertEqual(rows - sums["rows_counted_again"] + sums["rows_of_no_field"], table["rows"])
            self.assertEqual(sums["rows_of_no_field"], 0)  # Every row came from the training data.
            self.assertEqual(sums["rows_counted_again"], 0)
            self.assertAlmostEqual(sum(field["tables"][name]["share"] for field in fields["fields"].values()), 1)
            self.assertIn(table["hottest"][0]["field"], fields["fields"])
        # The linear table admits all, and evicts none.
        for name, field in fields["fields"].items():
            self.assertEqual(field["tables"]["linear"]["rows"], field["values"], name)

    def test_other_data_have_other_values(self):
        data = self.workspace.path / "few.tsv"
        data.write_text("\n".join((self.workspace.data / "train.tsv").read_text().splitlines()[:10]) + "\n")
        sums = self.report(self.run_dir, "--fields", f"--data={data}")["fields"]
        self.assertEqual(sums["samples"], 10)
        self.assertGreater(sums["tables"]["linear"]["rows_of_no_field"], 0)
        code, _, err = inspect(self.run_dir, "--fields", "--data=/no/such/data")
        self.assertEqual(code, 1)
        self.assertIn("/no/such/data", err)

    def test_text_is_for_people(self):
        code, out, err = inspect(self.run_dir, "--which=final", "--fields")
        self.assertEqual(code, 0, err)
        result = cluster.result(self.run_dir)
        for word in (str(self.run_dir), "deepfm, final", result["model_digest"], "2 of 2",
                     "embedding: HASHED, dim 4, values INT8, state F32, ADAGRAD", "came and went", "evicted",
                     "refused", "load factor", "bytes a row", "hottest keys", "L2 norm", "####", "C26", "counted again",
                     f"{result['tables']['embedding']['rows']:,} rows", f"{result['dense_parameters']:,} parameters"):
            self.assertIn(word, out)
        self.assertNotIn("IS NOT", out)
        for line in out.splitlines()[1:]:
            self.assertLessEqual(len(line), 110, line)

    def test_the_best_model_is_older_than_the_reports(self):
        best = self.report(self.run_dir)
        self.assertEqual(best["which"], "best")
        self.assertLess(best["version"], best["reports"]["version"])
        self.assertIn(f"of version {best['version']}", best["notes"][0])

    def test_without_reports_the_rest_is_said(self):
        run = self.copy()
        (run / "servers/1.json").unlink()
        report = self.report(run, "--which=final")
        self.assertEqual(report["reports"]["found"], 1)
        self.assertIn("server 1", report["notes"][0])
        self.assertLess(report["tables"]["embedding"]["servers"]["rows"], report["tables"]["embedding"]["rows"])
        (run / "servers/0.json").write_text("{]")
        report = self.report(run, "--which=final")
        self.assertEqual(report["reports"]["found"], 0)
        self.assertIsNone(report["tables"]["embedding"]["servers"])
        self.assertIn("servers/0.json", report["notes"][0])
        (run / "servers/0.json").write_text('{"version": 1, "tables": {"embedding": {}}}')
        self.assertIn("damaged", " ".join(self.report(run)["notes"]))
        shutil.rmtree(run / "servers")
        code, out, err = inspect(run)
        self.assertEqual(code, 0, err)
        self.assertIn("note: no report of server 0", out)
        self.assertIn("hottest keys", out)

    def test_bad_runs_are_refused(self):
        nothing = self.workspace.path / "nothing"
        code, _, err = inspect(nothing)
        self.assertEqual(code, 2, err)
        self.assertIn("no run in", err)
        self.assertEqual(inspect(self.run_dir, nothing)[0], 2)
        self.assertEqual(inspect(self.run_dir, "--top=many")[0], 2)
        code, _, err = inspect(self.run_dir, "--which=worst")
        self.assertEqual(code, 1, err)
        self.assertIn("no saved model", err)

        run = self.copy()
        victim = next(pathlib.Path(run).glob("model/final/*.model"))
        content = bytearray(victim.read_bytes())
        content[len(content) // 2] ^= 1
        victim.write_bytes(content)
        code, out, err = inspect(run, "--which=final", "--json")
        self.assertEqual(code, 1, err)
        self.assertEqual(out, "")
        self.assertIn(victim.name, err)
        self.assertIn("offset", err)

        run = self.copy()
        job = run / "job.textproto"
        job.write_text(job.read_text().replace("precision: INT8", "precision: BF16"))
        code, _, err = inspect(run)
        self.assertEqual(code, 1, err)
        self.assertIn("precision", err)

    def test_a_run_that_is_overwritten_loses_its_reports(self):
        run = self.copy()
        (run / "servers/7.json").write_text("{}")
        code, output = cluster.run(cluster.train_command(run, self.job_overrides, local=True) + ["--overwrite"])
        self.assertEqual(code, 0, output)
        self.assertEqual([path.name for path in (run / "servers").iterdir()], ["0.json"])
        again = self.report(run, "--which=final")
        self.assertEqual(again["notes"], [])
        # One server in one process holds the same rows as two.
        self.assertEqual(again["model_digest"], cluster.result(self.run_dir)["model_digest"])
        report = self.report(self.run_dir, "--which=final")
        for name, table in again["tables"].items():
            self.assertEqual(table["hottest"], report["tables"][name]["hottest"])
            self.assertEqual(table["norms"]["log2"], report["tables"][name]["norms"]["log2"])
            self.assertEqual(table["servers"]["counters"], report["tables"][name]["servers"]["counters"])


if __name__ == "__main__":
    unittest.main(verbosity=2)
