#include "ps/store/model_check.h"

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <map>
#include <set>
#include <utility>

#include <google/protobuf/io/tokenizer.h>
#include <google/protobuf/text_format.h>

#include "common/files.h"
#include "common/hash.h"
#include "proto/checkpoint.pb.h"
#include "ps/shard_state.h"
#include "ps/store/model_block.h"
#include "ps/store/model_file.h"
#include "ps/table/filter_digest.h"
#include "ps/table/table.h"

namespace plexus {
namespace {

// What all files of a model tell.
struct Contents {
  ModelCheck* check;
  Digest128 digest;
  std::map<std::string, std::pair<std::uint32_t, std::uint32_t>> layouts;  // Code, record bytes.
};

// Why the payload is not what its kind says; empty: it is.
std::string CheckRows(ByteReader reader, Contents* contents) {
  std::string name;
  std::uint32_t code = 0;
  std::uint32_t record_bytes = 0;
  std::uint32_t rows = 0;
  if (!GetName(&reader, &name) || !reader.Get(&code) || !reader.Get(&record_bytes) ||
      !reader.Get(&rows)) {
    return "a block of rows without a head";
  }
  if (reader.remaining() != rows * (std::uint64_t{record_bytes} + 24)) {
    return "a block of rows that is not as long as its rows";
  }
  const std::pair<std::uint32_t, std::uint32_t> layout(code, record_bytes);
  if (contents->layouts.try_emplace(name, layout).first->second != layout) {
    return "rows of table " + name + " in another layout than those before";
  }
  for (std::uint32_t i = 0; i < rows; ++i) {
    RowView row;
    std::span<const std::uint8_t> bytes;
    (void)(reader.Get(&row.key) && reader.Get(&row.last_step) && reader.Get(&row.count) &&
           reader.GetArray(std::uint64_t{record_bytes}, &bytes));  // All are there.
    row.record = std::as_bytes(bytes);
    contents->digest += RowDigest(name, row);
  }
  contents->check->rows += rows;
  return "";
}

std::string CheckDense(ByteReader reader, Contents* contents) {
  std::string name;
  std::uint32_t first = 0;
  std::uint32_t count = 0;
  std::uint32_t size = 0;
  std::span<const char> floats;
  if (!GetName(&reader, &name) || !reader.Get(&first) || !reader.Get(&count) ||
      !reader.Get(&size) || !reader.GetArray(std::uint64_t{size} * sizeof(float), &floats) ||
      reader.remaining() != 0 || size < count) {
    return "a dense block of the wrong length";
  }
  std::string bytes = name;
  bytes.push_back('\0');
  const std::uint64_t element = first;
  bytes.append(reinterpret_cast<const char*>(&element), sizeof(element));
  bytes.append(floats.begin(), floats.end());
  contents->digest += HashBytes128(bytes);
  return "";
}

std::string CheckFilter(ByteReader reader, Contents* contents) {
  std::string name;
  std::uint32_t bucket = 0;
  std::uint32_t size = 0;
  std::span<const char> bytes;
  if (!GetName(&reader, &name) || !reader.Get(&bucket) || !reader.Get(&size) ||
      !reader.GetArray(size, &bytes) || reader.remaining() != 0) {
    return "a filter of the wrong length";
  }
  contents->digest += FilterDigest(name, bucket, std::string(bytes.begin(), bytes.end()));
  return "";
}

std::string CheckErased(ByteReader reader) {
  std::string name;
  std::uint32_t count = 0;
  const bool fits = GetName(&reader, &name) && reader.Get(&count) && reader.Align(8) &&
                    reader.remaining() == count * std::uint64_t{sizeof(Key)};
  return fits ? "" : "a block of erased keys of the wrong length";
}

// One file, block after block.
class FileCheck {
 public:
  // `saved` and `manifest` are null if the manifest cannot say; `shard` is the file's place.
  FileCheck(std::string path, const proto::SavedFile* saved, std::uint32_t shard,
            const proto::Manifest* manifest, Contents* contents)
      : path_(std::move(path)),
        saved_(saved),
        shard_(shard),
        manifest_(manifest),
        contents_(*contents),
        file_(path_, std::ios::binary) {}

