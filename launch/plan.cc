#include "launch/plan.h"

#include <algorithm>
#include <compare>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "common/hash.h"
#include "proto/job.h"
#include "ps/table/row_layout.h"
#include "worker/data/field_plan.h"
#include "worker/nn/gemm.h"

namespace plexus {
namespace {

constexpr char kCounter[] = "counter";
constexpr char kWideDeep[] = "widedeep";

std::string Quoted(const std::string& text) {
  std::string quoted(1, '"');
  quoted += text;
  quoted += '"';
  return quoted;
}

OptimizerKind KindOf(proto::Optimizer::Kind kind) {
  switch (kind) {
    case proto::Optimizer::SGD:
      return OptimizerKind::kSgd;
    case proto::Optimizer::MOMENTUM:
      return OptimizerKind::kMomentum;
    case proto::Optimizer::ADAGRAD:
      return OptimizerKind::kAdagrad;
    case proto::Optimizer::ROW_WISE_ADAGRAD:
      return OptimizerKind::kRowWiseAdagrad;
    case proto::Optimizer::ADAM:
      return OptimizerKind::kAdam;
    case proto::Optimizer::ADAM_W:
      return OptimizerKind::kAdamW;
    case proto::Optimizer::FTRL:
      return OptimizerKind::kFtrl;
  }
  LOG(FATAL) << "optimizer kind " << kind;
}

OptimizerOptions OptionsOf(const proto::Optimizer& optimizer) {
  OptimizerOptions options;
  options.kind = KindOf(optimizer.kind());
  options.learning_rate = static_cast<float>(optimizer.learning_rate());
  options.momentum = static_cast<float>(optimizer.momentum());
  options.beta1 = static_cast<float>(optimizer.beta1());
  options.beta2 = static_cast<float>(optimizer.beta2());
  options.epsilon = static_cast<float>(optimizer.epsilon());
  options.initial_accumulator = static_cast<float>(optimizer.initial_accumulator());
  options.l1 = static_cast<float>(optimizer.l1());
  options.l2 = static_cast<float>(optimizer.l2());
  options.beta = static_cast<float>(optimizer.beta());
  options.weight_decay = static_cast<float>(optimizer.weight_decay());
  return options;
}

TableSpec::Init InitOf(proto::Initializer::Kind kind) {
  switch (kind) {
    case proto::Initializer::UNIFORM:
      return TableSpec::Init::kUniform;
    case proto::Initializer::NORMAL:
      return TableSpec::Init::kNormal;
    case proto::Initializer::CONSTANT:
      return TableSpec::Init::kConstant;
  }
  LOG(FATAL) << "initializer kind " << kind;
}

AdmissionSpec AdmissionOf(const proto::Admission& admission) {
  AdmissionSpec spec;
  spec.kind = static_cast<AdmissionSpec::Kind>(admission.kind());
  spec.threshold = admission.threshold();
  spec.probability = admission.probability();
  spec.filter_keys = admission.filter_keys();
  spec.sketch_width = admission.sketch_width();
  spec.window_versions = admission.window_versions();
  return spec;
}

EvictionSpec EvictionOf(const proto::Eviction& eviction) {
  EvictionSpec spec;
  spec.unseen_versions = eviction.unseen_versions();
  spec.sweep_versions = eviction.sweep_versions();
  spec.order = static_cast<EvictionSpec::Order>(eviction.order());
  spec.half_life_versions = eviction.half_life_versions();
  return spec;
}

HybridSpec HybridOf(const proto::Hybrid& hybrid) {
  HybridSpec spec;
  spec.exact_rows = hybrid.exact_rows();
  spec.shared_rows = hybrid.shared_rows();
  spec.importance = static_cast<HybridSpec::Importance>(hybrid.importance());
  spec.threshold = hybrid.threshold();
  spec.decay = hybrid.decay();
  return spec;
}

// What a job may say of a row's size: bytes of its record and what stands for the rest.
constexpr std::uint64_t kLogicalRowOverhead = 24;

// The tighter of max_rows and max_bytes; 0 = neither.
StatusOr<std::uint64_t> RowLimitOf(const proto::Table& table, const TableSpec& spec) {
  if (table.max_bytes().empty()) {
    return table.max_rows();
  }
  ASSIGN_OR_RETURN(const std::uint64_t bytes, ParseByteSize(table.max_bytes()));
  const std::uint64_t row = RowLayout(spec, *MakeOptimizer(spec.optimizer)).record_bytes();
  const std::uint64_t rows = std::max<std::uint64_t>(1, bytes / (row + kLogicalRowOverhead));
  return table.max_rows() == 0 ? rows : std::min<std::uint64_t>(rows, table.max_rows());
}

StatusOr<TableSpec> SpecOf(const proto::Job& job, const proto::Table& table) {
  TableSpec spec;
  spec.name = table.name();
  spec.kind = static_cast<TableSpec::Kind>(table.kind());
  spec.dim = table.dim();
  spec.rows = table.rows();
  spec.optimizer = OptionsOf(table.optimizer());
  spec.init = InitOf(table.init().kind());
  spec.init_scale = static_cast<float>(table.init().scale());
  spec.clip_row_norm = static_cast<float>(table.clip_row_norm());
  spec.sum_gradients = table.reduction() == proto::Table::SUM;
  spec.precision = PrecisionOf(table.precision());
  spec.state_precision = PrecisionOf(table.state_precision());
  spec.learned_scale = table.learned_scale();
  spec.scale_learning_rate = static_cast<float>(table.scale_learning_rate());
  spec.admission = AdmissionOf(table.admission());
  spec.eviction = EvictionOf(table.eviction());
  spec.keep_counts = table.keep_counts();
  spec.hybrid = HybridOf(table.hybrid());
  const proto::Cluster& cluster = job.cluster();
  spec.spills =
      table.kind() == proto::Table::HASHED && !cluster.memory_limit().empty() && cluster.spill();
  // ASP has no bound: a version's worth.
  spec.staleness = static_cast<std::uint32_t>(std::abs(job.train().staleness()));
  ASSIGN_OR_RETURN(spec.max_rows, RowLimitOf(table, spec));
  return spec;
}

bool Reads(const ModelNeeds& needs, const proto::Table& table) {
  return table.role() == proto::Table::LINEAR ? needs.linears : needs.embeddings;
}

// Adds the tables that the model reads, and finds those of each sparse field.
Status PlanTables(const FieldPlan& fields, const ModelNeeds& needs, JobPlan* plan) {
  std::map<std::string, const proto::Table*> read;  // By name.
  for (const SparseField& field : fields.sparse) {
    for (const std::string& name : field.tables) {
      read.emplace(name, nullptr);
    }
  }
  std::map<std::string, std::uint32_t> index;
  for (const proto::Table& table : plan->job.tables()) {
    const auto found = read.find(table.name());
    if (found != read.end() && Reads(needs, table)) {
      found->second = &table;
      index.emplace(table.name(), static_cast<std::uint32_t>(plan->tables.size()));
      ASSIGN_OR_RETURN(TableSpec spec, SpecOf(plan->job, table));
      plan->tables.push_back(std::move(spec));
    }
  }
  for (const SparseField& field : fields.sparse) {
    FieldTables tables;
    tables.pooling = field.pooling;
    for (const std::string& name : field.tables) {
      if (const proto::Table* table = read.at(name)) {
        (table->role() == proto::Table::LINEAR ? tables.linear : tables.embedding) = index.at(name);
      }
    }
    plan->fields.push_back(tables);
  }
  return OkStatus();
}

// Every sparse field needs a table of each role that the model reads; of the wide and the deep
// part, one will do.
Status CheckRoles(const FieldPlan& fields, const ModelNeeds& needs, const JobPlan& plan) {
  const std::string model = plan.job.model().name();
  if (fields.sparse.empty()) {
    return InvalidArgument("model " + model + " needs a field with a table; the job has none");
  }
  for (std::size_t i = 0; i < fields.sparse.size(); ++i) {
    const FieldTables& tables = plan.fields[i];
    const bool embedding = !needs.embeddings || tables.embedding != kNoTable;
    const bool linear = !needs.linears || tables.linear != kNoTable;
    const bool one_will_do = model == kWideDeep;
    if (one_will_do ? (embedding || linear) : (embedding && linear)) {
      continue;
    }
    const std::string role = one_will_do ? "EMBEDDING or LINEAR"
                             : embedding ? "LINEAR"
                                         : "EMBEDDING";
    return InvalidArgument("model " + model +
                           " needs each field with keys to name a table of role " + role +
                           ": field " + Quoted(fields.sparse[i].name) + " names none");
  }
  return OkStatus();
}

const proto::Table& TableNamed(const proto::Job& job, const std::string& name) {
  const auto found =
      std::find_if(job.tables().begin(), job.tables().end(),
                   [&name](const proto::Table& table) { return table.name() == name; });
  CHECK(found != job.tables().end()) << name;
  return *found;
}

// How a worker makes vectors of rows of which `dim` floats travel; none: they are rows.
std::optional<AddresserSpec> AddresserOf(const proto::Table& table, std::uint32_t dim) {
  if (table.kind() != proto::Table::ARRAY || table.addresser().kind() == proto::Addresser::HASH) {
    return std::nullopt;
  }
  AddresserSpec spec;
  spec.kind = table.addresser().kind();
  spec.rows = table.rows();
  spec.dim = dim;
  spec.remainders =
      table.addresser().remainders() > 0 ? table.addresser().remainders() : table.rows() / 2;
  spec.piece = table.addresser().piece() > 0 ? table.addresser().piece() : dim;
  spec.salt = HashBytes(table.name(), 0);
  return spec;
}

// One field's read of a table.
struct TableRead {
  std::uint32_t table = kNoTable;
  std::uint32_t dim = 0;  // Floats of a row that it reads.

