#include "worker/data/synth.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstdio>
#include <numeric>
#include <utility>
#include <vector>

#include "worker/data/text_writer.h"

namespace plexus {
namespace {

constexpr std::uint64_t kProgressRows = 1000000;

// Which (field, value) pairs have occurred: one bit each.
class ValueSet {
 public:
  ValueSet(const SynthModel& model, std::size_t fields) : seen_(fields) {
    for (std::size_t f = 0; f < fields; ++f) {
      seen_[f].resize(model.cardinality(f) / 64 + 1);
    }
  }

  void Add(const SynthRow& row) {
    for (std::size_t f = 0; f < seen_.size(); ++f) {
      if (row.has_value[f]) {
        seen_[f][row.values[f] / 64] |= std::uint64_t{1} << (row.values[f] % 64);
      }
    }
  }

  std::uint64_t Count() const {
    std::uint64_t count = 0;
    for (const std::vector<std::uint64_t>& words : seen_) {
      for (const std::uint64_t word : words) {
        count += static_cast<std::uint64_t>(std::popcount(word));
      }
    }
    return count;
  }

 private:
  std::vector<std::vector<std::uint64_t>> seen_;
};

struct Truth {
  double probability = 0;
  bool label = false;
};

struct FileFigures {
  std::uint64_t bytes = 0;
  std::uint64_t positives = 0;
};

// Writes rows [first, first + count).  `values` and `truths` get what is in them, if they are
// wanted.
StatusOr<FileFigures> WriteRows(const SynthModel& model, const std::string& path,
                                std::uint64_t first, std::uint64_t count, ValueSet* values,
                                std::vector<Truth>* truths) {
  ASSIGN_OR_RETURN(const auto writer, TextWriter::Create(path));
  FileFigures figures;
  SynthRow row;
  std::string line;
  for (std::uint64_t i = 0; i < count; ++i) {
    const double probability = model.Draw(first + i, &row);
    const bool label = model.DrawLabel(first + i, probability);
    line.clear();
    model.AppendLine(row, label, &line);
    RETURN_IF_ERROR(writer->Append(line));
    figures.positives += label ? 1 : 0;
    if (values != nullptr) {
      values->Add(row);
    }
    if (truths != nullptr) {
      truths->push_back({probability, label});
    }
    if ((i + 1) % kProgressRows == 0) {
      LOG(INFO) << path << ": " << i + 1 << " of " << count << " rows";
    }
  }
  RETURN_IF_ERROR(writer->Finish());
  figures.bytes = writer->bytes();
  return figures;
}

// The share of (positive, negative) pairs in the right order, ties half; NaN without both labels.
double Auc(std::vector<Truth> truths) {
  std::sort(truths.begin(), truths.end(),
            [](const Truth& a, const Truth& b) { return a.probability < b.probability; });
  double negatives = 0;
  double positives = 0;
  double ordered = 0;
  for (std::size_t begin = 0; begin < truths.size();) {
    double tied_negatives = 0;
    double tied_positives = 0;
    std::size_t end = begin;
    for (; end < truths.size() && truths[end].probability == truths[begin].probability; ++end) {
      (truths[end].label ? tied_positives : tied_negatives) += 1;
    }
    ordered += tied_positives * (negatives + 0.5 * tied_negatives);
    negatives += tied_negatives;
    positives += tied_positives;
    begin = end;
  }
  return ordered / (positives * negatives);
}

double LogLoss(const std::vector<Truth>& truths) {
  const double sum =
      std::accumulate(truths.begin(), truths.end(), 0.0, [](double before, const Truth& truth) {
        return before - std::log(truth.label ? truth.probability : 1 - truth.probability);
      });
  return sum / static_cast<double>(truths.size());
}

class JsonObject {
 public:
  void Add(const char* name, std::uint64_t value) { AddText(name, std::to_string(value)); }
  void Add(const char* name, double value) {
    std::array<char, 40> text;
    std::snprintf(text.data(), text.size(), "%.9g", value);
    AddText(name, std::isfinite(value) ? text.data() : "null");
  }
  std::string Text() const { return text_ + "}"; }

 private:
  void AddText(const char* name, const std::string& value) {
    text_ += text_.size() > 1 ? ",\"" : "\"";
    text_ += name;
    text_ += "\":";
    text_ += value;
  }

  std::string text_ = "{";
};

}  // namespace

StatusOr<std::string> SynthesizeCriteo(const SynthOptions& options) {
  SynthModelOptions model_options = options.model;
  model_options.train_rows = options.rows;
  ASSIGN_OR_RETURN(const SynthModel model, SynthModel::Create(model_options));
  ValueSet values(model, model_options.fields);
  std::vector<Truth> truths;
  const std::uint64_t valid_first = options.rows;
  const std::uint64_t test_first = valid_first + options.valid_rows;
  ASSIGN_OR_RETURN(const FileFigures train,
                   WriteRows(model, options.out + "/train.tsv", 0, options.rows, &values, nullptr));
  ASSIGN_OR_RETURN(const FileFigures valid,
                   WriteRows(model, options.out + "/valid.tsv", valid_first, options.valid_rows,
                             nullptr, nullptr));
  ASSIGN_OR_RETURN(const FileFigures test, WriteRows(model, options.out + "/test.tsv", test_first,
                                                     options.test_rows, nullptr, &truths));
  JsonObject json;
  json.Add("rows", options.rows);
  json.Add("valid_rows", options.valid_rows);
  json.Add("test_rows", options.test_rows);
  json.Add("seed", model_options.seed);
  json.Add("fields", std::uint64_t{model_options.fields});
  json.Add("cardinality_total", model_options.cardinality_total);
  json.Add("zipf", model_options.zipf);
  json.Add("rank", std::uint64_t{model_options.rank});
  json.Add("target_auc", model_options.target_auc);
  json.Add("bytes", train.bytes + valid.bytes + test.bytes);
  json.Add("distinct_values", values.Count());
  json.Add("label_rate", static_cast<double>(train.positives) / static_cast<double>(options.rows));
  json.Add("expected_auc", model.expected_auc());
  json.Add("best_auc", Auc(truths));
  json.Add("best_logloss", LogLoss(truths));
  ASSIGN_OR_RETURN(const auto writer, TextWriter::Create(options.out + "/synth.json"));
  RETURN_IF_ERROR(writer->AppendLine(json.Text()));
  RETURN_IF_ERROR(writer->Finish());
  return json.Text();
}

}  // namespace plexus
