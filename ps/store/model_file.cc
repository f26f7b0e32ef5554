#include "ps/store/model_file.h"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <memory>
#include <string_view>
#include <utility>

#include <google/protobuf/text_format.h>

#include "common/failpoint.h"
#include "common/files.h"
#include "ps/store/model_block.h"

namespace plexus {
namespace {

constexpr std::size_t kBlockBytes = 1 << 20;  // Rows are gathered up to about this.

template <typename T>
void Append(std::string* out, const T& value) {
  out->append(reinterpret_cast<const char*>(&value), sizeof(T));
}

void AppendName(std::string* out, const std::string& name) {
  Append(out, static_cast<std::uint32_t>(name.size()));
  *out += name;
  out->append((8 - out->size() % 8) % 8, '\0');
}

// Writes blocks through a buffer; the first error stays.
class BlockWriter {
 public:
  explicit BlockWriter(const std::string& path)
      : path_(path), file_(std::fopen(path.c_str(), "wb"), &std::fclose) {
    if (file_ == nullptr) {
      status_ = ErrnoStatus("open", path_);
    }
  }

  void Write(std::uint32_t kind, const std::string& payload) {
    std::string head;
    Append(&head, kind);
    Append(&head, static_cast<std::uint32_t>(payload.size()));
    Append(&head, HashBytes(payload, 0));
    Put(head);
    Put(payload);
    ++blocks_;
    Failpoint("model.block");
  }

  std::uint64_t blocks() const { return blocks_; }

  // Size and chained hash of the file.
  StatusOr<proto::SavedFile> Finish() {
    if (status_.ok() && std::fflush(file_.get()) != 0) {
      status_ = ErrnoStatus("write", path_);
    }
    file_.reset();
    RETURN_IF_ERROR(status_);
    RETURN_IF_ERROR(SyncPath(path_));
    proto::SavedFile saved;
    saved.set_bytes(bytes_);
    saved.set_hash(hash_);
    return saved;
  }

 private:
  void Put(const std::string& bytes) {
    if (!status_.ok()) {
      return;
    }
    if (std::fwrite(bytes.data(), 1, bytes.size(), file_.get()) != bytes.size()) {
      status_ = ErrnoStatus("write", path_);
    }
    hash_ = HashBytes(bytes, hash_);
    bytes_ += bytes.size();
  }

  const std::string path_;
  std::unique_ptr<std::FILE, int (*)(std::FILE*)> file_;
  Status status_;
  std::uint64_t blocks_ = 0;
  std::uint64_t bytes_ = 0;
  std::uint64_t hash_ = 0;
};

// How rows are written: two tables of equal codes read each other's records.
std::uint32_t LayoutCode(const TableSpec& spec) {
  return static_cast<std::uint32_t>(spec.precision) |
         static_cast<std::uint32_t>(spec.state_precision) << 4 |
         static_cast<std::uint32_t>(spec.learned_scale) << 8 | spec.dim << 16;
}

// Gathers rows of one table into blocks.
class RowsWriter {
 public:
  RowsWriter(const Table& table, BlockWriter* writer) : table_(table), writer_(writer) {}

  void Add(const RowView& row) {
    Append(&rows_, row.key);
    Append(&rows_, row.last_step);
    Append(&rows_, row.count);
    rows_.append(reinterpret_cast<const char*>(row.record.data()), row.record.size());
    ++count_;
    if (rows_.size() >= kBlockBytes) {
      Flush();
    }
  }

  void Flush() {
    if (count_ == 0) {
      return;
    }
    std::string payload;
    AppendName(&payload, table_.spec().name);
    Append(&payload, LayoutCode(table_.spec()));
    Append(&payload, table_.layout().record_bytes());
    Append(&payload, count_);
    payload += rows_;
    writer_->Write(kRows, payload);
    rows_.clear();
    count_ = 0;
  }

