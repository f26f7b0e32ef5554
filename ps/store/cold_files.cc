#include "ps/store/cold_files.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <filesystem>
#include <mutex>
#include <set>
#include <shared_mutex>
#include <system_error>
#include <utility>

#include <glog/logging.h>
#include <rocksdb/cache.h>
#include <rocksdb/db.h>
#include <rocksdb/env.h>
#include <rocksdb/file_system.h>
#include <rocksdb/filter_policy.h>
#include <rocksdb/listener.h>
#include <rocksdb/sst_file_writer.h>
#include <rocksdb/table.h>
#include <sys/resource.h>

#include "ps/store/cold_key.h"

namespace plexus {
namespace {

constexpr std::size_t kReadTogether = 128;  // Blocks that a read holds on to: 128 x 4 KiB.
// Rows further apart than this share of all hashes go to different files: a spill that came to the
// end of the table's index and went on at its beginning would overlap everything.
constexpr std::uint64_t kGapMax = std::uint64_t{1} << 60;
constexpr int kNextsMax = 16;  // Rows that a read of many passes over; then it searches.
constexpr std::size_t kScanReadahead = std::size_t{1} << 20;
constexpr std::size_t kRoomBytes = std::size_t{1} << 20;  // That opening needs, amply.

Status Translate(const rocksdb::Status& status, const std::string& table) {
  if (status.ok()) {
    return OkStatus();
  }
  const std::string what = "table " + table + ": " + status.ToString();
  if (status.IsNoSpace()) {
    return ResourceExhausted(what);
  }
  return status.IsCorruption() ? DataLoss(what) : Unavailable(what);
}

// RocksDB says much; what matters comes as a Status.
class QuietLogger : public rocksdb::Logger {
 public:
  using rocksdb::Logger::Logv;
  void Logv(const char*, va_list) override {}
};

// Compactions have no caller to tell.
class BackgroundErrors : public rocksdb::EventListener {
 public:
  void OnBackgroundError(rocksdb::BackgroundErrorReason, rocksdb::Status* error) override {
    LOG(WARNING) << "rows on disk: RocksDB stops writing: " << error->ToString();
    if (error->severity() >= rocksdb::Status::kHardError) {
      hard_ = true;
    }
  }
  // A database that had such an error takes no file ever again: in RocksDB 7.8 Resume forgets the
  // error but not that it stopped, and IngestExternalFile goes on without file numbers.
  bool hard() const { return hard_; }
  void Clear() { hard_ = false; }

