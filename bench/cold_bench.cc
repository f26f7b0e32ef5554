// cold_bench: what rows on disk cost: spilling, overwriting, reading back, and both at once.
//
// Fills a store with rows in the order of their hashes, as a shard spills; overwrites a share of
// them in each of some rounds; then reads batches of uniform and of Zipf-distributed keys, and last
// spills and reads in turn, as a shard does whose tables are larger than its memory.  Every row
// that comes back is checked to be the newest.  Prints a table and, as its last line, one JSON
// object.
#include <algorithm>
#include <cmath>
#include <condition_variable>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <map>
#include <mutex>
#include <string>
#include <unordered_set>
#include <vector>

#include <gflags/gflags.h>
#include <glog/logging.h>
#include <time.h>

#include "common/random.h"
#include "ps/store/cold_key.h"
#include "ps/store/cold_store.h"

DEFINE_string(dir, "/tmp/plexus_cold_bench", "Where the store is made, and removed at the end.");
DEFINE_uint64(rows, 10000000, "Rows of the table.");
DEFINE_uint32(record_bytes, 128, "Bytes of a row.");
DEFINE_uint32(rounds, 4, "Times that a share of the rows is written again.");
DEFINE_double(share, 0.3, "That share.");
DEFINE_uint64(spill_bytes, 4 << 20, "Bytes of a spilled batch.");
DEFINE_uint64(cache_bytes, 16 << 20, "Memory of the store.");
DEFINE_uint32(readers, 8, "Threads that read.");
DEFINE_uint32(read_keys, 600000, "Keys read for each figure.");
DEFINE_uint32(mixed, 150, "Batches spilled and read in turn.");
DEFINE_uint32(block_bytes, 4096, "Layout: block size.");
DEFINE_string(filter, "bloom", "Layout: none, bloom, ribbon.");
DEFINE_string(compression, "none", "Layout: none, lz4, zstd.");
DEFINE_string(compaction, "leveled", "Layout: leveled, universal.");
DEFINE_uint64(file_mib, 32, "Layout: MiB of a file.");
DEFINE_bool(partitioned_index, true, "Layout.");
DEFINE_uint32(fresh_files, 16, "Layout: files as they came that begin a compaction.");
DEFINE_bool(hash_in_blocks, false, "Layout.");
DEFINE_bool(cache_rows, false, "Layout.");
DEFINE_bool(direct_reads, false, "Layout.");
DEFINE_bool(quick, false, "200,000 rows.");

namespace plexus {
namespace {

double Seconds(clockid_t clock) {
  timespec now;
  PCHECK(clock_gettime(clock, &now) == 0);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9;
}

// Wall and processor seconds since it was made.
class Stopwatch {
 public:
  double wall() const { return Seconds(CLOCK_MONOTONIC) - wall_; }
  double cpu() const { return Seconds(CLOCK_PROCESS_CPUTIME_ID) - cpu_; }

 private:
  const double wall_ = Seconds(CLOCK_MONOTONIC);
  const double cpu_ = Seconds(CLOCK_PROCESS_CPUTIME_ID);
};

// Written by this process so far.
std::uint64_t WrittenBytes() {
  std::ifstream file("/proc/self/io");
  for (std::string word; file >> word;) {
    if (word == "wchar:") {
      std::uint64_t bytes = 0;
      file >> bytes;
      return bytes;
    }
  }
  return 0;
}

std::uint64_t RssBytes() {
  std::ifstream file("/proc/self/statm");
  std::uint64_t size = 0;
  std::uint64_t resident = 0;
  file >> size >> resident;
  return resident * 4096;
}

// Ranks of a Zipf distribution (rejection inversion; Hoermann and Derflinger 1996).
class Zipf {
 public:
  Zipf(std::uint64_t n, double exponent) : n_(static_cast<double>(n)), s_(exponent) {
    low_ = Integral(1.5) - 1;
    high_ = Integral(n_ + 0.5);
  }
  // In [0, n).
  std::uint64_t Draw(const CounterRandom& random, std::uint64_t* element) const {
    for (;;) {
      const double u = high_ + random.UniformDouble((*element)++) * (low_ - high_);
      const double x = Inverse(u);
      const double k = std::clamp(std::floor(x + 0.5), 1.0, n_);
      if (u >= Integral(k + 0.5) - std::pow(k, -s_)) {
        return static_cast<std::uint64_t>(k) - 1;
      }
    }
  }