 private:
  const Table& table_;
  BlockWriter* const writer_;
  std::string rows_;
  std::uint32_t count_ = 0;
};

// Every row of the table on disk.
Status ForEachColdRow(const Table& table, std::uint32_t index, const ColdScan& scan,
                      const std::function<void(const RowView&)>& visit) {
  if (table.cold_count() == 0) {
    return OkStatus();
  }
  CHECK(scan != nullptr) << "rows on disk and no one who reads them";
  std::uint64_t seen = 0;
  RETURN_IF_ERROR(scan(index, [&](Key key, const std::byte* record) {
    RowView row;
    if (table.ViewCold(key, record, &row)) {
      visit(row);
      ++seen;
    }
  }));
  return seen == table.cold_count()
             ? OkStatus()
             : DataLoss("table " + table.spec().name + " has " +
                        std::to_string(table.cold_count()) + " rows on disk, of which " +
                        std::to_string(seen) + " were found");
}

// Rows in memory, rows on disk, filters; *digest grows by all of them.
Status WriteTable(const Table& table, std::uint32_t index, const ColdScan& scan,
                  BlockWriter* writer, Digest128* digest) {
  RowsWriter rows(table, writer);
  table.ForEachRow([&](const RowView& row) { rows.Add(row); });
  *digest += table.Digest();
  RETURN_IF_ERROR(ForEachColdRow(table, index, scan, [&](const RowView& row) {
    rows.Add(row);
    *digest += RowDigest(table.spec().name, row);
  }));
  rows.Flush();
  table.ForEachFilter([&](std::uint32_t bucket, const std::string& bytes) {
    std::string payload;
    AppendName(&payload, table.spec().name);
    Append(&payload, bucket);
    Append(&payload, static_cast<std::uint32_t>(bytes.size()));
    payload += bytes;
    writer->Write(kFilter, payload);
  });
  return OkStatus();
}

Status Damaged(const std::string& path, std::uint64_t offset, const std::string& what) {
  return DataLoss(path + " at offset " + std::to_string(offset) + ": " + what);
}

StatusOr<std::uint32_t> TableOf(const JobPlan& plan, const std::string& name) {
  for (std::uint32_t table = 0; table < plan.tables.size(); ++table) {
    if (plan.tables[table].name == name) {
      return table;
    }
  }
  return FailedPrecondition("the job has no table " + name);
}

// Hands out what blocks hold, once it fits the job.
class BlockVisitor {
 public:
  BlockVisitor(const JobPlan& plan, const ModelVisitor& visitor) : plan_(plan), visitor_(visitor) {
    for (const TableSpec& spec : plan.tables) {
      record_bytes_.push_back(RowLayout(spec, *MakeOptimizer(spec.optimizer)).record_bytes());
    }
  }

  Status VisitRows(ByteReader reader) const;
  Status VisitFilter(ByteReader reader) const;
  Status VisitDense(ByteReader reader) const;

