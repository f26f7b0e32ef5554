#include "worker/models/registry.h"

#include <algorithm>
#include <array>

#include "worker/nn/gemm.h"

namespace plexus {
namespace {

struct Entry {
  const char* name;
  ModelFactory make;
  ModelNeeds needs;
  bool one_width = false;  // Multiplies vectors with each other.
};

constexpr ModelNeeds kEmbeddings{.linears = false, .embeddings = true};
constexpr ModelNeeds kLinears{.linears = true, .embeddings = false};
constexpr ModelNeeds kBoth{.linears = true, .embeddings = true};

constexpr std::array kModels = {
    Entry{"autoint", MakeAutoInt, kEmbeddings, true},
    Entry{"counter", MakeCounter, kEmbeddings},
    Entry{"dcn", MakeDcn, kEmbeddings},
    Entry{"dcnv2", MakeDcnV2, kEmbeddings},
    Entry{"deepfm", MakeDeepFm, kBoth, true},
    Entry{"dlrm", MakeDlrm, kEmbeddings, true},
    Entry{"fm", MakeFm, kBoth, true},
    Entry{"fnn", MakeFnn, kEmbeddings},
    Entry{"ipnn", MakeIpnn, kEmbeddings, true},
    Entry{"lr", MakeLogisticRegression, kLinears},
    Entry{"widedeep", MakeWideDeep, kBoth},
};

StatusOr<Entry> FindModel(const std::string& name) {
  for (const Entry& entry : kModels) {
    if (name == entry.name) {
      return entry;
    }
  }
  std::string message = "no model \"" + name + "\"; there are";
  for (const std::string& known : ModelNames()) {
    message += " " + known;
  }
  return InvalidArgument(message);
}

Status CheckShape(const Entry& entry, const ModelShape& shape) {
  const std::string model = std::string("model ") + entry.name;
  if (entry.needs.linears && shape.linear_fields == 0 && shape.dense_fields == 0) {
    return InvalidArgument(model + " needs at least one field with a LINEAR table");
  }
  if (shape.config.dropout() < 0 || shape.config.dropout() >= 1) {
    return InvalidArgument("model.dropout is a share in [0, 1)");
  }
  for (const std::uint32_t width : shape.config.hidden()) {
    if (width == 0) {
      return InvalidArgument("model.hidden: a layer needs at least one unit");
    }
  }
  if (shape.bf16 && !CpuSupportsBf16()) {
    return InvalidArgument(
        "train.compute: BF16 needs a CPU with avx512_bf16, which this one lacks");
  }
  return OkStatus();
}

}  // namespace

StatusOr<std::unique_ptr<Model>> CreateModel(const ModelShape& shape) {
  ASSIGN_OR_RETURN(const Entry entry, FindModel(shape.config.name()));
  RETURN_IF_ERROR(CheckShape(entry, shape));
  ModelShape read = shape;
  if (std::vector<std::uint32_t>& dims = read.embedding_dims; entry.one_width && !dims.empty()) {
    dims.assign(dims.size(), *std::max_element(dims.begin(), dims.end()));
  }
  return entry.make(read);
}

std::vector<std::string> ModelNames() {
  std::vector<std::string> names;
  names.reserve(kModels.size());
  for (const Entry& entry : kModels) {
    names.emplace_back(entry.name);
  }
  std::sort(names.begin(), names.end());
  return names;
}

StatusOr<ModelNeeds> NeedsOfModel(const std::string& name) {
  ASSIGN_OR_RETURN(const Entry entry, FindModel(name));
  return entry.needs;
}

}  // namespace plexus
