#include "ps/store/model_file.h"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string_view>
#include <utility>

#include <google/protobuf/text_format.h>

#include "common/files.h"
#include "ps/store/key_set.h"
#include "ps/store/model_block.h"
#include "ps/store/model_writer.h"

namespace plexus {
namespace {

// Gathers rows of one table into blocks.
class RowsWriter {
 public:
  RowsWriter(std::uint32_t table, ModelFileWriter* writer) : table_(table), writer_(writer) {}

  void Add(const RowView& row) {
    rows_.Add(row);
    if (rows_.bytes.size() >= TableSnapshot::kBlockBytes) {
      Flush();
    }
  }

  void Flush() {
    if (rows_.count > 0) {
      // The first error stays with the writer.
      (void)writer_->Write(
          {SnapshotBlock::Kind::kRows, table_, rows_.count, std::move(rows_.bytes)});
      rows_ = {};
    }
  }

 private:
  const std::uint32_t table_;
  ModelFileWriter* const writer_;
  SnapshotRows rows_;
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

// Rows in memory, rows on disk, filters.
Status WriteTable(const Table& table, std::uint32_t index, const ColdScan& scan,
                  ModelFileWriter* writer) {
  RowsWriter rows(index, writer);
  table.ForEachRow([&](const RowView& row) { rows.Add(row); });
  RETURN_IF_ERROR(ForEachColdRow(table, index, scan, [&](const RowView& row) { rows.Add(row); }));
  rows.Flush();
  Status status;
  table.ForEachFilter([&](std::uint32_t bucket, const std::string& bytes) {
    status = writer->Write({SnapshotBlock::Kind::kFilter, index, bucket, bytes});
  });
  return status;
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
  Status VisitErased(ByteReader reader) const;
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

Status BlockVisitor::VisitErased(ByteReader reader) const {
  std::string name;
  std::uint32_t count = 0;
  std::span<const Key> keys;
  if (!GetName(&reader, &name) || !reader.Get(&count) || !reader.Align(8) ||
      reader.remaining() != count * std::uint64_t{sizeof(Key)} || !reader.GetArray(count, &keys)) {
    return DataLoss("a block of erased keys of the wrong length");
  }
  ASSIGN_OR_RETURN(const std::uint32_t table, TableOf(plan_, name));
  for (const Key key : keys) {
    if (visitor_.erased != nullptr) {
      visitor_.erased(table, key);
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

// `base`: of the manifest.
Status CheckHead(ByteReader reader, std::uint64_t base) {
  std::span<const char> magic;
  std::uint32_t format = 0;
  std::uint32_t shard = 0;
  std::uint64_t version = 0;
  std::uint64_t builds_on = 0;
  if (!reader.GetArray(kModelMagic.size(), &magic) ||
      std::string_view(magic.data(), magic.size()) != kModelMagic || !reader.Get(&format)) {
    return DataLoss("not a model file");
  }
  if (format != kModelFormat && format != kIncrementalFormat) {
    return FailedPrecondition("format " + std::to_string(format) +
                              ", of which this build knows nothing");
  }
  if (!reader.Get(&shard) || !reader.Get(&version) ||
      (format == kIncrementalFormat && !reader.Get(&builds_on))) {
    return DataLoss("the head block is cut off");
  }
  return builds_on == base ? OkStatus()
                           : DataLoss("builds on version " + std::to_string(builds_on) +
                                      ", the manifest's on " + std::to_string(base));
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

// Whether it is the file that the manifest names, by size and hash.
bool IsFile(const std::string& path, const proto::SavedFile& saved) {
  BlockReader reader(path);
  StatusOr<std::uint32_t> kind = reader.Next();
  while (kind.ok() && *kind != kEnd) {
    kind = reader.Next();
  }
  return kind.ok() && reader.bytes() == saved.bytes() && reader.hash() == saved.hash();
}

// What a file has that is not in a newer link of its chain.
class ChainVisitor {
 public:
  ChainVisitor(const JobPlan& plan, const ModelVisitor& visitor)
      : plan_(plan),
        visitor_(visitor),
        newer_(plan.tables.size()),
        erased_(plan.tables.size()),
        rows_(plan.tables.size()) {}

  // Of the chain's `link`, from the newest on; `last`: of the one that is whole.
  ModelVisitor Of(std::size_t link, bool last) {
    for (std::uint32_t table = 0; table < erased_.size(); ++table) {
      for (const Key key : std::exchange(erased_[table], {})) {
        newer_[table].Insert(key);  // Of the link before: they hold for older ones.
      }
    }
    ModelVisitor visitor;
    visitor.row = [this, link, last](std::uint32_t table, const RowView& row) {
      if ((link > 0 && newer_[table].Contains(row.key)) ||
          (!last && !newer_[table].Insert(row.key))) {
        return;
      }
      ++rows_[table];
      if (visitor_.row != nullptr) {
        visitor_.row(table, row);
      }
    };
    visitor.erased = [this](std::uint32_t table, Key key) { erased_[table].push_back(key); };
    if (link == 0) {
      visitor.filter = visitor_.filter;
      visitor.dense = visitor_.dense;
    }
    return visitor;
  }

  // All that the links add up to is as many rows as the newest has.
  Status CheckRows(const ModelLink& newest) const {
    for (const proto::TableRows& table : newest.manifest.tables()) {
      ASSIGN_OR_RETURN(const std::uint32_t index, TableOf(plan_, table.name()));
      if (rows_[index] != table.rows()) {
        return DataLoss(newest.directory + "/" + kManifestName + ": says " +
                        std::to_string(table.rows()) + " rows of table " + table.name() +
                        ", the files add up to " + std::to_string(rows_[index]));
      }
    }
    return OkStatus();
  }

 private:
  const JobPlan& plan_;
  const ModelVisitor& visitor_;
  std::vector<KeySet> newer_;             // By table: keys that a newer link has or took away.
  std::vector<std::vector<Key>> erased_;  // By table: of the link that is being visited.
  std::vector<std::uint64_t> rows_;       // By table.
};

Status VisitModelFile(const BlockVisitor& visitor, const std::string& path,
                      const proto::SavedFile& saved, std::uint64_t base) {
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
      status = CheckHead(reader.payload(), base);
    } else if (kind == kRows) {
      status = visitor.VisitRows(reader.payload());
    } else if (kind == kDense) {
      status = visitor.VisitDense(reader.payload());
    } else if (kind == kErased && base != 0) {
      status = visitor.VisitErased(reader.payload());
    } else if (kind == kFilter) {
      status = visitor.VisitFilter(reader.payload());
    } else if (kind == kEnd) {
      status = CheckEnd(reader, saved);
    } else {
      status = DataLoss("a block of unknown kind");
    }
    if (!status.ok()) {
      // A block's head has no checksum of its own: what does not fit the job may be damage.
      const bool is_another =
          status.code() == StatusCode::kFailedPrecondition && !IsFile(path, saved);
      return (is_another ? DataLoss(status.message() + ", and not the file that the manifest names")
                         : status)
          .Annotate(path + " at offset " + std::to_string(reader.offset()));
    }
    if (kind == kEnd) {
      return OkStatus();
    }
  }
}

Status VisitLink(const JobPlan& plan, const ModelLink& link, const ModelVisitor& visitor) {
  const proto::Manifest& manifest = link.manifest;
  if (manifest.files_size() != static_cast<int>(manifest.shards())) {
    return DataLoss(link.directory + ": a model of " + std::to_string(manifest.shards()) +
                    " shards with " + std::to_string(manifest.files_size()) + " files");
  }
  const BlockVisitor blocks(plan, visitor);
  for (const proto::SavedFile& file : manifest.files()) {
    RETURN_IF_ERROR(
        VisitModelFile(blocks, link.directory + "/" + file.name(), file, manifest.base()));
  }
  return OkStatus();
}

}  // namespace

StatusOr<proto::SavedFile> WriteModelFile(const JobPlan& plan, const ShardState& state,
                                          std::uint32_t shard, std::uint64_t version,
                                          const std::string& directory, const ColdScan& scan,
                                          Digest128* digest) {
  ModelFileWriter writer(plan, {.shard = shard, .version = version}, directory);
  for (std::uint32_t t = 0; t < state.table_count(); ++t) {
    RETURN_IF_ERROR(WriteTable(state.table(t), t, scan, &writer));
  }
  for (std::size_t i = 0; i < state.dense().blocks().size(); ++i) {
    const std::span<const float> floats = state.dense().at(i);
    RETURN_IF_ERROR(writer.Write(
        {SnapshotBlock::Kind::kDense, 0, state.dense().blocks()[i],
         std::string(reinterpret_cast<const char*>(floats.data()), floats.size_bytes())}));
  }
  *digest = writer.digest();
  return writer.Finish();
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

StatusOr<std::vector<ModelLink>> ReadChain(const std::string& directory) {
  std::vector<ModelLink> chain;
  std::string at = directory;
  while (true) {
    std::string seal;
    StatusOr<proto::Manifest> manifest = ReadManifest(at, &seal);
    if (!manifest.ok()) {
      return chain.empty()
                 ? manifest.status()
                 : DataLoss(manifest.status().message() + "; " + directory + " builds on it");
    }
    if (!chain.empty()) {
      const proto::Manifest& newer = chain.back().manifest;
      if (manifest->version() != newer.base() || seal != newer.base_seal()) {
        return DataLoss(at + "/" + kManifestName + ": not the one that " + chain.back().directory +
                        " builds on");
      }
    }
    if (manifest->base() >= manifest->version() && manifest->base() != 0) {
      return DataLoss(at + "/" + kManifestName + ": builds on a later version");
    }
    const std::uint64_t base = manifest->base();
    chain.push_back({at, *std::move(manifest)});
    if (base == 0) {
      return chain;
    }
    at = BaseDirectory(at, base);
  }
}

StatusOr<proto::Manifest> VisitModel(const JobPlan& plan, const std::string& directory,
                                     const ModelVisitor& visitor) {
  ASSIGN_OR_RETURN(const std::vector<ModelLink> chain, ReadChain(directory));
  const proto::Manifest& newest = chain.front().manifest;
  if (newest.model() != plan.job.model().name()) {
    return FailedPrecondition(directory + " holds a model " + newest.model() + ", the job's is " +
                              plan.job.model().name());
  }
  ChainVisitor newest_wins(plan, visitor);
  for (std::size_t i = 0; i < chain.size(); ++i) {
    RETURN_IF_ERROR(VisitLink(plan, chain[i], newest_wins.Of(i, i + 1 == chain.size())));
  }
  RETURN_IF_ERROR(newest_wins.CheckRows(chain.front()));
  return newest;
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

StatusOr<proto::Manifest> ReadManifest(const std::string& directory, std::string* seal) {
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
  if (seal != nullptr) {
    *seal = text->substr(body);
  }
  return manifest;
}

std::string BaseDirectory(const std::string& directory, std::uint64_t base) {
  std::filesystem::path at = std::filesystem::path(directory).lexically_normal();
  if (at.filename().empty()) {
    at = at.parent_path();  // A slash at the end.
  }
  return (at.has_parent_path() ? at.parent_path() / std::to_string(base)
                               : std::filesystem::path(std::to_string(base)))
      .string();
}

}  // namespace plexus