  void Run() {
    std::error_code error;
    size_ = std::filesystem::file_size(path_, error);
    if (error || !file_) {
      Find(std::nullopt,
           error ? "missing: " + error.message() : std::string("cannot be opened for reading"));
      return;
    }
    ++contents_.check->files;
    contents_.check->bytes += size_;
    if (saved_ != nullptr && size_ != saved_->bytes()) {
      Find(std::min(size_, saved_->bytes()), "the file has " + std::to_string(size_) +
                                                 " bytes, the manifest says " +
                                                 std::to_string(saved_->bytes()));
    }
    bool followed = true;
    while (followed && offset_ < size_ && !ended_) {
      followed = NextBlock();
    }
    if (!followed) {
      return;
    }
    if (!ended_) {
      Find(offset_, "the file ends without its end block");
    } else if (offset_ < size_) {
      Find(offset_, std::to_string(size_ - offset_) + " bytes behind the end block");
    }
    if (saved_ != nullptr && hash_ != saved_->hash()) {
      Find(0, "not the file that the manifest names: another hash");
    }
  }

 private:
  void Find(std::optional<std::uint64_t> offset, std::string what) {
    contents_.check->findings.push_back({path_, offset, std::move(what), true});
  }

  bool ReadAt(std::uint64_t offset, void* to, std::uint64_t bytes) {
    file_.clear();
    file_.seekg(static_cast<std::streamoff>(offset));
    return static_cast<bool>(
        file_.read(static_cast<char*>(to), static_cast<std::streamsize>(bytes)));
  }

  // Whether a block can begin there, as far as its head tells.
  bool IsBlockAt(std::uint64_t offset) {
    BlockHead head;
    return size_ - offset >= sizeof(head) && ReadAt(offset, &head, sizeof(head)) &&
           head.kind >= kHead && head.kind <= kErased && head.bytes <= kModelBlockBytesMax &&
           head.bytes <= size_ - offset - sizeof(head);
  }

  // False: what lies behind this block cannot be told apart any more.
  bool NextBlock() {
    const std::uint64_t at = offset_;
    const std::uint64_t left = size_ - at;
    BlockHead head;
    if (left < sizeof(head) || !ReadAt(at, &head, sizeof(head))) {
      Find(at, "the file ends inside a block's head");
      return false;
    }
    if (head.bytes > kModelBlockBytesMax || head.bytes > left - sizeof(head)) {
      Find(at, "a block of " + std::to_string(head.bytes) + " bytes, and " +
                   std::to_string(left - sizeof(head)) +
                   " are left: cut off, or its length is damaged; what follows was not checked");
      return false;
    }
    payload_.resize(head.bytes);
    if (!ReadAt(at + sizeof(head), payload_.data(), head.bytes)) {
      Find(at + sizeof(head), "cannot be read: the disk's error");
      return false;
    }
    offset_ = at + sizeof(head) + head.bytes;
    const std::string_view payload(reinterpret_cast<const char*>(payload_.data()), payload_.size());
    hash_ = HashBytes({reinterpret_cast<const char*>(&head), sizeof(head)}, hash_);
    hash_ = HashBytes(payload, hash_);
    ++blocks_;
    if (HashBytes(payload, 0) != head.hash) {
      const bool follows = offset_ == size_ || IsBlockAt(offset_);
      Find(at, std::string("checksum mismatch in the block of ") + std::to_string(head.bytes) +
                   " bytes" +
                   (follows ? "" : "; its length may be damaged, what follows was not checked"));
      ended_ = ended_ || head.kind == kEnd;
      return follows;
    }
    ++contents_.check->blocks;
    if (const std::string why = CheckBlock(head.kind); !why.empty()) {
      Find(at, why);
    }
    return true;
  }