 private:
  double Integral(double x) const { return (std::pow(x, 1 - s_) - 1) / (1 - s_); }
  double Inverse(double u) const { return std::pow(1 + u * (1 - s_), 1 / (1 - s_)); }

  double n_, s_, low_ = 0, high_ = 0;
};

class Bench {
 public:
  Bench() : generation_(FLAGS_rows, 0), step_(~std::uint64_t{0} / FLAGS_rows) {
    base_rss_ = RssBytes();
    ColdStoreOptions options;
    options.cache_bytes = FLAGS_cache_bytes;
    options.reader_threads = FLAGS_readers;
    options.wake = [this] {
      const std::lock_guard lock(mutex_);
      ++wakes_;
      woken_.notify_one();
    };
    ColdLayout& layout = options.layout;
    layout.block_bytes = FLAGS_block_bytes;
    layout.filter = FLAGS_filter == "bloom"    ? ColdLayout::Filter::kBloom
                    : FLAGS_filter == "ribbon" ? ColdLayout::Filter::kRibbon
                                               : ColdLayout::Filter::kNone;
    layout.compression = FLAGS_compression == "lz4"    ? ColdLayout::Compression::kLz4
                         : FLAGS_compression == "zstd" ? ColdLayout::Compression::kZstd
                                                       : ColdLayout::Compression::kNone;
    layout.compaction = FLAGS_compaction == "universal" ? ColdLayout::Compaction::kUniversal
                                                        : ColdLayout::Compaction::kLeveled;
    layout.file_bytes = FLAGS_file_mib << 20;
    layout.fresh_files = FLAGS_fresh_files;
    layout.partitioned_index = FLAGS_partitioned_index;
    layout.hash_in_blocks = FLAGS_hash_in_blocks;
    layout.cache_rows = FLAGS_cache_rows;
    layout.direct_reads = FLAGS_direct_reads;
    auto store = ColdStore::Open(FLAGS_dir, {{"bench", FLAGS_record_bytes}}, options);
    CHECK(store.ok()) << store.status().ToString();
    store_ = *std::move(store);
  }

  void Run() {
    Report("fill", FLAGS_rows, [this] { Spill(1.0, FLAGS_rows); });
    for (std::uint32_t round = 0; round < FLAGS_rounds; ++round) {
      Report("overwrite", static_cast<std::uint64_t>(FLAGS_share * double(FLAGS_rows)),
             [this] { Spill(FLAGS_share, FLAGS_rows); });
    }
    // Reads are measured with no compaction under way, but for the last figure.
    while (store_->stats().compactions > 0) {
      Read(Draw(4000, false));
      Settle();
    }
    std::printf("at rest       %s\n", store_->Shape().c_str());
    const std::vector<std::size_t> sizes = {4000, 16000, 50000};
    for (const bool zipf : {false, true}) {
      for (const std::size_t keys : sizes) {
        const std::size_t batches = std::max<std::size_t>(FLAGS_read_keys / keys, 1);
        std::vector<std::vector<std::uint64_t>> rows;
        for (std::size_t i = 0; i < batches; ++i) {
          rows.push_back(Draw(keys, zipf));
        }
        Report((zipf ? "zipf " : "uniform ") + std::to_string(keys), batches * keys, [&] {
          for (const auto& batch : rows) {
            Read(batch);
            Settle();
          }
        });
      }
    }
    const std::size_t keys = FLAGS_spill_bytes / FLAGS_record_bytes;
    std::vector<std::vector<std::uint64_t>> rows;
    for (std::size_t i = 0; i < 8; ++i) {
      rows.push_back(Draw(std::min<std::size_t>(keys, FLAGS_rows / 8), false));
    }
    Report("mixed", FLAGS_mixed * keys, [&] {
      for (std::size_t i = 0; i < FLAGS_mixed; ++i) {
        Read(rows[i % rows.size()]);
        Spill(FLAGS_share, static_cast<std::uint64_t>(double(keys) / FLAGS_share));
      }
    });
  }

