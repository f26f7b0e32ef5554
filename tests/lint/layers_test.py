"""tools/layers.py: one planted violation for each rule must fail, its lawful neighbour and the real tree must not."""

import unittest

import planted_tree

# (includer, included as written, part of the sentence)
FORBIDDEN = [
    # Direction.
    ("common/a.h", '"proto/job.h"', "common may not include proto/job.h"),
    ("common/net/a.cc", '"ps/table/table.h"', "common may not include"),
    ("common/a.h", '"worker/client.h"', "common may not include"),
    ("common/a.h", '"scheduler/scheduler.h"', "common may not include"),
    ("common/a.h", '"serving/reader.h"', "common may not include"),
    ("proto/job.cc", '"ps/table/table.h"', "proto may not include"),
    ("proto/job.cc", '"worker/client.h"', "proto may not include"),
    ("ps/server.cc", '"worker/client.h"', "ps may not include"),
    ("ps/server.cc", '"scheduler/scheduler.h"', "ps may not include"),
    ("ps/server.cc", '"serving/reader.h"', "ps may not include"),
    ("worker/trainer.cc", '"ps/table/table.h"', "worker may not include"),
    ("worker/trainer.cc", '"scheduler/scheduler.h"', "worker may not include"),
    ("worker/trainer.cc", '"serving/reader.h"', "worker may not include"),
    ("scheduler/scheduler.cc", '"ps/server.h"', "scheduler may not include"),
    ("scheduler/scheduler.cc", '"worker/client.h"', "scheduler may not include"),
    ("scheduler/scheduler.cc", '"serving/reader.h"', "scheduler may not include"),
    ("serving/reader.cc", '"ps/store/store.h"', "serving may not include"),
    ("serving/reader.cc", '"worker/nn/tape.h"', "serving may not include"),
    ("serving/reader.cc", '"scheduler/scheduler.h"', "serving may not include"),
    # Within the worker.
    ("worker/nn/tape.cc", '"proto/job.h"', "worker/nn may not include"),
    ("worker/nn/tape.cc", '"worker/data/batch.h"', "worker/nn may not include"),
    ("worker/data/reader.cc", '"worker/nn/tape.h"', "worker/data may not include"),
    ("worker/data/reader.cc", '"worker/client.h"', "worker/data may not include"),
    # What nothing includes.
    ("common/a.h", '"launch/flags.h"', "common may not include"),
    ("worker/trainer.cc", '"launch/flags.h"', "worker may not include"),
    ("ps/server.cc", '"tests/support/job.h"', "ps may not include"),
    ("launch/main.cc", '"tests/support/job.h"', "launch may not include"),
    ("launch/main.cc", '"bench/figures.h"', "launch may not include"),
    ("bench/table_bench.cc", '"tests/support/job.h"', "bench may not include"),
    ("tests/unit/a_test.cc", '"bench/figures.h"', "tests may not include"),
    ("plugins/a.cc", '"common/hash.h"', "plugins is no layer"),
    # Other ways to write an include.
    ("common/a.h", "<proto/job.h>", "common may not include proto/job.h"),
    ("common/a.h", '"../proto/job.h"', "common may not include proto/job.h"),
    ("common/net/a.h", '"../../ps/server.h"', "common may not include ps/server.h"),
    # The state machine.
    ("ps/table/table.cc", '"ps/store/store.h"', "state machine may not reach ps/store/store.h"),
    ("ps/shard.cc", '"ps/store/store.h"', "state machine may not reach ps/store/store.h"),
    ("ps/shard/shard.cc", '"common/net/endpoint.h"', "state machine may not reach common/net/endpoint.h"),
    ("ps/table/table.cc", "<fstream>", "state machine may not reach fstream"),
    ("ps/shard.cc", "<filesystem>", "state machine may not reach filesystem"),
    ("ps/shard.cc", "<sys/socket.h>", "state machine may not reach sys/socket.h"),
    ("ps/shard.cc", "<zmq.hpp>", "state machine may not reach zmq.hpp"),
    ("ps/table/table.cc", "<rocksdb/db.h>", "state machine may not reach rocksdb/db.h"),
    ("ps/shard.h", "<mutex>", "a lock"),
    ("ps/shard.h", "<random>", "randomness"),
    # Homes.
    ("common/net/http.cc", "<zmq.h>", "<zmq.h> may only"),
    ("ps/server.cc", "<zmq_addon.hpp>", "<zmq_addon.hpp> may only"),
    ("common/metrics.cc", "<boost/beast/http.hpp>", "may only be included in common/net/http"),
    ("common/net/zmq.cc", "<boost/asio.hpp>", "may only be included in common/net/http"),
    ("ps/server.cc", "<rocksdb/db.h>", "may only be included in ps/store"),
    ("launch/main.cc", "<mpi.h>", "may only be included in launch/bootstrap and worker/collective"),
    ("worker/trainer.cc", '"mpi.h"', "may only be included in launch/bootstrap and worker/collective"),
    ("worker/models/deepfm.cc", "<Eigen/Dense>", "may only be included in worker/nn"),
    ("ps/server.cc", "<unsupported/Eigen/FFT>", "may only be included in worker/nn"),
    ("worker/models/deepfm.cc", "<dnnl.hpp>", "may only be included in worker/nn"),
    ("worker/models/deepfm.cc", "<oneapi/dnnl/dnnl.h>", "may only be included in worker/nn"),
    ("ps/server.cc", "<gflags/gflags.h>", "may only be included in launch"),
    ("common/bytes.cc", "<zlib.h>", "may only be included in worker/data"),
    ("common/bytes.cc", "<xxhash.h>", "may only be included in common/hash"),
    ("ps/server.cc", "<prometheus/counter.h>", "may only be included in common/metrics"),
]

