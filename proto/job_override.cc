#include "proto/job_override.h"

#include <charconv>
#include <cmath>
#include <string_view>
#include <system_error>
#include <vector>

#include <google/protobuf/descriptor.h>
#include <google/protobuf/message.h>

namespace plexus {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::EnumDescriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::Reflection;

// The value of `text`, all of it.  Errors carry no context.
template <typename T>
StatusOr<T> ParseNumber(std::string_view text, const FieldDescriptor& field) {
  const std::string type = field.cpp_type_name();
  T value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error == std::errc::result_out_of_range) {
    return InvalidArgument("out of range (" + type + ")");
  }
  if (error != std::errc() || end != text.data() + text.size()) {
    return InvalidArgument("not a number (" + type + ")");
  }
  return value;
}

StatusOr<bool> ParseBool(std::string_view text) {
  if (text == "true" || text == "1") {
    return true;
  }
  if (text == "false" || text == "0") {
    return false;
  }
  return InvalidArgument("neither true nor false");
}

StatusOr<int> ParseEnum(std::string_view text, const EnumDescriptor& type) {
  std::string names;
  for (int i = 0; i < type.value_count(); ++i) {
    if (type.value(i)->name() == text) {
      return type.value(i)->number();
    }
    names += (i == 0 ? "" : ", ") + type.value(i)->name();
  }
  return InvalidArgument("not one of " + names);
}

// Sets the singular `field` of `message`, or appends to the repeated one.
template <typename T, typename Set, typename Add>
Status Store(StatusOr<T> value, const FieldDescriptor& field, Set set, Add add) {
  RETURN_IF_ERROR(value.ok() ? OkStatus() : value.status());
  if (field.is_repeated()) {
    add(*std::move(value));
  } else {
    set(*std::move(value));
  }
  return OkStatus();
}