  void Print() const {
    const ColdStoreStats stats = store_->stats();
    std::printf("files%s\n", store_->Shape().c_str());
    const double live = static_cast<double>(FLAGS_rows * (FLAGS_record_bytes + 12));
    std::printf("disk %.2f x the rows; store's memory %.1f MiB; process grew by %.1f MiB\n",
                static_cast<double>(stats.disk_bytes) / live,
                static_cast<double>(stats.memory_bytes) / (1 << 20),
                static_cast<double>(rss_max_ - base_rss_) / (1 << 20));
    std::printf("{\"rows\": %llu, \"record_bytes\": %u, \"disk_bytes\": %llu, \"rss_bytes\": %llu",
                static_cast<unsigned long long>(FLAGS_rows), FLAGS_record_bytes,
                static_cast<unsigned long long>(stats.disk_bytes),
                static_cast<unsigned long long>(rss_max_ - base_rss_));
    for (const auto& [name, rate] : rates_) {
      std::printf(", \"%s_rows_per_second\": %.0f, \"%s_cpu_us_per_row\": %.3f", name.c_str(),
                  rate.first, name.c_str(), rate.second);
    }
    std::printf("}\n");
  }

 private:
  Key KeyOf(std::uint64_t row) const {
    const CounterRandom random(1, 2, row);
    return KeyOfMix64(row * step_ + random.Below(0, step_));
  }

  void FillRecord(std::uint64_t row, std::byte* to) const {
    const CounterRandom random(3, 4, row);
    for (std::uint32_t i = 0; i * 4 < FLAGS_record_bytes; i += 2) {
      const std::uint64_t bits = random.Bits(i);
      const float two[2] = {static_cast<float>(bits >> 40) * 0x1p-30f,
                            static_cast<float>(bits & 0xffffff) * 0x1p-30f};
      std::memcpy(to + i * 4, two, std::min<std::size_t>(8, FLAGS_record_bytes - i * 4));
    }
    std::memcpy(to, &row, 4);
    std::memcpy(to + 4, &generation_[row], 4);
  }

  // Goes on by `rows` rows, and writes a share of them.
  void Spill(double share, std::uint64_t rows) {
    const std::size_t keys = FLAGS_spill_bytes / FLAGS_record_bytes;
    ColdBatch batch;
    const auto write = [&] {
      if (!batch.keys.empty()) {
        WaitFor([this] { return writes_ < 4; });
        ++writes_;
        store_->Write(std::exchange(batch, {}));
      }
      batch.record_bytes = FLAGS_record_bytes;
    };
    write();
    for (std::uint64_t i = 0; i < rows; ++i) {
      const std::uint64_t row = hand_;
      hand_ = (hand_ + 1) % FLAGS_rows;
      if (row == 0) {
        ++turn_;
        write();  // A batch is sorted.
      }
      if (share < 1 && CounterRandom(5, turn_, row).Uniform(0) >= static_cast<float>(share)) {
        continue;
      }
      ++generation_[row];
      batch.keys.push_back(KeyOf(row));
      batch.records.resize(batch.records.size() + FLAGS_record_bytes);
      FillRecord(row, batch.records.data() + batch.records.size() - FLAGS_record_bytes);
      if (batch.keys.size() == keys) {
        write();
      }
    }
    write();
    Settle();
  }

  std::vector<std::uint64_t> Draw(std::size_t count, bool zipf) {
    const CounterRandom random(6, 7, ++draws_);
    const Zipf ranks(FLAGS_rows, 1.05);
    std::unordered_set<std::uint64_t> rows;
    std::uint64_t element = 0;
    while (rows.size() < count) {
      const std::uint64_t row = zipf ? Mix64(ranks.Draw(random, &element)) % FLAGS_rows
                                     : random.Below(element++, FLAGS_rows);
      rows.insert(row);
    }
    std::vector<std::uint64_t> sorted(rows.begin(), rows.end());
    std::sort(sorted.begin(), sorted.end());
    return sorted;
  }

