"""Failpoints: the list and the code agree, one kills once, and what cannot be read is refused."""
import collections
import os
import pathlib
import re
import subprocess
import unittest

import plans
from jobs import cluster

PASSED = re.compile(r'\bFailpoint(?:IsDue)?\("([^"]+)"\)')
FOLDERS = ("common", "proto", "ps", "worker", "scheduler", "launch")


def train(run, workspace, failpoint, *flags):
    command = cluster.train_command(
        run, workspace.overrides(train__batch_size=500, checkpoint__durability="ASYNC") + list(flags), local=True)
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120,
                          env={**os.environ, "PLEXUS_FAILPOINT": failpoint})


class FailpointsTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.workspace = cluster.Workspace(rows=4000, valid_rows=500, test_rows=500)

    @classmethod
    def tearDownClass(cls):
        cls.workspace.close()

    def test_each_name_of_the_list_is_at_one_place_in_the_code(self):
        places = collections.Counter()
        for folder in FOLDERS:
            for path in (cluster.ROOT / folder).rglob("*.cc"):
                places.update(PASSED.findall(path.read_text(encoding="utf-8")))
        self.assertEqual(dict(places), dict.fromkeys(plans.FAILPOINTS, 1))

    def test_one_kills_at_its_passage_and_once(self):
        run, marker = self.workspace.new_run(), pathlib.Path(self.workspace.path / "marker")
        first = train(run, self.workspace, f"log.appended:7:{marker}")
        self.assertEqual(first.returncode, -9, first.stderr)
        self.assertIn("log.appended", first.stderr)
        self.assertTrue(marker.exists())
        second = train(run, self.workspace, f"log.appended:7:{marker}", "--resume")
        self.assertEqual(second.returncode, 0, second.stderr)

    def test_what_names_none_is_refused(self):
        for text in ("no.such:1:/tmp/x", "log.appended:0:/tmp/x", "log.appended:1", "log.appended"):
            done = train(self.workspace.new_run(), self.workspace, text)
            self.assertEqual(done.returncode, 2, done.stderr)
            self.assertIn("common/failpoint.h", done.stderr)


if __name__ == "__main__":
    unittest.main(verbosity=2)
