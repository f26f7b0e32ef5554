#include "common/status.h"

#include <cerrno>
#include <cstring>

namespace plexus {

std::string_view StatusCodeName(StatusCode code) {
  switch (code) {
    case StatusCode::kOk:
      return "ok";
    case StatusCode::kInvalidArgument:
      return "invalid argument";
    case StatusCode::kNotFound:
      return "not found";
    case StatusCode::kUnavailable:
      return "unavailable";
    case StatusCode::kDeadlineExceeded:
      return "deadline exceeded";
    case StatusCode::kResourceExhausted:
      return "resource exhausted";
    case StatusCode::kAborted:
      return "aborted";
    case StatusCode::kFailedPrecondition:
      return "failed precondition";
    case StatusCode::kDataLoss:
      return "data loss";
    case StatusCode::kInternal:
      return "internal";
  }
  return "unknown";
}

std::string Status::ToString() const {
  if (ok()) {
    return "ok";
  }
  return std::string(StatusCodeName(code_)) + ": " + message_;
}

Status Status::Annotate(std::string_view context) const {
  if (ok()) {
    return *this;
  }
  return Status(code_, std::string(context) + ": " + message_);
}

Status ErrnoStatus(std::string_view what, std::string_view path) {
  const int error = errno;
  StatusCode code = StatusCode::kUnavailable;
  if (error == ENOENT) {
    code = StatusCode::kNotFound;
  } else if (error == ENOSPC || error == EDQUOT || error == EMFILE || error == ENOMEM) {
    code = StatusCode::kResourceExhausted;
  } else if (error == EACCES || error == EROFS || error == EISDIR || error == ENOTDIR) {
    code = StatusCode::kFailedPrecondition;
  }
  return Status(code, std::string(what) + " " + std::string(path) + ": " + std::strerror(error));
}

}  // namespace plexus
