// FaultyDisk: a RocksDB file system that is full, damaged, or made to wait, when a test says so.
//
// Thread safety: thread-safe.
#pragma once

#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <string>
#include <utility>

#include <rocksdb/file_system.h>

namespace plexus {

// Holds those who come while it is closed.
class Gate {
 public:
  void Close() { Set(true); }
  void Open() { Set(false); }
  void Pass() {
    std::unique_lock lock(mutex_);
    ++waiting_;
    changed_.notify_all();
    changed_.wait(lock, [this] { return !closed_; });
    --waiting_;
  }
  // Until someone is held.
  void AwaitVisitor() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return waiting_ > 0; });
  }

 private:
  void Set(bool closed) {
    {
      const std::lock_guard lock(mutex_);
      closed_ = closed;
    }
    changed_.notify_all();
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  bool closed_ = false;
  int waiting_ = 0;
};

class FaultyDisk : public rocksdb::FileSystemWrapper {
 public:
  FaultyDisk() : rocksdb::FileSystemWrapper(rocksdb::FileSystem::Default()) {}

  const char* Name() const override { return "FaultyDisk"; }

  std::atomic<bool> full = false;            // What is written fails with ENOSPC;
  std::atomic<bool> full_for_lists = false;  // only RocksDB's lists of its files.
  std::atomic<bool> unreadable = false;      // What is read fails with EIO.
  Gate writing;                              // Of files of rows.
  Gate reading;

  rocksdb::IOStatus NewWritableFile(const std::string& path, const rocksdb::FileOptions& options,
                                    std::unique_ptr<rocksdb::FSWritableFile>* file,
                                    rocksdb::IODebugContext* debug) override {
    if (IsOfRows(path)) {
      writing.Pass();
    }
    if (IsFullFor(path)) {
      return rocksdb::IOStatus::NoSpace("No space left on device", path);
    }
    rocksdb::IOStatus status = target()->NewWritableFile(path, options, file, debug);
    if (status.ok()) {
      *file = std::make_unique<Writable>(this, path, std::move(*file));
    }
    return status;
  }

  rocksdb::IOStatus NewRandomAccessFile(const std::string& path,
                                        const rocksdb::FileOptions& options,
                                        std::unique_ptr<rocksdb::FSRandomAccessFile>* file,
                                        rocksdb::IODebugContext* debug) override {
    rocksdb::IOStatus status = target()->NewRandomAccessFile(path, options, file, debug);
    if (status.ok()) {
      *file = std::make_unique<Readable>(this, path, std::move(*file));
    }
    return status;
  }

 private:
  static bool IsOfRows(const std::string& path) {
    return path.size() > 4 && path.compare(path.size() - 4, 4, ".sst") == 0;
  }

  bool IsFullFor(const std::string& path) const {
    return full || (full_for_lists && path.find("/MANIFEST-") != std::string::npos);
  }

  class Writable : public rocksdb::FSWritableFileOwnerWrapper {
   public:
    Writable(FaultyDisk* disk, std::string path, std::unique_ptr<rocksdb::FSWritableFile>&& file)
        : rocksdb::FSWritableFileOwnerWrapper(std::move(file)),
          disk_(disk),
          path_(std::move(path)) {}

    using rocksdb::FSWritableFileOwnerWrapper::Append;
    rocksdb::IOStatus Append(const rocksdb::Slice& data, const rocksdb::IOOptions& options,
                             rocksdb::IODebugContext* debug) override {
      if (disk_->IsFullFor(path_)) {
        return rocksdb::IOStatus::NoSpace("No space left on device", path_);
      }
      return rocksdb::FSWritableFileOwnerWrapper::Append(data, options, debug);
    }

   private:
    FaultyDisk* const disk_;
    const std::string path_;
  };

  class Readable : public rocksdb::FSRandomAccessFileOwnerWrapper {
   public:
    Readable(FaultyDisk* disk, std::string path,
             std::unique_ptr<rocksdb::FSRandomAccessFile>&& file)
        : rocksdb::FSRandomAccessFileOwnerWrapper(std::move(file)),
          disk_(disk),
          path_(std::move(path)) {}

    rocksdb::IOStatus Read(std::uint64_t offset, std::size_t size,
                           const rocksdb::IOOptions& options, rocksdb::Slice* result, char* scratch,
                           rocksdb::IODebugContext* debug) const override {
      disk_->reading.Pass();
      if (disk_->unreadable) {
        return rocksdb::IOStatus::IOError("While pread", path_ + ": Input/output error");
      }
      return rocksdb::FSRandomAccessFileOwnerWrapper::Read(offset, size, options, result, scratch,
                                                           debug);
    }
    // One after the other, through Read.
    rocksdb::IOStatus MultiRead(rocksdb::FSReadRequest* requests, std::size_t count,
                                const rocksdb::IOOptions& options,
                                rocksdb::IODebugContext* debug) override {
      for (std::size_t i = 0; i < count; ++i) {
        rocksdb::FSReadRequest& request = requests[i];
        request.status =
            Read(request.offset, request.len, options, &request.result, request.scratch, debug);
      }
      return rocksdb::IOStatus::OK();
    }

   private:
    FaultyDisk* const disk_;
    const std::string path_;
  };
};

}  // namespace plexus