  std::string CheckBlock(std::uint32_t kind) {
    const ByteReader reader(payload_.data(), payload_.size());
    if ((kind == kHead) != (blocks_ == 1)) {
      return "a head block belongs at the front, and only there";
    }
    switch (kind) {
      case kHead:
        return CheckHead(reader);
      case kRows:
        return CheckRows(reader, &contents_);
      case kDense:
        return CheckDense(reader, &contents_);
      case kFilter:
        return CheckFilter(reader, &contents_);
      case kErased:
        return is_incremental_ ? CheckErased(reader) : "erased keys in a file that is whole";
      case kEnd: {
        ended_ = true;
        ByteReader end = reader;
        std::uint64_t before = 0;
        if (!end.Get(&before) || end.remaining() != 0) {
          return "an end block of the wrong length";
        }
        return before + 1 == blocks_
                   ? ""
                   : "the end block counts " + std::to_string(before) +
                         " blocks before it, there are " + std::to_string(blocks_ - 1);
      }
      default:
        return "a block of unknown kind " + std::to_string(kind);
    }
  }

  std::string CheckHead(ByteReader reader) {
    std::span<const char> magic;
    std::uint32_t format = 0;
    std::uint32_t shard = 0;
    std::uint64_t version = 0;
    std::uint64_t base = 0;
    if (!reader.GetArray(kModelMagic.size(), &magic) ||
        std::string_view(magic.data(), magic.size()) != kModelMagic || !reader.Get(&format)) {
      return "not a model file";
    }
    if (format != kModelFormat && format != kIncrementalFormat) {
      return "format " + std::to_string(format) + ", of which this build knows nothing";
    }
    is_incremental_ = format == kIncrementalFormat;
    if (!reader.Get(&shard) || !reader.Get(&version) || (is_incremental_ && !reader.Get(&base)) ||
        reader.remaining() != 0) {
      return "a head block of the wrong length";
    }
    if (shard != shard_) {
      return "the file of shard " + std::to_string(shard) + ", in the place of shard " +
             std::to_string(shard_);
    }
    if (manifest_ != nullptr && version != manifest_->version()) {
      return "of version " + std::to_string(version) + ", the manifest's is " +
             std::to_string(manifest_->version());
    }
    return manifest_ == nullptr || base == manifest_->base()
               ? ""
               : "builds on version " + std::to_string(base) + ", the manifest's on " +
                     std::to_string(manifest_->base());
  }

  const std::string path_;
  const proto::SavedFile* const saved_;
  const std::uint32_t shard_;
  const proto::Manifest* const manifest_;
  Contents& contents_;
  std::ifstream file_;
  std::vector<std::uint8_t> payload_;
  std::uint64_t size_ = 0;
  std::uint64_t offset_ = 0;
  std::uint64_t blocks_ = 0;
  std::uint64_t hash_ = 0;
  bool is_incremental_ = false;
  bool ended_ = false;
};

// Keeps the parser's words, which would go to the log.
class FirstError final : public google::protobuf::io::ErrorCollector {
 public:
  void AddError(int line, int column, const std::string& message) override {
    if (text_.empty()) {
      text_ = "line " + std::to_string(line + 1) + ", column " + std::to_string(column + 1) + ": " +
              message;
    }
  }
  const std::string& text() const { return text_; }