ALLOWED = [
    ("common/net/zmq_transport.cc", "<zmq.hpp>"),
    ("common/net/http_server.cc", "<boost/beast/http.hpp>"),
    ("common/hash.cc", "<xxhash.h>"),
    ("common/metrics.cc", "<prometheus/registry.h>"),
    ("common/net/a.cc", '"common/status.h"'),
    ("proto/job.cc", '"common/status.h"'),
    ("ps/server.cc", '"proto/frame.h"'),
    ("ps/server.cc", '"ps/store/store.h"'),
    ("ps/store/store.cc", "<rocksdb/db.h>"),
    ("ps/store/store.cc", "<filesystem>"),
    ("ps/store/store.cc", '"ps/table/table.h"'),
    ("ps/table/table.cc", '"common/random.h"'),
    ("worker/nn/gemm.cc", "<dnnl.hpp>"),
    ("worker/nn/ops.cc", "<Eigen/Core>"),
    ("worker/data/gzip.cc", "<zlib.h>"),
    ("worker/data/reader.cc", '"proto/job.h"'),
    ("worker/models/deepfm.cc", '"worker/nn/tape.h"'),
    ("worker/collective.cc", "<mpi.h>"),
    ("scheduler/scheduler.cc", '"proto/control.h"'),
    ("launch/bootstrap.cc", "<mpi.h>"),
    ("launch/flags.cc", "<gflags/gflags.h>"),
    ("launch/local.cc", '"serving/reader.h"'),
    ("launch/local.cc", '"launch/flags.h"'),
    ("tests/unit/a_test.cc", '"tests/support/job.h"'),
    ("tests/unit/a_test.cc", '"launch/flags.h"'),
    ("tests/unit/a_test.cc", "<zmq.hpp>"),
    ("bench/table_bench.cc", "<Eigen/Core>"),
    ("bench/table_bench.cc", '"ps/table/table.h"'),
]


class LayersTest(unittest.TestCase):
    def test_forbidden(self):
        for includer, included, sentence in FORBIDDEN:
            with self.subTest(includer=includer, included=included):
                status, out, _ = planted_tree.run_on("layers", {includer: f"// A.\n\n#include {included}\n"})
                self.assertEqual(status, 1)
                self.assertIn(f"{includer}:3: ", out)
                self.assertIn(sentence, out)

    def test_allowed(self):
        status, out, _ = planted_tree.run_on("layers", {f"{a}": f"#include {b}\n" for a, b in dict(ALLOWED).items()})
        self.assertEqual(status, 0, out)
        for includer, included in ALLOWED:
            with self.subTest(includer=includer, included=included):
                status, out, _ = planted_tree.run_on("layers", {includer: f"#include {included}\n"})
                self.assertEqual(status, 0, out)

    def test_state_machine_does_no_io_through_others(self):
        status, out, _ = planted_tree.run_on(
            "layers",
            {
                "ps/shard.cc": '#include "ps/rows.h"\n',
                "ps/rows.h": '#include "ps/files.h"\n',
                "ps/files.h": "#include <fstream>\n",
            },
        )
        self.assertEqual(status, 1)
        self.assertIn("ps/shard.cc:1: ", out)
        self.assertIn("ps/rows.h -> ps/files.h", out)

    def test_neighbour_without_folder(self):
        files = {"ps/store/store.h": "", "ps/store/log.h": '#include "store.h"\n', "ps/shard.h": '#include "store/log.h"\n'}
        status, out, _ = planted_tree.run_on("layers", files)
        self.assertEqual(status, 1)
        self.assertIn("ps/shard.h:1: ", out)

    def test_spacing_continuation_and_comments(self):
        status, out, _ = planted_tree.run_on("layers", {"common/a.h": '/*\n#include "ps/a.h"\n*/\n//#include "ps/b.h"\n'})
        self.assertEqual(status, 0, out)
        for text in ('\n  #  include "ps/a.h"\n', '\n#include \\\n"ps/a.h"\n'):
            status, out, _ = planted_tree.run_on("layers", {"common/a.h": text})
            self.assertEqual(status, 1)
            self.assertIn("common/a.h:2: ", out)

    def test_build_folder_does_not_count(self):
        status, out, _ = planted_tree.run_on(
            "layers", {"build/release/common/a.h": '#include "ps/a.h"\n', "common/b.h": ""}
        )
        self.assertEqual(status, 0, out)

    def test_no_sources_is_a_mistake(self):
        self.assertEqual(planted_tree.run_on("layers", {"notes.txt": ""})[0], 1)

    def test_real_tree(self):
        status, out, _ = planted_tree.run("layers", planted_tree.REPOSITORY)
        self.assertEqual(status, 0, out)


if __name__ == "__main__":
    unittest.main()
