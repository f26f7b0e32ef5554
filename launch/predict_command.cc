#include <cmath>
#include <cstdio>
#include <functional>
#include <memory>
#include <sstream>
#include <utility>

#include <nlohmann/json.hpp>

#include "common/evaluation/evaluation.h"
#include "common/files.h"
#include "launch/commands.h"
#include "launch/plan.h"
#include "launch/run_setup.h"
#include "proto/frame.h"
#include "ps/store/model_file.h"
#include "worker/batch_input.h"
#include "worker/data/batch_reader.h"

namespace plexus {
namespace {

// A saved model in this process: one shard that owns everything, read without servers.
class SavedModel {
 public:
  static StatusOr<std::unique_ptr<SavedModel>> Load(const Flags& flags) {
    ASSIGN_OR_RETURN(std::shared_ptr<const JobPlan> plan,
                     LoadResolvedPlan(flags.run_dir + "/job.textproto"));
    std::unique_ptr<SavedModel> model(new SavedModel(plan));
    std::string directory = flags.run_dir + "/model/" + flags.which;
    if (flags.which == "best" && !ReadManifest(directory).ok()) {
      directory = flags.run_dir + "/model/final";  // A job without validation data.
    }
    ASSIGN_OR_RETURN(model->manifest_, ReadModel(*plan, directory, &model->state_));
    ASSIGN_OR_RETURN(model->model_, MakeModel(*plan));
    return model;
  }

  // Calls `visit` with the logits of each batch, in file order.
  Status Run(const std::vector<std::string>& files,
             const std::function<Status(const Batch&, std::span<const float>)>& visit) {
    BatchReaderOptions options;
    options.batch_samples = 4096;
    ASSIGN_OR_RETURN(std::unique_ptr<BatchReader> reader,
                     BatchReader::Open(plan_->job.data(), files, options));
    StepKeysBuilder builder(*plan_, InitialBucketMap(plan_->buckets(), 1), 1);
    PreparedBatch batch;
    std::vector<float> logits;
    while (true) {
      ASSIGN_OR_RETURN(const bool more, reader->Next(&batch.batch));
      if (!more) {
        return OkStatus();
      }
      builder.Build(batch.batch, &batch.keys);
      input_.TakeReplies(batch, {Pull(batch.keys)}, true);
      logits.resize(batch.batch.samples);
      model_->Step(input_.Make(batch, 0, false), input_.dense_values(), nullptr, logits);
      RETURN_IF_ERROR(visit(batch.batch, logits));
    }
  }

  const proto::Manifest& manifest() const { return manifest_; }

 private:
  explicit SavedModel(std::shared_ptr<const JobPlan> plan)
      : plan_(plan), state_(plan, 0, 1), input_(plan, 0, {state_.dense().blocks()}) {}

  Bytes Pull(const StepKeys& keys) const {
    PullBody pull;
    for (std::uint32_t g = 0; g < keys.groups.size(); ++g) {
      pull.groups.push_back(
          {.group = g, .keys = keys.groups[g].keys, .counts = {}, .gradients = {}});
    }
    const std::size_t bytes = PullReplyBytes(*plan_, pull, state_.dense_extent().values);
    ByteWriter writer = StartFrame(FrameHeader(), bytes);
    state_.WritePullReply(pull, true, writer.Reserve(bytes));
    return writer.Finish();
  }

  const std::shared_ptr<const JobPlan> plan_;
  ShardState state_;
  BatchInput input_;
  std::unique_ptr<Model> model_;
  proto::Manifest manifest_;
};

std::vector<std::string> FilesOf(const std::string& list) {
  std::vector<std::string> files;
  std::stringstream stream(list);
  for (std::string file; std::getline(stream, file, ',');) {
    files.push_back(file);
  }
  return files;
}

int Report(const Status& status) {
  std::fprintf(stderr, "%s\n", status.message().c_str());
  return status.code() == StatusCode::kInvalidArgument ? 2 : 1;
}

}  // namespace

int EvaluateCommand(const Flags& flags) {
  if (flags.data.empty()) {
    std::fprintf(stderr, "plexus evaluate needs --run_dir=DIR --data=FILE\n");
    return 2;
  }
  StatusOr<std::unique_ptr<SavedModel>> model = SavedModel::Load(flags);
  if (!model.ok()) {
    return Report(model.status());
  }
  EvaluationPart part;
  const Status status =
      (*model)->Run(FilesOf(flags.data), [&](const Batch& batch, std::span<const float> logits) {
        part.Add(logits, batch.labels, batch.groups);
        return OkStatus();
      });
  if (!status.ok()) {
    return Report(status);
  }
  const EvaluationFigures figures = part.Figures();
  const auto number = [](double value) {
    return std::isfinite(value) ? nlohmann::ordered_json(value) : nlohmann::ordered_json(nullptr);
  };
  nlohmann::ordered_json json;
  json["samples"] = figures.samples;
  json["auc"] = number(figures.auc);
  json["logloss"] = number(figures.logloss);
  json["normalised_entropy"] = number(figures.normalised_entropy);
  json["calibration"] = number(figures.calibration);
  json["gauc"] = number(figures.gauc);
  json["label_rate"] = number(figures.label_rate);
  json["version"] = (*model)->manifest().version();
  json["model_digest"] = (*model)->manifest().model_digest();
  std::printf("%s\n", json.dump().c_str());
  return 0;
}

int PredictCommand(const Flags& flags) {
  if (flags.data.empty() || flags.out.empty()) {
    std::fprintf(stderr, "plexus predict needs --run_dir=DIR --data=FILE --out=FILE\n");
    return 2;
  }
  StatusOr<std::unique_ptr<SavedModel>> model = SavedModel::Load(flags);
  if (!model.ok()) {
    return Report(model.status());
  }
  std::FILE* out = std::fopen(flags.out.c_str(), "we");
  if (out == nullptr) {
    return Report(ErrnoStatus("open", flags.out));
  }
  Status status = (*model)->Run(
      FilesOf(flags.data), [&](const Batch&, std::span<const float> logits) -> Status {
        for (const float logit : logits) {
          if (std::fprintf(out, "%.9g\n", 1.0 / (1.0 + std::exp(-static_cast<double>(logit)))) <
              0) {
            return ErrnoStatus("write", flags.out);
          }
        }
        return OkStatus();
      });
  if (std::fclose(out) != 0 && status.ok()) {
    status = ErrnoStatus("write", flags.out);
  }
  return status.ok() ? 0 : Report(status);
}

}  // namespace plexus