 private:
  std::string text_;
};

// What can be known of the manifest; nothing: it is missing, or no manifest.
std::optional<proto::Manifest> CheckManifest(const std::string& directory, ModelCheck* check) {
  const std::string path = directory + "/" + kManifestName;
  const auto find = [&](std::optional<std::uint64_t> offset, std::string what) {
    check->findings.push_back({path, offset, std::move(what), true});
  };
  StatusOr<std::string> text = ReadWholeFile(path, 1 << 24);
  if (!text.ok()) {
    find(std::nullopt, "missing, so that there is no model here: " + text.status().message());
    return std::nullopt;
  }
  ++check->files;
  check->bytes += text->size();
  const std::size_t seal_bytes = ManifestSeal("").size();
  const std::size_t body = text->size() - std::min(text->size(), seal_bytes);
  if (text->substr(body) != ManifestSeal(std::string_view(*text).substr(0, body))) {
    find(body, "the checksum in the last line does not fit, or is missing");
  }
  proto::Manifest manifest;
  FirstError error;
  google::protobuf::TextFormat::Parser parser;
  parser.RecordErrorsTo(&error);
  if (!parser.ParseFromString(*text, &manifest)) {
    find(0, "not a manifest: " + error.text());
    return std::nullopt;
  }
  check->model = manifest.model();
  check->version = manifest.version();
  if (manifest.files_size() != static_cast<int>(manifest.shards())) {
    find(0, "a model of " + std::to_string(manifest.shards()) + " shards with " +
                std::to_string(manifest.files_size()) + " files");
  }
  return manifest;
}

// An incremental checkpoint's base is there, and the one that it was.
void CheckBase(const std::string& directory, const proto::Manifest& manifest, ModelCheck* check) {
  if (manifest.base() == 0) {
    return;
  }
  check->base = BaseDirectory(directory, manifest.base());
  std::string seal;
  const StatusOr<proto::Manifest> base = ReadManifest(check->base, &seal);
  const std::string path = directory + "/" + kManifestName;
  if (!base.ok()) {
    check->findings.push_back({path, std::nullopt,
                               "builds on version " + std::to_string(manifest.base()) +
                                   ", which is not whole: " + base.status().message()});
  } else if (base->version() != manifest.base() || seal != manifest.base_seal()) {
    check->findings.push_back(
        {path, std::nullopt,
         "builds on another checkpoint than the one that lies in " + check->base + " now"});
  }
}

std::string FileOfShard(std::uint32_t shard) {
  char name[32];
  std::snprintf(name, sizeof(name), "shard-%05u.model", shard);
  return name;
}

// Files in the directory that are not in `known`, by name.
std::vector<std::string> OtherFiles(const std::string& directory,
                                    const std::set<std::string>& known) {
  std::vector<std::string> others;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(directory, error)) {
    const std::string name = entry.path().filename().string();
    if (!known.contains(name)) {
      others.push_back(name);
    }
  }
  std::sort(others.begin(), others.end());
  return others;
}

}  // namespace

bool ModelCheck::damaged() const {
  return std::any_of(findings.begin(), findings.end(),
                     [](const ModelFinding& finding) { return finding.damage; });
}

ModelCheck CheckModel(const std::string& directory) {
  ModelCheck check;
  Contents contents{.check = &check, .digest = {}, .layouts = {}};
  const std::optional<proto::Manifest> manifest = CheckManifest(directory, &check);
  std::set<std::string> known = {kManifestName};
  if (manifest.has_value()) {
    for (int i = 0; i < manifest->files_size(); ++i) {
      const proto::SavedFile& file = manifest->files(i);
      if (file.name().find('/') != std::string::npos || file.name().empty()) {
        check.findings.push_back({directory + "/" + kManifestName, std::nullopt,
                                  "names a file \"" + file.name() + "\", which is none of ours"});
        continue;
      }
      known.insert(file.name());
      FileCheck(directory + "/" + file.name(), &file, static_cast<std::uint32_t>(i), &*manifest,
                &contents)
          .Run();
    }
    CheckBase(directory, *manifest, &check);
    if (!check.damaged() && DigestHex(contents.digest) != manifest->model_digest()) {
      check.findings.push_back({directory + "/" + kManifestName, std::nullopt,
                                "says model_digest " + manifest->model_digest() +
                                    ", the files add up to " + DigestHex(contents.digest)});
    }
  } else {  // What can be checked without it.
    for (std::uint32_t shard = 0; std::filesystem::exists(directory + "/" + FileOfShard(shard));
         ++shard) {
      known.insert(FileOfShard(shard));
      FileCheck(directory + "/" + FileOfShard(shard), nullptr, shard, nullptr, &contents).Run();
    }
  }
  for (const std::string& name : OtherFiles(directory, known)) {
    check.findings.push_back(
        {directory + "/" + name, std::nullopt, "extra: the manifest does not name it", false});
  }
  return check;
}

}  // namespace plexus