  auto operator<=>(const TableRead&) const = default;
};

// Fields that read the same parts of the same tables form a group; a field's two tables are in one
// group if their wire keys are the same.
class GroupPlanner {
 public:
  explicit GroupPlanner(JobPlan* plan) : plan_(plan) {}

  void Add(std::uint32_t field, std::uint32_t dim) {
    FieldTables& tables = plan_->fields[field];
    const TableRead embedding = ReadOf(tables.embedding, dim);
    const TableRead linear = ReadOf(tables.linear, 0);
    if (embedding.table != kNoTable && linear.table != kNoTable &&
        HaveSameKeys(embedding.table, linear.table)) {
      tables.embedding_group =
          GroupOf(field, {std::min(embedding, linear), std::max(embedding, linear)});
      tables.linear_group = tables.embedding_group;
      return;
    }
    if (embedding.table != kNoTable) {
      tables.embedding_group = GroupOf(field, {embedding});
    }
    if (linear.table != kNoTable) {
      tables.linear_group = GroupOf(field, {linear});
    }
  }

 private:
  // dim 0: all.
  TableRead ReadOf(std::uint32_t table, std::uint32_t dim) const {
    return {table, table == kNoTable || dim > 0 ? dim : plan_->tables[table].dim};
  }

  // Rows of tables with addressers have addresses of their own.
  bool HaveSameKeys(std::uint32_t a, std::uint32_t b) const {
    return plan_->tables[a].rows == plan_->tables[b].rows && !AddresserOfTable({a, 1}) &&
           !AddresserOfTable({b, 1});
  }