 private:
  std::atomic<bool> hard_ = false;
};

int OpenFilesMax() {
  rlimit limit;
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY) {
    return 4096;
  }
  return static_cast<int>(std::clamp<rlim_t>(limit.rlim_cur / 4, 64, 4096));
}

std::shared_ptr<const rocksdb::FilterPolicy> FilterOf(const ColdLayout& layout) {
  switch (layout.filter) {
    case ColdLayout::Filter::kNone:
      return nullptr;
    case ColdLayout::Filter::kBloom:
      return std::shared_ptr<const rocksdb::FilterPolicy>(rocksdb::NewBloomFilterPolicy(10));
    case ColdLayout::Filter::kRibbon:
      return std::shared_ptr<const rocksdb::FilterPolicy>(rocksdb::NewRibbonFilterPolicy(10));
  }
  return nullptr;
}

rocksdb::BlockBasedTableOptions TableOptionsOf(const ColdLayout& layout,
                                               std::shared_ptr<rocksdb::Cache> cache) {
  rocksdb::BlockBasedTableOptions table;
  table.block_cache = std::move(cache);
  table.cache_index_and_filter_blocks = true;
  table.cache_index_and_filter_blocks_with_high_priority = true;
  table.pin_top_level_index_and_filter = true;
  if (layout.partitioned_index) {
    table.index_type = rocksdb::BlockBasedTableOptions::kTwoLevelIndexSearch;
    table.partition_filters = layout.filter != ColdLayout::Filter::kNone;
  }
  if (layout.hash_in_blocks) {
    table.data_block_index_type = rocksdb::BlockBasedTableOptions::kDataBlockBinaryAndHash;
  }
  table.filter_policy = FilterOf(layout);
  table.checksum = rocksdb::kXXH3;
  table.block_size = layout.block_bytes;
  table.block_restart_interval = 4;  // 8-byte keys: little to share, long to search.
  table.format_version = 5;
  return table;
}

rocksdb::CompressionType CompressionOf(const ColdLayout& layout) {
  switch (layout.compression) {
    case ColdLayout::Compression::kNone:
      return rocksdb::kNoCompression;
    case ColdLayout::Compression::kLz4:
      return rocksdb::kLZ4Compression;
    case ColdLayout::Compression::kZstd:
      return rocksdb::kZSTD;
  }
  return rocksdb::kNoCompression;
}

rocksdb::Options OptionsOf(const ColdLayout& layout, std::shared_ptr<rocksdb::Cache> cache,
                           rocksdb::Env* env) {
  rocksdb::Options options;
  options.env = env;
  options.create_if_missing = true;
  options.create_missing_column_families = true;
  options.info_log = std::make_shared<QuietLogger>();
  options.max_open_files = OpenFilesMax();
  options.max_background_jobs = 2;
  options.stats_dump_period_sec = 0;
  options.stats_persist_period_sec = 0;
  options.avoid_flush_during_shutdown = true;
  options.allow_fallocate = false;
  options.max_manifest_file_size = std::size_t{1} << 20;
  options.manifest_preallocation_size = std::size_t{64} << 10;
  options.use_direct_reads = layout.direct_reads;
  options.compaction_readahead_size = std::size_t{128} << 10;  // Of each file of 16 and more.
  options.writable_file_max_buffer_size = std::size_t{256} << 10;
  options.write_buffer_size = std::size_t{64} << 10;  // Nothing is written to it.
  options.arena_block_size = std::size_t{4} << 10;
  options.compression = CompressionOf(layout);
  options.target_file_size_base = layout.file_bytes;
  options.max_bytes_for_level_base = 4 * layout.file_bytes;
  options.level0_file_num_compaction_trigger = static_cast<int>(layout.fresh_files);
  options.level0_slowdown_writes_trigger = 1 << 20;  // Files that are ingested wait for no one.
  options.level0_stop_writes_trigger = 1 << 20;
  options.optimize_filters_for_hits = true;
  if (layout.compaction == ColdLayout::Compaction::kLeveled) {
    options.level_compaction_dynamic_level_bytes = true;
  } else {
    options.compaction_style = rocksdb::kCompactionStyleUniversal;
  }
  options.table_factory.reset(
      rocksdb::NewBlockBasedTableFactory(TableOptionsOf(layout, std::move(cache))));
  return options;
}

class RocksFiles final : public ColdFiles {
 public:
  RocksFiles(std::unique_ptr<ColdDirectory> directory, const std::vector<ColdTable>& tables,
             const ColdStoreOptions& options)
      : directory_(std::move(directory)), tables_(tables), layout_(options.layout) {
    for (const ColdTable& table : tables_) {
      seeds_.push_back(HashBytes(table.name, 0));
    }
    rocksdb::Env* env = rocksdb::Env::Default();
    if (options.file_system != nullptr) {
      own_env_ = rocksdb::NewCompositeEnv(options.file_system);
      env = own_env_.get();
    }
    cache_ = rocksdb::NewLRUCache(options.cache_bytes, 2);
    options_ = OptionsOf(layout_, cache_, env);
    options_.listeners = {errors_};
  }

  ~RocksFiles() override { CloseDatabase(); }

