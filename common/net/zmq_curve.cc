#include "common/net/zmq_curve.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <filesystem>
#include <system_error>
#include <utility>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zmq.h>

#include "common/files.h"

namespace plexus {
namespace {

constexpr std::size_t kKeyBytes = 32;
constexpr std::size_t kKeyCharacters = 40;  // In Z85, five for four bytes.
constexpr std::size_t kKeyFileBytesMax = 256;
constexpr const char* kPublic = ".public";
constexpr const char* kSecret = ".secret";

using KeyText = std::array<char, kKeyCharacters + 1>;

std::string FileOf(const std::string& directory, const std::string& name, const char* kind) {
  return directory + "/" + name + kind;
}

bool IsName(const std::string& name) {
  return !name.empty() && name.size() <= 64 &&
         std::all_of(name.begin(), name.end(), [](unsigned char c) {
           return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                  c == '-' || c == '_';
         });
}

StatusOr<std::string> ReadKey(const std::string& path) {
  StatusOr<std::string> text = ReadWholeFile(path, kKeyFileBytesMax);
  if (!text.ok()) {
    return text.status().Annotate("key file");
  }
  const std::size_t end = text->find_last_not_of(" \t\r\n");
  text->resize(end == std::string::npos ? 0 : end + 1);
  std::array<std::uint8_t, kKeyBytes> decoded;
  if (text->size() != kKeyCharacters ||
      ::zmq_z85_decode(decoded.data(), text->c_str()) == nullptr) {
    return InvalidArgument("key file " + path + " holds no key: it should be 40 characters of Z85");
  }
  return text;
}

// Makes a file that was not there, and syncs it.
Status WriteNewFile(const std::string& path, const std::string& content, mode_t mode) {
  const int fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode);
  if (fd < 0) {
    return ErrnoStatus("make key file", path);
  }
  const bool written =
      ::write(fd, content.data(), content.size()) == static_cast<ssize_t>(content.size()) &&
      ::fsync(fd) == 0;
  const Status status = written ? OkStatus() : ErrnoStatus("write key file", path);
  ::close(fd);
  if (!written) {
    ::unlink(path.c_str());
  }
  return status;
}

Status MakePrivateDirectory(const std::string& directory) {
  const std::filesystem::path parent = std::filesystem::path(directory).parent_path();
  if (!parent.empty()) {
    RETURN_IF_ERROR(MakeDirectories(parent));
  }
  if (::mkdir(directory.c_str(), 0700) != 0 && errno != EEXIST) {
    return ErrnoStatus("make directory", directory);
  }
  return OkStatus();
}

StatusOr<std::map<std::string, std::string>> ReadPublicKeys(const std::string& directory) {
  std::map<std::string, std::string> known;
  std::error_code error;
  for (std::filesystem::directory_iterator at(directory, error), end; !error && at != end;
       at.increment(error)) {
    const std::filesystem::path& path = at->path();
    if (path.extension() == kPublic) {
      ASSIGN_OR_RETURN(known[path.stem()], ReadKey(path));
    }
  }
  if (error) {
    return NotFound("key directory " + directory + ": " + error.message());
  }
  return known;
}

}  // namespace

Status CheckCurve() {
  return ::zmq_has("curve") != 0
             ? OkStatus()
             : Unavailable(
                   "this libzmq was built without CURVE: it has neither keys nor encryption");
}

StatusOr<CurveKeyPair> MakeCurveKeyPair() {
  RETURN_IF_ERROR(CheckCurve());
  KeyText public_key{};
  KeyText secret_key{};
  if (::zmq_curve_keypair(public_key.data(), secret_key.data()) != 0) {
    return Internal(std::string("make a pair of keys: ") + ::zmq_strerror(::zmq_errno()));
  }
  return CurveKeyPair{.public_key = public_key.data(), .secret_key = secret_key.data()};
}

Status WriteCurveKeys(const std::string& directory, const std::vector<std::string>& names) {
  RETURN_IF_ERROR(CheckCurve());
  for (const std::string& name : names) {
    if (!IsName(name)) {
      return InvalidArgument("'" + name + "' is no name for keys: letters, digits, - and _");
    }
    for (const char* kind : {kPublic, kSecret}) {
      const std::string path = FileOf(directory, name, kind);
      if (::access(path.c_str(), F_OK) == 0) {
        return FailedPrecondition(path + " is there already: a key is never overwritten");
      }
    }
  }
  RETURN_IF_ERROR(MakePrivateDirectory(directory));
  for (const std::string& name : names) {
    ASSIGN_OR_RETURN(const CurveKeyPair pair, MakeCurveKeyPair());
    RETURN_IF_ERROR(WriteNewFile(FileOf(directory, name, kSecret), pair.secret_key + "\n", 0600));
    RETURN_IF_ERROR(WriteNewFile(FileOf(directory, name, kPublic), pair.public_key + "\n", 0644));
  }
  return SyncPath(directory);
}

StatusOr<CurveKeys> LoadCurveKeys(const std::string& directory, const std::string& name) {
  RETURN_IF_ERROR(CheckCurve());
  CurveKeys keys;
  ASSIGN_OR_RETURN(keys.known, ReadPublicKeys(directory));
  const std::string public_file = FileOf(directory, name, kPublic);
  const std::string secret_file = FileOf(directory, name, kSecret);
  ASSIGN_OR_RETURN(keys.own.public_key, ReadKey(public_file));
  ASSIGN_OR_RETURN(keys.own.secret_key, ReadKey(secret_file));
  KeyText derived{};
  if (::zmq_curve_public(derived.data(), keys.own.secret_key.c_str()) != 0 ||
      keys.own.public_key != derived.data()) {
    return InvalidArgument("key files " + public_file + " and " + secret_file +
                           " are not of one pair");
  }
  struct stat info {};
  if (::stat(secret_file.c_str(), &info) == 0 && (info.st_mode & S_IRWXO) != 0) {
    LOG(WARNING) << secret_file << " is open to every user of this machine: chmod 600 it";
  }
  return keys;
}

}  // namespace plexus