Status StoreText(const std::string& text, const FieldDescriptor* field, Message* message) {
  const Reflection& r = *message->GetReflection();
#define PLEXUS_STORE(parsed, Type)                                     \
  Store(                                                               \
      parsed, *field, [&](auto v) { r.Set##Type(message, field, v); }, \
      [&](auto v) { r.Add##Type(message, field, v); })
  switch (field->cpp_type()) {
    case FieldDescriptor::CPPTYPE_INT32:
      return PLEXUS_STORE(ParseNumber<std::int32_t>(text, *field), Int32);
    case FieldDescriptor::CPPTYPE_INT64:
      return PLEXUS_STORE(ParseNumber<std::int64_t>(text, *field), Int64);
    case FieldDescriptor::CPPTYPE_UINT32:
      return PLEXUS_STORE(ParseNumber<std::uint32_t>(text, *field), UInt32);
    case FieldDescriptor::CPPTYPE_UINT64:
      return PLEXUS_STORE(ParseNumber<std::uint64_t>(text, *field), UInt64);
    case FieldDescriptor::CPPTYPE_DOUBLE:
      return PLEXUS_STORE(ParseNumber<double>(text, *field), Double);
    case FieldDescriptor::CPPTYPE_FLOAT:
      return PLEXUS_STORE(ParseNumber<float>(text, *field), Float);
    case FieldDescriptor::CPPTYPE_BOOL:
      return PLEXUS_STORE(ParseBool(text), Bool);
    case FieldDescriptor::CPPTYPE_ENUM:
      return PLEXUS_STORE(ParseEnum(text, *field->enum_type()), EnumValue);
    case FieldDescriptor::CPPTYPE_STRING:
      return PLEXUS_STORE(StatusOr<std::string>(text), String);
    case FieldDescriptor::CPPTYPE_MESSAGE:
      break;
  }
#undef PLEXUS_STORE
  return Internal("StoreText of a message");
}

std::vector<std::string> SplitAt(std::string_view text, char separator) {
  std::vector<std::string> parts;
  while (true) {
    const std::size_t end = text.find(separator);
    parts.emplace_back(text.substr(0, end));
    if (end == std::string_view::npos) {
      return parts;
    }
    text.remove_prefix(end + 1);
  }
}

// The index of the element called `name`, or -1; all names go to `names`.
int FindByName(const Message& message, const FieldDescriptor* list, const std::string& name,
               std::string* names) {
  const Reflection& r = *message.GetReflection();
  const FieldDescriptor* key = list->message_type()->FindFieldByName("name");
  CHECK(key != nullptr) << list->full_name() << " has elements without names";
  for (int i = 0; i < r.FieldSize(message, list); ++i) {
    const Message& element = r.GetRepeatedMessage(message, list, i);
    const std::string element_name = element.GetReflection()->GetString(element, key);
    if (element_name == name) {
      return i;
    }
    *names += (i == 0 ? "" : ", ") + element_name;
  }
  return -1;
}

// What a path leads to.
struct Target {
  Message* message = nullptr;
  const FieldDescriptor* field = nullptr;
  std::string path;  // As JobSource names it.
};

StatusOr<Target> FindTarget(const std::string& path, proto::Job* job) {
  Target target{job, nullptr, ""};
  std::string above = "the job";
  const std::vector<std::string> parts = SplitAt(path, '.');
  for (std::size_t i = 0; i < parts.size(); ++i) {
    const Descriptor& type = *target.message->GetDescriptor();
    target.field = type.FindFieldByName(parts[i]);
    if (target.field == nullptr) {
      return InvalidArgument(above + " has no \"" + parts[i] + "\"; it has: " + MemberNames(type));
    }
    target.path += (i == 0 ? "" : ".") + parts[i];
    above = target.path;
    if (target.field->cpp_type() != FieldDescriptor::CPPTYPE_MESSAGE) {
      if (i + 1 < parts.size()) {
        return InvalidArgument(above + " is a value and has no \"" + parts[i + 1] + "\"");
      }
      return target;
    }
    const Reflection& r = *target.message->GetReflection();
    if (!target.field->is_repeated()) {
      target.message = r.MutableMessage(target.message, target.field);
    } else if (i + 1 < parts.size()) {
      ++i;
      std::string names;
      const int index = FindByName(*target.message, target.field, parts[i], &names);
      if (index < 0) {
        return InvalidArgument(above + " has no \"" + parts[i] + "\"; it has: " + names);
      }
      target.path += '[';
      target.path += std::to_string(index);
      target.path += ']';
      target.message = r.MutableRepeatedMessage(target.message, target.field, index);
    } else {
      return InvalidArgument(above + " is a list: name one of its elements, and a member of it");
    }
  }
  return InvalidArgument(
      above + " is no single value; it has: " + MemberNames(*target.message->GetDescriptor()));
}

Status Assign(const std::string& value, const Target& target) {
  if (!target.field->is_repeated()) {
    return StoreText(value, target.field, target.message);
  }
  target.message->GetReflection()->ClearField(target.message, target.field);
  if (value.empty()) {
    return OkStatus();
  }
  for (const std::string& part : SplitAt(value, ',')) {
    RETURN_IF_ERROR(StoreText(part, target.field, target.message));
  }
  return OkStatus();
}

}  // namespace

std::string MemberNames(const Descriptor& type) {
  std::string names;
  for (int i = 0; i < type.field_count(); ++i) {
    names += (i == 0 ? "" : ", ") + type.field(i)->name();
  }
  return names;
}

Status ApplyOverride(const std::string& text, proto::Job* job, JobSource* source) {
  const std::string context = "--set " + text;
  const std::size_t equals = text.find('=');
  if (equals == std::string::npos || equals == 0) {
    return InvalidArgument("not of the form path=value").Annotate(context);
  }
  StatusOr<Target> target = FindTarget(text.substr(0, equals), job);
  if (!target.ok()) {
    return target.status().Annotate(context);
  }
  source->AddOverride(target->path, text);
  return Assign(text.substr(equals + 1), *target).Annotate(context);
}

}  // namespace plexus
