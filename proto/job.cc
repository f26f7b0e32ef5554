#include "proto/job.h"

#include <charconv>
#include <fstream>
#include <limits>
#include <sstream>

#include <google/protobuf/io/tokenizer.h>
#include <google/protobuf/text_format.h>

#include "proto/job_check.h"
#include "proto/job_override.h"
#include "proto/job_source.h"

namespace plexus {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::Reflection;
using google::protobuf::TextFormat;

constexpr std::size_t kJobBytesMax = 16 << 20;

// What stands between two marks in `message`, or "".
std::string Between(const std::string& message, const std::string& before,
                    const std::string& after) {
  const std::size_t begin = message.find(before);
  if (begin == std::string::npos) {
    return "";
  }
  const std::size_t start = begin + before.size();
  const std::size_t end = message.find(after, start);
  return end == std::string::npos ? "" : message.substr(start, end - start);
}

// Adds what names there are, if `message` says that a name is unknown.
std::string WithNames(const std::string& message) {
  const std::string type = Between(message, "Message type \"", "\" has no field named");
  const Descriptor* descriptor =
      proto::Job::descriptor()->file()->pool()->FindMessageTypeByName(type);
  if (type.empty() || descriptor == nullptr) {
    return message;
  }
  return descriptor->name() + " has no " + Quoted(Between(message, "has no field named \"", "\"")) +
         "; it has: " + MemberNames(*descriptor);
}

// The name that `message` complains of, or "".
std::string NameIn(const std::string& message) {
  for (const char* before :
       {"has no field named \"", "Unknown enumeration value of \"", "Non-repeated field \""}) {
    if (std::string name = Between(message, before, "\""); !name.empty()) {
      return name;
    }
  }
  return "";
}

// Collects the parser's errors.  The parser places what it says of a name at the token after the
// name; here it is placed at the name.
class ParseErrors : public google::protobuf::io::ErrorCollector {
 public:
  ParseErrors(std::string_view text, const JobSource& source) : text_(text), source_(source) {}

  void AddError(int line, int column, const std::string& message) override {
    errors_ += errors_.empty() ? "" : "\n";
    errors_ += PlaceOf(line < 0 ? 0 : line, column, NameIn(message));
    errors_ += ": ";
    errors_ += WithNames(message);
  }
  const std::string& errors() const { return errors_; }

 private:
  // The offset of a tokenizer's place: lines and columns from 0, tabs to the next multiple of 8.
  std::size_t OffsetOf(int line, int column) const {
    std::size_t offset = 0;
    for (; line > 0 && offset != std::string_view::npos; --line) {
      offset = text_.find('\n', offset);
      offset += offset == std::string_view::npos ? 0 : 1;
    }
    for (int at = 0; at < column && offset < text_.size(); ++offset) {
      at = text_[offset] == '\t' ? (at / 8 + 1) * 8 : at + 1;
    }
    return offset;
  }

  std::string PlaceOf(int line, int column, const std::string& name) const {
    const std::size_t token = OffsetOf(line, column);
    if (name.empty() || token == std::string_view::npos || token == 0) {
      return source_.Place(line, column);
    }
    const std::size_t offset = text_.rfind(name, token - 1);
    if (offset == std::string_view::npos) {
      return source_.Place(line, column);
    }
    line = 0;
    column = 0;
    for (const char c : text_.substr(0, offset)) {
      column = c == '\n' ? 0 : c == '\t' ? (column / 8 + 1) * 8 : column + 1;
      line += c == '\n' ? 1 : 0;
    }
    return source_.Place(line, column);
  }