  Status OpenDatabase(bool read_only = false) {
    std::vector<rocksdb::ColumnFamilyDescriptor> descriptors;
    descriptors.emplace_back(rocksdb::kDefaultColumnFamilyName,
                             rocksdb::ColumnFamilyOptions(options_));
    for (std::size_t t = 0; t < tables_.size(); ++t) {
      descriptors.emplace_back("table-" + std::to_string(t),
                               rocksdb::ColumnFamilyOptions(options_));
    }
    rocksdb::DB* database = nullptr;
    std::vector<rocksdb::ColumnFamilyHandle*> families;
    const rocksdb::DBOptions options(options_);
    const std::string rows = directory_->rows();
    const rocksdb::Status status =
        read_only ? rocksdb::DB::OpenForReadOnly(options, rows, descriptors, &families, &database)
                  : rocksdb::DB::Open(options, rows, descriptors, &families, &database);
    if (!status.ok()) {
      return Translate(status, "(all)").Annotate("open " + rows);
    }
    database_.reset(database);
    families_ = std::move(families);
    return OkStatus();
  }

  Status Write(std::uint32_t table, std::span<const ColdRun> runs) override {
    if (errors_->hard() || !writable_) {
      RETURN_IF_ERROR(Reopen(table));
    } else if (failed_) {
      // Whether it can go on is seen below.
      database_->Resume().PermitUncheckedError();
    }
    failed_ = false;
    std::vector<std::string> files;
    rocksdb::Status status = Build(table, runs, &files);
    if (status.ok() && errors_->hard()) {
      status = rocksdb::Status::IOError("RocksDB has stopped writing");
    }
    if (status.ok() && !files.empty()) {
      rocksdb::IngestExternalFileOptions ingest;
      ingest.move_files = true;
      ingest.failed_move_fall_back_to_copy = false;
      ingest.snapshot_consistency = false;
      ingest.write_global_seqno = false;
      status = database_->IngestExternalFile(Family(table), files, ingest);
    }
    if (!status.ok()) {
      failed_ = true;
      for (const std::string& file : files) {
        std::error_code ignored;
        std::filesystem::remove(file, ignored);
      }
    }
    return Translate(status, tables_[table].name);
  }

  Status Read(std::uint32_t table, std::span<const ColdLookup> lookups,
              std::vector<std::uint64_t>* failed) override {
    const std::shared_lock lock(database_mutex_);
    Status first;
    for (std::size_t begin = 0; begin < lookups.size(); begin += kReadTogether) {
      const std::size_t count = std::min(kReadTogether, lookups.size() - begin);
      Status status = ReadTogether(table, lookups.subspan(begin, count), failed);
      if (first.ok()) {
        first = std::move(status);
      }
    }
    return first;
  }

  std::unique_ptr<View> Pin(std::uint32_t table) override {
    const std::shared_lock lock(database_mutex_);
    auto view = std::make_unique<PinnedRows>(this);
    if (closed_.ok()) {
      rocksdb::ReadOptions read;
      read.fill_cache = false;
      view->rows.reset(database_->NewIterator(read, Family(table)));
    }
    const std::lock_guard views_lock(views_mutex_);
    views_.insert(view.get());
    return view;
  }

  Status ReadPinned(View* view, std::uint32_t table, std::span<const ColdLookup> lookups) override {
    const std::shared_lock lock(database_mutex_);
    rocksdb::Iterator* rows = static_cast<PinnedRows*>(view)->rows.get();
    if (rows == nullptr) {
      return Unavailable("table " + tables_[table].name + ": the rows in " + directory_->rows() +
                         " had to be opened anew after an error of the disk");
    }
    std::array<char, kColdKeyBytes> key_bytes;
    const rocksdb::Slice key(key_bytes.data(), key_bytes.size());
    for (const ColdLookup& lookup : lookups) {
      EncodeColdKey(lookup.hash, key_bytes.data());
      for (int i = 0; i < kNextsMax && rows->Valid() && rows->key().compare(key) < 0; ++i) {
        rows->Next();
      }
      if (!rows->Valid() || rows->key().compare(key) < 0) {
        rows->Seek(key);
      }
      if (!rows->Valid() || rows->key() != key) {
        RETURN_IF_ERROR(Translate(rows->status(), tables_[table].name));
        return DataLoss("table " + tables_[table].name + ": the row of key " +
                        std::to_string(KeyOfMix64(lookup.hash)) + " is not in " +
                        directory_->rows());
      }
      RETURN_IF_ERROR(Verify(table, lookup.hash, rows->value()));
      std::memcpy(lookup.to, rows->value().data(), tables_[table].record_bytes);
    }
    return OkStatus();
  }