 private:
  const JobPlan& plan_;
  const ModelVisitor& visitor_;
  std::vector<std::uint32_t> record_bytes_;  // By table.
};

Status BlockVisitor::VisitRows(ByteReader reader) const {
  std::string name;
  std::uint32_t code = 0;
  std::uint32_t record_bytes = 0;
  std::uint32_t rows = 0;
  if (!GetName(&reader, &name) || !reader.Get(&code) || !reader.Get(&record_bytes) ||
      !reader.Get(&rows)) {
    return DataLoss("a block of rows without a head");
  }
  ASSIGN_OR_RETURN(const std::uint32_t table, TableOf(plan_, name));
  const TableSpec& spec = plan_.tables[table];
  if (code != LayoutCode(spec) || record_bytes != record_bytes_[table]) {
    return FailedPrecondition("rows of table " + name + " have " + std::to_string(record_bytes) +
                              " bytes, the job's have " + std::to_string(record_bytes_[table]) +
                              ": another dimension, optimizer or precision");
  }
  for (std::uint32_t i = 0; i < rows; ++i) {
    RowView row;
    std::span<const std::uint8_t> bytes;
    if (!reader.Get(&row.key) || !reader.Get(&row.last_step) || !reader.Get(&row.count) ||
        !reader.GetArray(std::uint64_t{record_bytes}, &bytes)) {
      return DataLoss("rows are cut off");
    }
    if (spec.kind == TableSpec::Kind::kArray && row.key >= spec.rows) {
      return FailedPrecondition("row " + std::to_string(row.key) + " of table " + name +
                                ", of which the job has " + std::to_string(spec.rows) + " rows");
    }
    row.record = std::as_bytes(bytes);
    if (visitor_.row != nullptr) {
      visitor_.row(table, row);
    }
  }
  return OkStatus();
}

Status BlockVisitor::VisitFilter(ByteReader reader) const {
  std::string name;
  std::uint32_t bucket = 0;
  std::uint32_t size = 0;
  std::span<const char> bytes;
  if (!GetName(&reader, &name) || !reader.Get(&bucket) || !reader.Get(&size) ||
      !reader.GetArray(size, &bytes)) {
    return DataLoss("a filter is cut off");
  }
  ASSIGN_OR_RETURN(const std::uint32_t table, TableOf(plan_, name));
  if (bucket >= plan_.buckets()) {
    return FailedPrecondition("a filter of bucket " + std::to_string(bucket) +
                              ", and the job has " + std::to_string(plan_.buckets()));
  }
  return visitor_.filter == nullptr
             ? OkStatus()
             : visitor_.filter(table, bucket, std::string(bytes.begin(), bytes.end()));
}

Status BlockVisitor::VisitDense(ByteReader reader) const {
  std::string name;
  std::uint32_t first = 0;
  std::uint32_t count = 0;
  std::uint32_t size = 0;
  std::span<const std::uint8_t> bytes;
  if (!GetName(&reader, &name) || !reader.Get(&first) || !reader.Get(&count) ||
      !reader.Get(&size) || !reader.GetArray(std::uint64_t{size} * sizeof(float), &bytes)) {
    return DataLoss("a dense block is cut off");
  }
  std::vector<float> floats(size);
  std::memcpy(floats.data(), bytes.data(), bytes.size());
  const auto& blocks = plan_.dense.blocks();
  for (std::uint32_t b = 0; b < blocks.size(); ++b) {
    if (blocks[b].first == first && blocks[b].count == count &&
        plan_.dense.parameters()[blocks[b].parameter].name == name) {
      return visitor_.dense == nullptr ? OkStatus() : visitor_.dense(b, floats);
    }
  }
  return FailedPrecondition("the job's model has no dense parameter " + name + " of this shape");
}

Status CheckHead(ByteReader reader) {
  std::span<const char> magic;
  std::uint32_t format = 0;
  if (!reader.GetArray(kModelMagic.size(), &magic) ||
      std::string_view(magic.data(), magic.size()) != kModelMagic || !reader.Get(&format)) {
    return DataLoss("not a model file");
  }
  return format == kModelFormat ? OkStatus()
                                : FailedPrecondition("format " + std::to_string(format) +
                                                     ", of which this build knows nothing");
}

// A file's blocks in order, each verified before it is handed out.
class BlockReader {
 public:
  explicit BlockReader(const std::string& path) : path_(path), file_(path, std::ios::binary) {}

  bool opened() const { return static_cast<bool>(file_); }
  // Where the last block begins; all blocks, with it.
  std::uint64_t offset() const { return offset_; }
  std::uint64_t bytes() const { return next_; }
  std::uint64_t hash() const { return hash_; }
  std::uint64_t blocks() const { return blocks_; }
  ByteReader payload() const { return {payload_.data(), payload_.size()}; }

