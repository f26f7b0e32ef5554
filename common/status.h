// Status and StatusOr<T>: how everything that the disk, the network or a user can cause is
// reported.
//
// Codes have gRPC's meanings.  Both classes are [[nodiscard]].  Programmers' errors are not a
// Status but a CHECK.  A message says what was tried on what; context is added going up with
// Annotate(), once a layer.
//
// Thread safety: values, like std::string.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include <glog/logging.h>

namespace plexus {

enum class StatusCode {
  kOk = 0,
  kInvalidArgument,     // The caller's (user's, peer's) input is wrong whatever the state is.
  kNotFound,            // A file, a name, a peer does not exist.
  kUnavailable,         // Try again: the peer is not there at the moment.
  kDeadlineExceeded,    // A bounded wait ended.
  kResourceExhausted,   // A bound (memory, disk, queue, bad lines) was reached.
  kAborted,             // Try again with a newer view: fenced, moved.
  kFailedPrecondition,  // Right input in the wrong state: a run directory in use, a mismatched
                        // model.
  kDataLoss,            // Bytes were damaged: a checksum, a torn file.
  kInternal,            // A bug of ours that was survived.
};

std::string_view StatusCodeName(StatusCode code);

class [[nodiscard]] Status {
 public:
  Status() = default;  // OK.
  Status(StatusCode code, std::string message) : code_(code), message_(std::move(message)) {}

  bool ok() const { return code_ == StatusCode::kOk; }
  StatusCode code() const { return code_; }
  const std::string& message() const { return message_; }

  // "<code name>: <message>", or "ok".
  std::string ToString() const;

  // The same code with "<context>: " before the message; OK stays OK.
  Status Annotate(std::string_view context) const;

 private:
  StatusCode code_ = StatusCode::kOk;
  std::string message_;
};

inline Status OkStatus() { return Status(); }
inline Status InvalidArgument(std::string m) {
  return {StatusCode::kInvalidArgument, std::move(m)};
}
inline Status NotFound(std::string m) { return {StatusCode::kNotFound, std::move(m)}; }
inline Status Unavailable(std::string m) { return {StatusCode::kUnavailable, std::move(m)}; }
inline Status DeadlineExceeded(std::string m) {
  return {StatusCode::kDeadlineExceeded, std::move(m)};
}
inline Status ResourceExhausted(std::string m) {
  return {StatusCode::kResourceExhausted, std::move(m)};
}
inline Status Aborted(std::string m) { return {StatusCode::kAborted, std::move(m)}; }
inline Status FailedPrecondition(std::string m) {
  return {StatusCode::kFailedPrecondition, std::move(m)};
}
inline Status DataLoss(std::string m) { return {StatusCode::kDataLoss, std::move(m)}; }
inline Status Internal(std::string m) { return {StatusCode::kInternal, std::move(m)}; }

// "<what> <path>: <strerror(errno)>" with a fitting code.  Reads errno.
Status ErrnoStatus(std::string_view what, std::string_view path);

template <typename T>
class [[nodiscard]] StatusOr {
 public:
  StatusOr(Status status) : status_(std::move(status)) {  // NOLINT(google-explicit-constructor)
    CHECK(!status_.ok()) << "an OK StatusOr needs a value";
  }
  StatusOr(T value) : value_(std::move(value)) {}  // NOLINT(google-explicit-constructor)

  bool ok() const { return value_.has_value(); }
  const Status& status() const { return status_; }

  // REQUIRES: ok().
  T& value() & {
    CHECK(ok()) << status_.ToString();
    return *value_;
  }
  const T& value() const& {
    CHECK(ok()) << status_.ToString();
    return *value_;
  }
  T&& value() && {
    CHECK(ok()) << status_.ToString();
    return *std::move(value_);
  }
  T& operator*() & { return value(); }
  const T& operator*() const& { return value(); }
  T&& operator*() && { return std::move(*this).value(); }
  T* operator->() { return &value(); }
  const T* operator->() const { return &value(); }

 private:
  Status status_;
  std::optional<T> value_;
};

#define PLEXUS_CONCAT_INNER(a, b) a##b
#define PLEXUS_CONCAT(a, b) PLEXUS_CONCAT_INNER(a, b)

#define RETURN_IF_ERROR(expr)                               \
  do {                                                      \
    if (::plexus::Status _status = (expr); !_status.ok()) { \
      return _status;                                       \
    }                                                       \
  } while (false)

#define ASSIGN_OR_RETURN(lhs, expr) \
  ASSIGN_OR_RETURN_INNER(PLEXUS_CONCAT(_status_or_, __LINE__), lhs, expr)
#define ASSIGN_OR_RETURN_INNER(tmp, lhs, expr) \
  auto tmp = (expr);                           \
  if (!tmp.ok()) {                             \
    return tmp.status();                       \
  }                                            \
  lhs = *std::move(tmp)

}  // namespace plexus