  std::string_view text_;
  const JobSource& source_;
  std::string errors_;
};

// Writes the default of a singular value into the message.
void WriteDefault(const FieldDescriptor* field, Message* message) {
  const Reflection& r = *message->GetReflection();
  switch (field->cpp_type()) {
    case FieldDescriptor::CPPTYPE_INT32:
      return r.SetInt32(message, field, field->default_value_int32());
    case FieldDescriptor::CPPTYPE_INT64:
      return r.SetInt64(message, field, field->default_value_int64());
    case FieldDescriptor::CPPTYPE_UINT32:
      return r.SetUInt32(message, field, field->default_value_uint32());
    case FieldDescriptor::CPPTYPE_UINT64:
      return r.SetUInt64(message, field, field->default_value_uint64());
    case FieldDescriptor::CPPTYPE_DOUBLE:
      return r.SetDouble(message, field, field->default_value_double());
    case FieldDescriptor::CPPTYPE_FLOAT:
      return r.SetFloat(message, field, field->default_value_float());
    case FieldDescriptor::CPPTYPE_BOOL:
      return r.SetBool(message, field, field->default_value_bool());
    case FieldDescriptor::CPPTYPE_ENUM:
      return r.SetEnum(message, field, field->default_value_enum());
    case FieldDescriptor::CPPTYPE_STRING:
      return r.SetString(message, field, field->default_value_string());
    case FieldDescriptor::CPPTYPE_MESSAGE:
      return;
  }
}

// Writes every default, in all messages, made where they are missing.
void WriteDefaults(Message* message) {
  const Descriptor& type = *message->GetDescriptor();
  const Reflection& r = *message->GetReflection();
  for (int i = 0; i < type.field_count(); ++i) {
    const FieldDescriptor* field = type.field(i);
    if (field->cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE) {
      if (!field->is_repeated()) {
        WriteDefaults(r.MutableMessage(message, field));
      } else {
        for (int k = 0; k < r.FieldSize(*message, field); ++k) {
          WriteDefaults(r.MutableRepeatedMessage(message, field, k));
        }
      }
    } else if (!field->is_repeated() && !r.HasField(*message, field)) {
      WriteDefault(field, message);
    }
  }
}

void ResolveOptimizer(double learning_rate, proto::Optimizer* optimizer) {
  if (optimizer->learning_rate() < 0) {
    optimizer->set_learning_rate(learning_rate);
  }
  if (optimizer->epsilon() < 0) {
    const bool adagrad = optimizer->kind() == proto::Optimizer::ADAGRAD ||
                         optimizer->kind() == proto::Optimizer::ROW_WISE_ADAGRAD;
    optimizer->set_epsilon(adagrad ? 1e-10 : 1e-8);
  }
}

void Resolve(proto::Job* job) {
  if (!job->train().dense_optimizer().has_kind()) {
    job->mutable_train()->mutable_dense_optimizer()->set_kind(proto::Optimizer::ADAM);
  }
  if (job->data().format() == proto::Data::LIBSVM) {
    job->mutable_data()->mutable_fields(0)->set_kind(proto::Field::MULTI_VALUED);
  }
  WriteDefaults(job);
  const double learning_rate = job->train().learning_rate();
  ResolveOptimizer(learning_rate, job->mutable_train()->mutable_dense_optimizer());
  for (proto::Table& table : *job->mutable_tables()) {
    ResolveOptimizer(learning_rate, table.mutable_optimizer());
  }
}

}  // namespace

StatusOr<proto::Job> LoadJob(const std::string& path, const std::vector<std::string>& overrides) {
  std::ifstream file(path, std::ios::binary);
  if (!file) {
    return ErrnoStatus("open job file", path);
  }
  std::string text(kJobBytesMax + 1, '\0');
  file.read(text.data(), static_cast<std::streamsize>(text.size()));
  if (file.bad()) {
    return ErrnoStatus("read job file", path);
  }
  text.resize(static_cast<std::size_t>(file.gcount()));
  if (text.size() > kJobBytesMax) {
    return InvalidArgument(path + ":1:1: a job file has at most " + std::to_string(kJobBytesMax) +
                           " bytes");
  }
  return ParseJob(text, path, overrides);
}

StatusOr<proto::Job> ParseJob(const std::string& text, const std::string& name,
                              const std::vector<std::string>& overrides) {
  JobSource source(name);
  ParseErrors errors(text, source);
  TextFormat::Parser parser;
  parser.RecordErrorsTo(&errors);
  parser.WriteLocationsTo(source.tree());
  proto::Job job;
  if (!parser.ParseFromString(text, &job)) {
    return InvalidArgument(errors.errors());
  }
  for (const std::string& override : overrides) {
    RETURN_IF_ERROR(ApplyOverride(override, &job, &source));
  }
  RETURN_IF_ERROR(CheckJob(job, source));
  Resolve(&job);
  return job;
}

Status CheckRunnable(const proto::Job& job) {
  if (job.data().train().empty()) {
    return InvalidArgument(
        "the job names no training data: add data { train: \"FILE\" } to the job file, or "
        "--set data.train=FILE[,FILE...]");
  }
  return OkStatus();
}

std::string PrintJob(const proto::Job& job) {
  std::string text;
  TextFormat::Printer printer;
  printer.SetUseUtf8StringEscaping(true);
  CHECK(printer.PrintToString(job, &text)) << "print a job";
  return text;
}

StatusOr<std::uint64_t> ParseByteSize(std::string_view text) {
  const Status malformed =
      InvalidArgument(Quoted(text) + " is not a size such as 4096, 512KiB, 64MiB or 2GiB");
  std::uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc()) {
    return malformed;
  }
  const std::string_view unit = text.substr(static_cast<std::size_t>(end - text.data()));
  int shift = 0;
  if (unit == "KiB") {
    shift = 10;
  } else if (unit == "MiB") {
    shift = 20;
  } else if (unit == "GiB") {
    shift = 30;
  } else if (!unit.empty()) {
    return malformed;
  }
  const std::uint64_t most = std::numeric_limits<std::int64_t>::max();
  if (value > most >> shift) {
    return InvalidArgument(Quoted(text) + " is more than 2^63 - 1 bytes");
  }
  return value << shift;
}

}  // namespace plexus