  std::optional<AddresserSpec> AddresserOfTable(const TableRead& read) const {
    return AddresserOf(TableNamed(plan_->job, plan_->tables[read.table].name), read.dim);
  }

  std::uint32_t GroupOf(std::uint32_t field, const std::vector<TableRead>& reads) {
    const auto [found, fresh] =
        groups_.emplace(reads, static_cast<std::uint32_t>(plan_->groups.size()));
    if (fresh) {
      KeyGroup& group = plan_->groups.emplace_back();
      for (const TableRead& read : reads) {
        group.tables.push_back(read.table);
        group.dims.push_back(read.dim);
      }
      group.array_rows = plan_->tables[reads[0].table].rows;
      group.addresser = AddresserOfTable(reads[0]);
    }
    plan_->groups[found->second].fields.push_back(field);
    return found->second;
  }

  JobPlan* const plan_;
  std::map<std::vector<TableRead>, std::uint32_t> groups_;
};

// Rows of ARRAY and HYBRID tables stay in memory, however small the limit is.
Status CheckFixedRows(const JobPlan& plan) {
  std::uint64_t bytes = 0;
  for (const TableSpec& table : plan.tables) {
    const std::uint64_t record = RowLayout(table, *MakeOptimizer(table.optimizer)).record_bytes();
    if (table.kind == TableSpec::Kind::kArray) {
      bytes += table.rows * (record + 2 * sizeof(std::uint32_t));
    } else if (table.kind == TableSpec::Kind::kHybrid) {
      // A row of each kind in each bucket at least; 64 bytes of sketch an exact row.
      const std::uint64_t exact = std::max<std::uint64_t>(table.hybrid.exact_rows, plan.buckets());
      const std::uint64_t shared =
          std::max<std::uint64_t>(table.hybrid.shared_rows, plan.buckets());
      bytes += exact * (record + 64 + 8) + shared * (record + 12);
    }
  }
  const std::uint64_t per_server = bytes / plan.shards();
  if (plan.memory_limit_bytes == 0 || per_server <= plan.memory_limit_bytes) {
    return OkStatus();
  }
  return InvalidArgument("the ARRAY and HYBRID tables take " + std::to_string(per_server) +
                         " bytes on each of " + std::to_string(plan.shards()) +
                         " servers, and their rows do not go to disk: cluster.memory_limit is " +
                         std::to_string(plan.memory_limit_bytes) +
                         "; raise it, add servers, or declare fewer rows");
}

// The counter's integers are exact only if nothing scales them.
Status CheckCounter(const JobPlan& plan) {
  const proto::Train& train = plan.job.train();
  const std::string ranks = std::to_string(train.ranks());
  for (const TableSpec& table : plan.tables) {
    const std::string who = "model counter: table " + Quoted(table.name);
    if (table.dim != train.ranks()) {
      return InvalidArgument(who + " needs one element a rank: dim " + ranks + ", not " +
                             std::to_string(table.dim));
    }
    if (table.optimizer.kind != OptimizerKind::kSgd || table.optimizer.l2 != 0 ||
        !table.sum_gradients || table.clip_row_norm != 0) {
      return InvalidArgument(who + " needs SGD without l2, reduction SUM and no clip_row_norm");
    }
    if (table.kind == TableSpec::Kind::kHybrid || table.precision != Precision::kF32 ||
        table.admission.kind != AdmissionSpec::Kind::kAll || table.max_rows != 0 ||
        table.eviction.unseen_versions != 0) {
      return InvalidArgument(who +
                             " needs every row as it is: no HYBRID, precision F32, no "
                             "admission, no limits and no eviction");
    }
  }
  for (const KeyGroup& group : plan.groups) {
    if (group.dims[0] != train.ranks() || group.addresser.has_value()) {
      return InvalidArgument(
          "model counter needs whole rows: no dim of a field, no addresser but HASH");
    }
  }
  if (!plan.dense_on_servers()) {
    return InvalidArgument("model counter needs train.dense_sync SERVERS");
  }
  if (PullPrecision(plan) != Precision::kF32 || PushPrecision(plan) != Precision::kF32) {
    return InvalidArgument("model counter needs F32 on the wire");
  }
  if (train.clip_value() != 0 || train.schedule().warmup_steps() != 0 ||
      train.schedule().decay() != proto::Schedule::NONE) {
    return InvalidArgument("model counter needs a constant rate: no clip_value, no schedule");
  }
  return OkStatus();
}

}  // namespace

StatusOr<JobPlan> MakePlan(const proto::Job& job) {
  StatusOr<ModelNeeds> needs = NeedsOfModel(job.model().name());
  if (!needs.ok()) {
    return needs.status().Annotate("model.name");
  }
  ASSIGN_OR_RETURN(const FieldPlan fields, PlanFields(job.data()));
  JobPlan plan;
  plan.job = job;
  RETURN_IF_ERROR(PlanTables(fields, *needs, &plan));
  RETURN_IF_ERROR(CheckRoles(fields, *needs, plan));
  GroupPlanner groups(&plan);
  for (std::uint32_t i = 0; i < fields.sparse.size(); ++i) {
    groups.Add(i, fields.sparse[i].dim);
  }
  if (job.model().name() == kCounter) {
    RETURN_IF_ERROR(CheckCounter(plan));
  }
  ASSIGN_OR_RETURN(const std::unique_ptr<Model> model, MakeModel(plan));
  plan.dense = DenseLayout(model->dense_parameters());
  plan.dense_optimizer = OptionsOf(job.train().dense_optimizer());
  ASSIGN_OR_RETURN(plan.log_limit_bytes, ParseByteSize(job.checkpoint().log_limit()));
  if (!job.cluster().memory_limit().empty()) {
    ASSIGN_OR_RETURN(plan.memory_limit_bytes, ParseByteSize(job.cluster().memory_limit()));
    RETURN_IF_ERROR(CheckFixedRows(plan));
  }
  return plan;
}

ModelShape ShapeOf(const JobPlan& plan) {
  ModelShape shape;
  shape.config = plan.job.model();
  shape.bf16 = plan.job.train().compute() == proto::Train::BF16;
  shape.dense_fields = static_cast<std::uint32_t>(PlanFields(plan.job.data()).value().dense.size());
  for (const FieldTables& field : plan.fields) {
    if (field.embedding != kNoTable) {
      shape.embedding_dims.push_back(plan.tables[field.embedding].dim);
    }
    shape.linear_fields += field.linear != kNoTable ? 1 : 0;
  }
  shape.jagged_features = plan.job.data().format() == proto::Data::LIBSVM;
  shape.ranks = plan.ranks();
  return shape;
}

StatusOr<std::unique_ptr<Model>> MakeModel(const JobPlan& plan) {
  return CreateModel(ShapeOf(plan));
}

void ResolveNumericProfile(proto::Job* job) {
  proto::Cluster* cluster = job->mutable_cluster();
  if (cluster->numeric_profile() == proto::Cluster::AUTO) {
    cluster->set_numeric_profile(CpuSupports(NumericProfile::kAvx512) ? proto::Cluster::AVX512
                                                                      : proto::Cluster::AVX2);
  }
}

Status CheckMachine(const proto::Job& job) {
  const proto::Cluster::NumericProfile profile = job.cluster().numeric_profile();
  CHECK(profile != proto::Cluster::AUTO) << "the numeric profile is not resolved";
  const bool avx512 = profile == proto::Cluster::AVX512;
  if (!CpuSupports(avx512 ? NumericProfile::kAvx512 : NumericProfile::kAvx2)) {
    return FailedPrecondition("cluster.numeric_profile is " +
                              proto::Cluster::NumericProfile_Name(profile) +
                              ", which this machine lacks");
  }
  if (job.train().compute() == proto::Train::BF16 && !(avx512 && CpuSupportsBf16())) {
    return FailedPrecondition("train.compute is BF16: this machine lacks avx512_bf16");
  }
  return OkStatus();
}

}  // namespace plexus