  Status Scan(std::uint32_t table, std::span<const ColdRun> newer,
              const std::function<void(Key, const std::byte*)>& visit) override {
    const std::shared_lock lock(database_mutex_);
    RETURN_IF_ERROR(closed_);
    rocksdb::ReadOptions read;
    read.fill_cache = false;
    read.readahead_size = kScanReadahead;
    const std::unique_ptr<rocksdb::Iterator> rows(database_->NewIterator(read, Family(table)));
    ColdRunMerger merger(newer);
    rows->SeekToFirst();
    for (;;) {
      const bool on_disk = rows->Valid();
      const std::uint64_t hash = on_disk ? DecodeColdKey(rows->key().data()) : 0;
      if (merger.valid() && (!on_disk || merger.hash() <= hash)) {
        if (merger.record() != nullptr) {
          visit(KeyOfMix64(merger.hash()), merger.record());
        }
        if (on_disk && merger.hash() == hash) {
          rows->Next();
        }
        merger.Next();
      } else if (on_disk) {
        RETURN_IF_ERROR(Verify(table, hash, rows->value()));
        visit(KeyOfMix64(hash), reinterpret_cast<const std::byte*>(rows->value().data()));
        rows->Next();
      } else {
        return Translate(rows->status(), tables_[table].name);
      }
    }
  }

  std::uint64_t compactions() const override {
    const std::shared_lock lock(database_mutex_);
    std::uint64_t running = 0;
    if (database_ == nullptr) {
      return 0;
    }
    database_->GetIntProperty(rocksdb::DB::Properties::kNumRunningCompactions, &running);
    return running + Sum(rocksdb::DB::Properties::kCompactionPending);
  }

  std::uint64_t disk_bytes() const override {
    const std::shared_lock lock(database_mutex_);
    return Sum(rocksdb::DB::Properties::kLiveSstFilesSize);
  }

  std::uint64_t memory_bytes() const override {
    const std::shared_lock lock(database_mutex_);
    return cache_->GetUsage() + Sum(rocksdb::DB::Properties::kEstimateTableReadersMem) +
           Sum(rocksdb::DB::Properties::kCurSizeAllMemTables);
  }

  std::string Shape() const override {
    const std::shared_lock lock(database_mutex_);
    std::string shape;
    for (std::size_t t = 0; database_ != nullptr && t < tables_.size(); ++t) {
      rocksdb::ColumnFamilyMetaData meta;
      database_->GetColumnFamilyMetaData(families_[t + 1], &meta);
      for (const rocksdb::LevelMetaData& level : meta.levels) {
        if (!level.files.empty()) {
          shape += " L" + std::to_string(level.level) + ":" + std::to_string(level.files.size()) +
                   "/" + std::to_string(level.size >> 20) + "MiB";
        }
      }
    }
    return shape;
  }

 private:
  struct PinnedRows final : View {
    explicit PinnedRows(RocksFiles* owner) : files(owner) {}
    ~PinnedRows() override {
      const std::shared_lock lock(files->database_mutex_);
      const std::lock_guard views_lock(files->views_mutex_);
      files->views_.erase(this);
      rows.reset();
    }
    RocksFiles* const files;
    std::unique_ptr<rocksdb::Iterator> rows;  // Null: the database was closed.
  };