  void Read(const std::vector<std::uint64_t>& rows) {
    ColdKeys keys;
    for (const std::uint64_t row : rows) {
      keys.keys.push_back(KeyOf(row));
    }
    ++reads_;
    store_->Read(std::move(keys));
  }

  template <typename Done>
  void WaitFor(const Done& done) {
    while (!done()) {
      {
        std::unique_lock lock(mutex_);
        woken_.wait(lock, [this] { return wakes_ > 0; });
        wakes_ = 0;
      }
      while (const std::optional<ColdEvent> event = store_->TakeEvent()) {
        CHECK(event->status.ok()) << event->status.ToString();
        if (event->kind == ColdEvent::Kind::kWritten) {
          --writes_;
          continue;
        }
        --reads_;
        for (std::size_t i = 0; i < event->batch.keys.size(); ++i) {
          const std::byte* record = event->batch.records.data() + i * FLAGS_record_bytes;
          std::uint32_t row = 0;
          std::uint32_t generation = 0;
          std::memcpy(&row, record, 4);
          std::memcpy(&generation, record + 4, 4);
          CHECK_EQ(event->batch.keys[i], KeyOf(row));
          CHECK_LE(generation, generation_[row]);
          CHECK(reading_while_writing_ || generation == generation_[row]) << "a stale row";
        }
      }
    }
  }
  void Settle() {
    WaitFor([this] { return writes_ == 0 && reads_ == 0; });
  }

  template <typename Work>
  void Report(const std::string& name, std::uint64_t rows, const Work& work) {
    reading_while_writing_ = name == "mixed";
    const std::uint64_t written_before = WrittenBytes();
    const Stopwatch watch;
    work();
    const double wall = watch.wall();
    const double cpu = watch.cpu();
    const double written = static_cast<double>(WrittenBytes() - written_before);
    rss_max_ = std::max(rss_max_, RssBytes());
    std::printf("%-14s %9.0f rows/s   %6.2f us of processor, %6.0f bytes written a row  %s\n",
                name.c_str(), static_cast<double>(rows) / wall,
                cpu / static_cast<double>(rows) * 1e6, written / static_cast<double>(rows),
                name.find("overwrite") == 0 || name == "mixed" ? store_->Shape().c_str() : "");
    std::fflush(stdout);
    std::string key = name;
    std::replace(key.begin(), key.end(), ' ', '_');
    rates_[key] = {static_cast<double>(rows) / wall, cpu / static_cast<double>(rows) * 1e6};
  }

  std::vector<std::uint32_t> generation_;  // Of each row.
  const std::uint64_t step_;               // Between hashes.
  std::uint64_t base_rss_ = 0;
  std::uint64_t rss_max_ = 0;
  std::uint64_t hand_ = 0;
  std::uint64_t turn_ = 0;
  std::uint64_t draws_ = 0;
  bool reading_while_writing_ = false;
  std::uint32_t writes_ = 0;
  std::uint32_t reads_ = 0;
  std::map<std::string, std::pair<double, double>> rates_;

  std::mutex mutex_;
  std::condition_variable woken_;
  std::uint64_t wakes_ = 0;
  std::unique_ptr<ColdStore> store_;  // Last: its threads call wake.
};

}  // namespace
}  // namespace plexus

int main(int argc, char** argv) {
  google::InitGoogleLogging(argv[0]);
  gflags::ParseCommandLineFlags(&argc, &argv, true);
  if (FLAGS_quick) {
    FLAGS_rows = 200000;
    FLAGS_read_keys = 50000;
    FLAGS_mixed = 5;
    FLAGS_rounds = 2;
  }
  plexus::Bench bench;
  bench.Run();
  bench.Print();
  return 0;
}
