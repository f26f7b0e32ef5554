#include "ps/table/table.h"

#include <glog/logging.h>

#include "ps/table/array_table.h"
#include "ps/table/hashed_table.h"
#include "ps/table/hybrid_table.h"

namespace plexus {
namespace {

void AppendLittleEndian(std::uint64_t value, std::string* to) {
  for (int shift = 0; shift < 64; shift += 8) {
    to->push_back(static_cast<char>(value >> shift));
  }
}

}  // namespace

Status Table::RestoreFilter(std::uint32_t, const std::string&) {
  return FailedPrecondition("table " + spec().name +
                            " has no admission filter, and the saved one has: another job's");
}

Digest128 RowDigest(const std::string& table, const RowView& row) {
  std::string bytes;
  bytes.reserve(table.size() + 17 + row.record.size());
  bytes.append(table);
  bytes.push_back('\0');
  AppendLittleEndian(row.key, &bytes);
  AppendLittleEndian(row.last_step, &bytes);
  bytes.append(reinterpret_cast<const char*>(row.record.data()), row.record.size());
  return HashBytes128(bytes);
}

std::unique_ptr<Table> MakeTable(const TableSpec& spec, std::uint64_t seed, std::uint32_t buckets,
                                 const std::vector<std::uint32_t>& owned) {
  switch (spec.kind) {
    case TableSpec::Kind::kHashed:
      return std::make_unique<HashedTable>(spec, seed, buckets, owned);
    case TableSpec::Kind::kArray:
      return std::make_unique<ArrayTable>(spec, seed, buckets);
    case TableSpec::Kind::kHybrid:
      return std::make_unique<HybridTable>(spec, seed, buckets);
  }
  LOG(FATAL) << "kind of table " << spec.name;
}

}  // namespace plexus