  // The kind of the next block.
  StatusOr<std::uint32_t> Next() {
    BlockHead head;
    offset_ = next_;
    if (!file_.read(reinterpret_cast<char*>(&head), sizeof(head))) {
      return Damaged(path_, offset_, "the file ends without its end block");
    }
    if (head.bytes > kModelBlockBytesMax) {
      return Damaged(path_, offset_, "a block of impossible length");
    }
    payload_.resize(head.bytes);
    if (!file_.read(reinterpret_cast<char*>(payload_.data()), head.bytes)) {
      return Damaged(path_, offset_, "a block is cut off");
    }
    const std::string_view payload(reinterpret_cast<const char*>(payload_.data()), payload_.size());
    if (HashBytes(payload, 0) != head.hash) {
      return Damaged(path_, offset_, "checksum mismatch");
    }
    hash_ = HashBytes({reinterpret_cast<const char*>(&head), sizeof(head)}, hash_);
    hash_ = HashBytes(payload, hash_);
    next_ += sizeof(head) + head.bytes;
    ++blocks_;
    return head.kind;
  }

 private:
  const std::string path_;
  std::ifstream file_;
  std::vector<std::uint8_t> payload_;
  std::uint64_t offset_ = 0;
  std::uint64_t next_ = 0;
  std::uint64_t blocks_ = 0;
  std::uint64_t hash_ = 0;
};

Status CheckEnd(const BlockReader& reader, const proto::SavedFile& saved) {
  std::uint64_t blocks = 0;
  if (!reader.payload().Get(&blocks) || blocks + 1 != reader.blocks()) {
    return DataLoss("blocks are missing");
  }
  if (reader.bytes() != saved.bytes() || reader.hash() != saved.hash()) {
    return DataLoss("not the file that the manifest names");
  }
  return OkStatus();
}

Status VisitModelFile(const BlockVisitor& visitor, const std::string& path,
                      const proto::SavedFile& saved) {
  BlockReader reader(path);
  if (!reader.opened()) {
    return ErrnoStatus("open", path);
  }
  while (true) {
    ASSIGN_OR_RETURN(const std::uint32_t kind, reader.Next());
    Status status;
    if ((kind == kHead) != (reader.blocks() == 1)) {
      status = DataLoss("a head block belongs at the front, and only there");
    } else if (kind == kHead) {
      status = CheckHead(reader.payload());
    } else if (kind == kRows) {
      status = visitor.VisitRows(reader.payload());
    } else if (kind == kDense) {
      status = visitor.VisitDense(reader.payload());
    } else if (kind == kFilter) {
      status = visitor.VisitFilter(reader.payload());
    } else if (kind == kEnd) {
      status = CheckEnd(reader, saved);
    } else {
      status = DataLoss("a block of unknown kind");
    }
    if (!status.ok()) {
      return status.Annotate(path + " at offset " + std::to_string(reader.offset()));
    }
    if (kind == kEnd) {
      return OkStatus();
    }
  }
}

}  // namespace

StatusOr<proto::SavedFile> WriteModelFile(const JobPlan& plan, const ShardState& state,
                                          std::uint32_t shard, std::uint64_t version,
                                          const std::string& directory, const ColdScan& scan,
                                          Digest128* digest) {
  RETURN_IF_ERROR(MakeDirectories(directory));
  char name[32];
  std::snprintf(name, sizeof(name), "shard-%05u.model", shard);
  const std::string path = directory + "/" + name;
  BlockWriter writer(path + ".tmp");
  std::string head(kModelMagic);
  Append(&head, kModelFormat);
  Append(&head, shard);
  Append(&head, version);
  writer.Write(kHead, head);
  *digest = state.dense().Digest();
  for (std::uint32_t t = 0; t < state.table_count(); ++t) {
    RETURN_IF_ERROR(WriteTable(state.table(t), t, scan, &writer, digest));
  }
  for (std::size_t i = 0; i < state.dense().blocks().size(); ++i) {
    const DenseBlock& block = state.dense().block(i);
    const std::span<const float> floats = state.dense().at(i);
    std::string payload;
    AppendName(&payload, plan.dense.parameters()[block.parameter].name);
    Append(&payload, block.first);
    Append(&payload, block.count);
    Append(&payload, static_cast<std::uint32_t>(floats.size()));
    payload.append(reinterpret_cast<const char*>(floats.data()), floats.size_bytes());
    writer.Write(kDense, payload);
  }
  std::string end;
  Append(&end, writer.blocks());
  writer.Write(kEnd, end);
  ASSIGN_OR_RETURN(proto::SavedFile saved, writer.Finish());
  Failpoint("model.unnamed");
  if (std::rename((path + ".tmp").c_str(), path.c_str()) != 0) {
    return ErrnoStatus("rename", path + ".tmp");
  }
  Failpoint("model.named");
  RETURN_IF_ERROR(SyncPath(directory));
  saved.set_name(name);
  return saved;
}

StatusOr<Digest128> DigestOf(const ShardState& state, const ColdScan& scan) {
  Digest128 digest = state.Digest();
  for (std::uint32_t t = 0; t < state.table_count(); ++t) {
    const Table& table = state.table(t);
    RETURN_IF_ERROR(ForEachColdRow(
        table, t, scan, [&](const RowView& row) { digest += RowDigest(table.spec().name, row); }));
  }
  return digest;
}

StatusOr<proto::Manifest> VisitModel(const JobPlan& plan, const std::string& directory,
                                     const ModelVisitor& visitor) {
  ASSIGN_OR_RETURN(proto::Manifest manifest, ReadManifest(directory));
  if (manifest.model() != plan.job.model().name()) {
    return FailedPrecondition(directory + " holds a model " + manifest.model() + ", the job's is " +
                              plan.job.model().name());
  }
  if (manifest.files_size() != static_cast<int>(manifest.shards())) {
    return DataLoss(directory + ": a model of " + std::to_string(manifest.shards()) +
                    " shards with " + std::to_string(manifest.files_size()) + " files");
  }
  const BlockVisitor blocks(plan, visitor);
  for (const proto::SavedFile& file : manifest.files()) {
    RETURN_IF_ERROR(VisitModelFile(blocks, directory + "/" + file.name(), file));
  }
  return manifest;
}

void ReserveRows(const proto::Manifest& manifest, ShardState* state) {
  for (const proto::TableRows& table : manifest.tables()) {
    state->Reserve(table.name(), table.rows());
  }
}

StatusOr<proto::Manifest> ReadModel(const JobPlan& plan, const std::string& directory,
                                    ShardState* state) {
  ASSIGN_OR_RETURN(const proto::Manifest manifest, ReadManifest(directory));
  ReserveRows(manifest, state);
  ModelVisitor visitor;
  visitor.row = [state](std::uint32_t table, const RowView& row) { state->RestoreRow(table, row); };
  visitor.filter = [state](std::uint32_t table, std::uint32_t bucket, const std::string& bytes) {
    return state->RestoreFilter(table, bucket, bytes);
  };
  visitor.dense = [state](std::uint32_t block, std::span<const float> floats) {
    return state->RestoreDenseBlock(block, floats);
  };
  return VisitModel(plan, directory, visitor);
}

std::string ManifestSeal(std::string_view text) {
  char seal[48];
  std::snprintf(seal, sizeof(seal), "# XXH3_64 of the above: %016llx\n",
                static_cast<unsigned long long>(HashBytes(text, 0)));
  return seal;
}

Status WriteManifest(const proto::Manifest& manifest, const std::string& directory) {
  std::string text;
  google::protobuf::TextFormat::PrintToString(manifest, &text);
  text += ManifestSeal(text);
  return WriteFileAtomically(directory + "/" + kManifestName, text);
}

StatusOr<proto::Manifest> ReadManifest(const std::string& directory) {
  const std::string path = directory + "/" + kManifestName;
  StatusOr<std::string> text = ReadWholeFile(path, 1 << 24);
  if (!text.ok()) {
    return NotFound("no saved model in " + directory + ": " + text.status().message());
  }
  proto::Manifest manifest;
  const std::size_t body = text->size() - std::min(ManifestSeal("").size(), text->size());
  if (text->substr(body) != ManifestSeal(std::string_view(*text).substr(0, body)) ||
      !google::protobuf::TextFormat::ParseFromString(*text, &manifest)) {
    return DataLoss(path +
                    ": not a manifest, or damaged: the hash in its last line is of another text");
  }
  return manifest;
}

}  // namespace plexus
