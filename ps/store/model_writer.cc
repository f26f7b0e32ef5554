#include "ps/store/model_writer.h"

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <span>
#include <string_view>
#include <utility>

#include <fcntl.h>
#include <unistd.h>

#include "common/failpoint.h"
#include "common/files.h"
#include "ps/store/model_block.h"
#include "ps/table/filter_digest.h"
#include "ps/table/table.h"

namespace plexus {
namespace {

// Pages that were written and not yet sent to the disk: so that the last sync finds little to do.
constexpr std::uint64_t kWritebackBytes = std::uint64_t{8} << 20;

template <typename T>
void Append(std::string* out, const T& value) {
  out->append(reinterpret_cast<const char*>(&value), sizeof(T));
}

void AppendName(std::string* out, const std::string& name) {
  Append(out, static_cast<std::uint32_t>(name.size()));
  *out += name;
  out->append((8 - out->size() % 8) % 8, '\0');
}

std::string FileOfShard(std::uint32_t shard) {
  char name[32];
  std::snprintf(name, sizeof(name), "shard-%05u.model", shard);
  return name;
}

}  // namespace

// The file, and what all of it adds up to; the first error stays.
class ModelFileWriter::Blocks {
 public:
  explicit Blocks(std::string path) : path_(std::move(path)) {
    file_ = ::open(path_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (file_ < 0) {
      status_ = ErrnoStatus("open", path_);
    }
  }
  explicit Blocks(Status status) : status_(std::move(status)) {}
  ~Blocks() {
    Close();
    if (!path_.empty()) {
      ::unlink(path_.c_str());  // After Finish it is gone by this name.
    }
  }

  void Write(std::uint32_t kind, const std::string& payload) {
    const BlockHead head{kind, static_cast<std::uint32_t>(payload.size()), HashBytes(payload, 0)};
    Put({reinterpret_cast<const char*>(&head), sizeof(head)});
    Put(payload);
    ++count_;
    Failpoint("model.block");
  }

  const Status& status() const { return status_; }
  std::uint64_t count() const { return count_; }
  std::uint64_t bytes() const { return bytes_; }
  const std::string& path() const { return path_; }

  // Size and chained hash of the file.
  StatusOr<proto::SavedFile> Finish() {
    if (status_.ok() && ::fsync(file_) != 0) {
      status_ = ErrnoStatus("sync", path_);
    }
    Close();
    RETURN_IF_ERROR(status_);
    proto::SavedFile saved;
    saved.set_bytes(bytes_);
    saved.set_hash(hash_);
    return saved;
  }

 private:
  void Put(std::string_view bytes) {
    hash_ = HashBytes(bytes, hash_);
    while (status_.ok() && !bytes.empty()) {
      const ssize_t written = ::write(file_, bytes.data(), bytes.size());
      if (written < 0 && errno == EINTR) {
        continue;
      }
      if (written <= 0) {
        status_ = ErrnoStatus("write", path_ + " at offset " + std::to_string(bytes_));
        return;
      }
      bytes_ += static_cast<std::uint64_t>(written);
      bytes.remove_prefix(static_cast<std::size_t>(written));
    }
    if (bytes_ - sent_ >= kWritebackBytes) {
      // A hint: what fails here is seen by the sync.
      (void)::sync_file_range(file_, static_cast<off_t>(sent_), static_cast<off_t>(bytes_ - sent_),
                              SYNC_FILE_RANGE_WRITE);
      sent_ = bytes_;
    }
  }

  void Close() {
    if (file_ >= 0 && ::close(file_) != 0 && status_.ok()) {
      status_ = ErrnoStatus("close", path_);
    }
    file_ = -1;
  }

  std::string path_;
  int file_ = -1;
  Status status_;
  std::uint64_t count_ = 0;
  std::uint64_t bytes_ = 0;
  std::uint64_t sent_ = 0;
  std::uint64_t hash_ = 0;
};

ModelFileWriter::ModelFileWriter(const JobPlan& plan, const ModelFileHead& head,
                                 const std::string& directory)
    : plan_(plan), directory_(directory), name_(FileOfShard(head.shard)) {
  if (Status made = MakeDirectories(directory); !made.ok()) {
    blocks_ = std::make_unique<Blocks>(std::move(made));
    return;
  }
  blocks_ = std::make_unique<Blocks>(directory + "/" + name_ + ".tmp");
  std::string payload(kModelMagic);
  Append(&payload, head.base == 0 ? kModelFormat : kIncrementalFormat);
  Append(&payload, head.shard);
  Append(&payload, head.version);
  if (head.base != 0) {
    Append(&payload, head.base);
  }
  blocks_->Write(kHead, payload);
}

ModelFileWriter::~ModelFileWriter() = default;

std::uint64_t ModelFileWriter::bytes() const { return blocks_->bytes(); }

Status ModelFileWriter::Write(const SnapshotBlock& block) {
  payload_.clear();
  switch (block.kind) {
    case SnapshotBlock::Kind::kRows:
      WriteRows(block);
      break;
    case SnapshotBlock::Kind::kErased:
      AppendName(&payload_, plan_.tables[block.table].name);
      Append(&payload_, block.count);
      payload_.append(4, '\0');
      payload_ += block.bytes;
      blocks_->Write(kErased, payload_);
      break;
    case SnapshotBlock::Kind::kFilter:
      WriteFilter(block);
      break;
    case SnapshotBlock::Kind::kDense:
      WriteDense(block);
      break;
    case SnapshotBlock::Kind::kEnd:
      break;
  }
  return blocks_->status();
}

void ModelFileWriter::WriteRows(const SnapshotBlock& block) {
  const TableSpec& spec = plan_.tables[block.table];
  const std::size_t row_bytes = block.bytes.size() / block.count;
  AppendName(&payload_, spec.name);
  Append(&payload_, LayoutCode(spec));
  Append(&payload_, static_cast<std::uint32_t>(row_bytes - kRowHeadBytes));
  Append(&payload_, block.count);
  payload_ += block.bytes;
  blocks_->Write(kRows, payload_);
  for (std::size_t at = 0; at < block.bytes.size(); at += row_bytes) {
    RowView row;
    std::memcpy(&row.key, block.bytes.data() + at, sizeof(row.key));
    std::memcpy(&row.last_step, block.bytes.data() + at + 8, sizeof(row.last_step));
    row.record = std::as_bytes(
        std::span(block.bytes).subspan(at + kRowHeadBytes, row_bytes - kRowHeadBytes));
    digest_ += RowDigest(spec.name, row);
  }
}

void ModelFileWriter::WriteFilter(const SnapshotBlock& block) {
  const std::string& table = plan_.tables[block.table].name;
  AppendName(&payload_, table);
  Append(&payload_, block.count);
  Append(&payload_, static_cast<std::uint32_t>(block.bytes.size()));
  payload_ += block.bytes;
  blocks_->Write(kFilter, payload_);
  digest_ += FilterDigest(table, block.count, block.bytes);
}

void ModelFileWriter::WriteDense(const SnapshotBlock& block) {
  const DenseBlock& shape = plan_.dense.blocks()[block.count];
  const std::string& name = plan_.dense.parameters()[shape.parameter].name;
  AppendName(&payload_, name);
  Append(&payload_, shape.first);
  Append(&payload_, shape.count);
  Append(&payload_, static_cast<std::uint32_t>(block.bytes.size() / sizeof(float)));
  payload_ += block.bytes;
  blocks_->Write(kDense, payload_);
  std::string digested = name;
  digested.push_back('\0');
  Append(&digested, std::uint64_t{shape.first});
  digested += block.bytes;
  digest_ += HashBytes128(digested);
}

StatusOr<proto::SavedFile> ModelFileWriter::Finish() {
  std::string end;
  Append(&end, blocks_->count());
  blocks_->Write(kEnd, end);
  ASSIGN_OR_RETURN(proto::SavedFile saved, blocks_->Finish());
  const std::string path = directory_ + "/" + name_;
  Failpoint("model.unnamed");
  if (std::rename(blocks_->path().c_str(), path.c_str()) != 0) {
    return ErrnoStatus("rename", blocks_->path());
  }
  Failpoint("model.named");
  RETURN_IF_ERROR(SyncPath(directory_));
  saved.set_name(name_);
  return saved;
}

std::uint32_t LayoutCode(const TableSpec& spec) {
  return static_cast<std::uint32_t>(spec.precision) |
         static_cast<std::uint32_t>(spec.state_precision) << 4 |
         static_cast<std::uint32_t>(spec.learned_scale) << 8 | spec.dim << 16;
}

}  // namespace plexus
