"""./dev itself: usage, and setup in trees that are no checkout of their own."""

import pathlib
import shutil
import subprocess
import tempfile
import unittest

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent.parent
COMMANDS = "setup build test demo bench sim chaos fuzz lint layers format ci".split()


def run(*command, cwd=REPOSITORY):
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, stdin=subprocess.DEVNULL)


def export_to(folder):
    folder.mkdir()
    shutil.copy(REPOSITORY / "dev", folder)
    shutil.copytree(REPOSITORY / "tools", folder / "tools")
    return folder


class DevTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name).resolve()

    def test_help_names_every_command(self):
        for words in ([], ["help"], ["--help"]):
            done = run("./dev", *words)
            self.assertEqual(done.returncode, 0, done.stderr)
            for command in COMMANDS:
                self.assertRegex(done.stdout, rf"(?m)^  {command}\b")

    def test_misuse_is_one_sentence_and_exit_2(self):
        for words in (["nothing"], ["build", "nothing"], ["test", "nothing"], ["test", "fuzz"], ["bench", "nothing"],
                      ["fuzz"], ["fuzz", "nothing"], ["fuzz", "frame", "--seconds=x"], ["setup", "x"], ["demo", "x"],
                      ["ci", "x"]):
            with self.subTest(words=words):
                done = run("./dev", *words)
                self.assertEqual(done.returncode, 2, done.stderr)
                self.assertIn("dev: ", done.stderr)

    def test_layers_takes_a_folder(self):
        (self.folder / "common").mkdir()
        (self.folder / "common" / "a.h").write_text('#include "ps/a.h"\n')
        done = run("./dev", "layers", str(self.folder))
        self.assertEqual(done.returncode, 1)
        self.assertIn("common/a.h:1: ", done.stdout)

    def test_setup_in_an_exported_tree(self):
        done = run("./dev", "setup", cwd=export_to(self.folder / "tree"))
        self.assertEqual(done.returncode, 0, done.stderr)

    def test_setup_chooses_hooks_only_in_its_own_checkout(self):
        tree = export_to(self.folder / "tree")
        for root, hooks in ((self.folder, ""), (tree, ".githooks")):
            run("git", "init", cwd=root)
            self.assertEqual(run("./dev", "setup", cwd=tree).returncode, 0)
            self.assertEqual(run("git", "config", "--local", "core.hooksPath", cwd=root).stdout.strip(), hooks)


if __name__ == "__main__":
    unittest.main()