  void CloseDatabase() {
    {
      const std::lock_guard views_lock(views_mutex_);
      for (PinnedRows* view : views_) {
        view->rows.reset();
      }
    }
    for (rocksdb::ColumnFamilyHandle* family : std::exchange(families_, {})) {
      database_->DestroyColumnFamilyHandle(family).PermitUncheckedError();
    }
    database_.reset();
  }

  // After an error that RocksDB does not recover from.  Its files are as they were; without room
  // for what opening writes, the old database stays, and goes on reading.
  Status Reopen(std::uint32_t table) {
    const rocksdb::Status room = TryToWrite();
    if (!room.ok()) {
      return Translate(room, tables_[table].name);
    }
    const std::unique_lock lock(database_mutex_);
    CloseDatabase();
    errors_->Clear();
    Status status = OpenDatabase();
    writable_ = status.ok();
    closed_ = writable_ ? OkStatus() : OpenDatabase(/*read_only=*/true);
    LOG_IF(ERROR, !closed_.ok()) << "rows on disk: " << closed_.message();
    return status;
  }

  // Is there room for some files as RocksDB writes them?
  rocksdb::Status TryToWrite() {
    const std::string path = directory_->fresh() + "/room";
    std::unique_ptr<rocksdb::WritableFile> file;
    rocksdb::Status status =
        options_.env->NewWritableFile(path, &file, rocksdb::EnvOptions(options_));
    const std::string part(std::size_t{64} << 10, 'x');
    for (std::size_t size = 0; status.ok() && size < kRoomBytes; size += part.size()) {
      status = file->Append(part);
    }
    if (status.ok()) {
      status = file->Sync();
    }
    file.reset();
    options_.env->DeleteFile(path).PermitUncheckedError();
    return status;
  }

  // Of a property, over all tables.
  std::uint64_t Sum(const std::string& property) const {
    std::uint64_t sum = 0;
    if (database_ == nullptr) {
      return 0;
    }
    database_->GetAggregatedIntProperty(property, &sum);
    return sum;
  }

  rocksdb::ColumnFamilyHandle* Family(std::uint32_t table) const { return families_[table + 1]; }

  // Sorted files with the runs' rows; *files names them, also after a failure.
  rocksdb::Status Build(std::uint32_t table, std::span<const ColdRun> runs,
                        std::vector<std::string>* files) {
    const std::uint32_t width = tables_[table].record_bytes;
    std::string value(width + kColdCheckBytes, '\0');
    std::unique_ptr<rocksdb::SstFileWriter> writer;
    std::uint64_t last = 0;
    std::array<char, kColdKeyBytes> key_bytes;
    const rocksdb::Slice key(key_bytes.data(), key_bytes.size());
    for (ColdRunMerger rows(runs); rows.valid(); rows.Next()) {
      if (writer != nullptr && rows.hash() - last > kGapMax) {
        const rocksdb::Status status = writer->Finish();
        if (!status.ok()) {
          return status;
        }
        writer.reset();
      }
      last = rows.hash();
      rocksdb::Status status;
      if (writer == nullptr) {
        files->push_back(directory_->fresh() + "/" + std::to_string(++file_count_) + ".sst");
        writer = std::make_unique<rocksdb::SstFileWriter>(rocksdb::EnvOptions(), options_,
                                                          Family(table), false);
        status = writer->Open(files->back());
      }
      EncodeColdKey(last, key_bytes.data());
      if (status.ok() && rows.record() != nullptr) {
        std::memcpy(value.data(), rows.record(), width);
        const std::uint32_t check = ColdCheck(seeds_[table], last, value.data(), width);
        std::memcpy(value.data() + width, &check, kColdCheckBytes);
        status = writer->Put(key, value);
      } else if (status.ok()) {
        status = writer->Delete(key);
      }
      if (!status.ok()) {
        return status;
      }
    }
    return writer == nullptr ? rocksdb::Status::OK() : writer->Finish();
  }

