"""tools/house_rules.py: one planted violation for each rule must fail, its lawful neighbour and the real tree must not."""

import unittest

import planted_tree

# (path, text, part of the sentence)
FORBIDDEN = [
    ("common/a.h", "int a;  // FIXME: wrong\n", "FIXME"),
    ("tools/a.py", "# nocommit\n", "nocommit"),
    ("common/a.h", "// TODO: later\n", "TODO"),
    ("common/a.h", "// TODO(ada) later\n", "TODO"),
    ("common/a.h", "int a = rand();\n", "common/random.h"),
    ("common/a.h", "int a = std::rand();\n", "common/random.h"),
    ("tests/unit/a.h", "void F() { srand(1); }\n", "common/random.h"),
    ("common/a.h", "std::random_device device;\n", "common/random.h"),
    ("ps/a.h", "auto t = std::chrono::system_clock::now();\n", "common/clock"),
    ("ps/a.h", "std::thread t;\n", "std::jthread"),
    ("tests/unit/a.h", "std::vector<std::thread> t;\n", "std::jthread"),
    ("ps/a.h", "std::this_thread::sleep_for(a);\n", "deadline"),
    ("ps/a.h", "usleep(10);\n", "deadline"),
    ("ps/a.h", "void F(int* p) { __builtin_prefetch(p); }\n", "PrefetchLine"),
    ("worker/nn/a.h", "#ifdef __AVX2__\n", "at run time"),
    ("worker/nn/a.h", "# if defined(__AVX512F__)\n", "at run time"),
    ("tests/unit/a.h", "TEST(A, DISABLED_Works) {}\n", "fix the test"),
    ("ps/CMakeLists.txt", "file(GLOB sources *.cc)\n", "list the sources"),
    ("cmake/a.cmake", "file(GLOB_RECURSE sources *.cc)\n", "list the sources"),
    ("docs/picture.txt", "x" * (1 << 20) + "\n", "1048577 bytes"),
    ("ps/a.cc", "int a;\n", "no CMakeLists.txt lists this file"),
    ("proto/a.proto", 'syntax = "proto2";\n', "no CMakeLists.txt lists this file"),
]

ALLOWED = [
    ("common/a.h", "// TODO(ada): later\n"),
    ("common/a.h", "// Unlike rand(), this is seeded; unlike std::thread it joins.\n"),
    ("common/a.h", 'const char* a = "rand() and std::thread";\n'),
    ("common/a.h", "int a = dice.rand(); int b = my::rand(); int c = operand(1);\n"),
    ("common/a.h", "/* std::random_device\n sleep_for(a) */\n"),
    ("common/a.h", "constexpr int kMillion = 1'000'000;\nauto t = std::chrono::steady_clock::now();\n"),
    ("common/clock.h", "auto t = std::chrono::system_clock::now();\n"),
    ("common/thread.h", "std::thread t;\n"),
    ("ps/a.h", "std::jthread t; auto n = std::thread::hardware_concurrency(); std::thread::id i;\n"),
    ("tests/unit/a.h", "std::this_thread::sleep_for(a);\n"),
    ("worker/nn/a.h", "#ifdef NDEBUG\n"),
    ("ps/CMakeLists.txt", "# Globbing is not for us.\n"),
]


class HouseRulesTest(unittest.TestCase):
    def test_forbidden(self):
        for path, text, sentence in FORBIDDEN:
            with self.subTest(path=path, text=text[:60]):
                status, out, _ = planted_tree.run_on("house_rules", {path: text})
                self.assertEqual(status, 1)
                self.assertIn(f"{path}:1: ", out)
                self.assertIn(sentence, out)

    def test_allowed(self):
        for path, text in ALLOWED:
            with self.subTest(path=path, text=text):
                status, out, _ = planted_tree.run_on("house_rules", {path: text})
                self.assertEqual(status, 0, out)

    def test_listed_sources(self):
        files = {
            "ps/CMakeLists.txt": "plexus_library(ps SOURCES a.cc table/b.cc)\n# gone.cc\n",
            "tests/CMakeLists.txt": "foreach(name c d)\n  plexus_test(${name}_test SOURCES unit/${name}_test.cc)\nendforeach()\n",
            "CMakeLists.txt": "plexus_program(p SOURCES ${PROJECT_SOURCE_DIR}/launch/main.cc)\n",
        }
        sources = ["ps/a.cc", "ps/table/b.cc", "tests/unit/c_test.cc", "launch/main.cc"]
        status, out, _ = planted_tree.run_on("house_rules", {**files, **dict.fromkeys(sources, "")})
        self.assertEqual(status, 0, out)
        status, out, _ = planted_tree.run_on("house_rules", {**files, "ps/gone.cc": ""})
        self.assertEqual(status, 1)
        self.assertIn("ps/gone.cc:1: ", out)

    def test_length_is_only_noticed(self):
        text = "void F() {\n" + "  G();\n" * 600 + "}\n"
        status, out, err = planted_tree.run_on("house_rules", {"ps/a.h": text})
        self.assertEqual(status, 0, out)
        self.assertIn("ps/a.h:1: a function of 602 lines", err)
        self.assertIn("ps/a.h:1: 603 lines", err)

    def test_real_tree(self):
        status, out, _ = planted_tree.run("house_rules", planted_tree.REPOSITORY)
        self.assertEqual(status, 0, out)


if __name__ == "__main__":
    unittest.main()