  Status Verify(std::uint32_t table, std::uint64_t hash, const rocksdb::Slice& value) const {
    const std::uint32_t width = tables_[table].record_bytes;
    std::uint32_t check = 0;
    if (value.size() == width + kColdCheckBytes) {
      std::memcpy(&check, value.data() + width, kColdCheckBytes);
      if (check == ColdCheck(seeds_[table], hash, value.data(), width)) {
        return OkStatus();
      }
    }
    return DataLoss("table " + tables_[table].name + ": the row of key " +
                    std::to_string(KeyOfMix64(hash)) + " in " + directory_->rows() +
                    " fails its check");
  }

  Status ReadTogether(std::uint32_t table, std::span<const ColdLookup> lookups,
                      std::vector<std::uint64_t>* failed) {
    std::array<std::array<char, kColdKeyBytes>, kReadTogether> key_bytes;
    std::array<rocksdb::Slice, kReadTogether> keys;
    std::array<rocksdb::PinnableSlice, kReadTogether> values;
    std::array<rocksdb::Status, kReadTogether> statuses;
    for (std::size_t i = 0; i < lookups.size(); ++i) {
      EncodeColdKey(lookups[i].hash, key_bytes[i].data());
      keys[i] = rocksdb::Slice(key_bytes[i].data(), kColdKeyBytes);
    }
    rocksdb::ReadOptions read;
    read.verify_checksums = true;
    read.fill_cache = layout_.cache_rows;
    if (closed_.ok()) {
      database_->MultiGet(read, Family(table), lookups.size(), keys.data(), values.data(),
                          statuses.data(), /*sorted_input=*/true);
    }
    Status first;
    for (std::size_t i = 0; i < lookups.size(); ++i) {
      Status status;
      if (!closed_.ok()) {
        status = closed_;
      } else if (statuses[i].IsNotFound()) {
        status = DataLoss("table " + tables_[table].name + ": the row of key " +
                          std::to_string(KeyOfMix64(lookups[i].hash)) + " is not in " +
                          directory_->rows());
      } else if (!statuses[i].ok()) {
        status = Translate(statuses[i], tables_[table].name);
      } else {
        status = Verify(table, lookups[i].hash, values[i]);
      }
      if (status.ok()) {
        std::memcpy(lookups[i].to, values[i].data(), tables_[table].record_bytes);
        continue;
      }
      failed->push_back(lookups[i].hash);
      if (first.ok()) {
        first = std::move(status);
      }
    }
    return first;
  }

  const std::unique_ptr<ColdDirectory> directory_;
  const std::vector<ColdTable> tables_;
  const ColdLayout layout_;
  std::vector<std::uint64_t> seeds_;  // Of each table's checks.
  std::unique_ptr<rocksdb::Env> own_env_;
  std::shared_ptr<rocksdb::Cache> cache_;
  const std::shared_ptr<BackgroundErrors> errors_ = std::make_shared<BackgroundErrors>();
  rocksdb::Options options_;
  mutable std::shared_mutex database_mutex_;  // Exclusive: while the database is opened anew.
  std::unique_ptr<rocksdb::DB> database_;
  std::vector<rocksdb::ColumnFamilyHandle*> families_;  // The default one, then the tables'.
  Status closed_;                                       // Why there is none.
  std::mutex views_mutex_;                              // Behind database_mutex_.
  std::set<PinnedRows*> views_;                         // Guarded by views_mutex_.
  // Of the thread that writes.
  std::uint64_t file_count_ = 0;
  bool failed_ = false;  // The last write.
  bool writable_ = true;
};

}  // namespace

StatusOr<std::unique_ptr<ColdFiles>> ColdFiles::Open(std::unique_ptr<ColdDirectory> directory,
                                                     const std::vector<ColdTable>& tables,
                                                     const ColdStoreOptions& options) {
  auto files = std::make_unique<RocksFiles>(std::move(directory), tables, options);
  RETURN_IF_ERROR(files->OpenDatabase());
  return std::unique_ptr<ColdFiles>(std::move(files));
}

}  // namespace plexus
