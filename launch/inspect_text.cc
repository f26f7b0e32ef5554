#include "launch/inspect_text.h"

#include <algorithm>
#include <cmath>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <iterator>
#include <vector>

namespace plexus {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::size_t kBarWidth = 50;
constexpr std::size_t kNormLinesMax = 24;
constexpr std::size_t kTitleWidth = 48;
constexpr std::size_t kFieldWidth = 22;
constexpr std::size_t kTableWidth = 18;

[[gnu::format(printf, 2, 3)]] void Print(std::string* out, const char* format, ...) {
  char line[512];
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(line, sizeof(line), format, arguments);
  va_end(arguments);
  *out += line;
}

// "1,234,567".
std::string Grouped(std::uint64_t number) {
  std::string text = std::to_string(number);
  for (std::size_t at = text.size(); at > 3;) {
    at -= 3;
    text.insert(at, ",");
  }
  return text;
}

std::string Grouped(const Json& number) {
  return Grouped(number.is_number_unsigned()
                     ? number.get<std::uint64_t>()
                     : static_cast<std::uint64_t>(std::llround(number.get<double>())));
}

std::string ByteText(double bytes) {
  constexpr const char* kUnits[] = {"B", "KiB", "MiB", "GiB", "TiB"};
  std::size_t unit = 0;
  while (bytes >= 1024 && unit + 1 < std::size(kUnits)) {
    bytes /= 1024;
    ++unit;
  }
  char text[32];
  std::snprintf(text, sizeof(text), unit == 0 ? "%.0f %s" : "%.2f %s", bytes, kUnits[unit]);
  return text;
}

std::string ByteText(const Json& bytes) { return ByteText(bytes.get<double>()); }

std::string NumberText(const Json& number) {
  if (number.is_null()) {
    return "-";
  }
  char text[32];
  std::snprintf(text, sizeof(text), "%.4g", number.get<double>());
  return text;
}

std::string Clipped(const std::string& name, std::size_t width) {
  return name.size() <= width ? name : name.substr(0, width - 2) + "..";
}

void AddHead(const Json& report, std::string* out) {
  Print(out, "%s\n", report["run"].get<std::string>().c_str());
  Print(out, "  model            %s, %s, version %s, of %s server%s, %s in files\n",
        report["model"].get<std::string>().c_str(), report["which"].get<std::string>().c_str(),
        Grouped(report["version"]).c_str(), Grouped(report["shards"]).c_str(),
        report["shards"] == 1 ? "" : "s", ByteText(report["file_bytes"]).c_str());
  Print(out, "  model_digest     %s\n", report["model_digest"].get<std::string>().c_str());
  const Json& reports = report["reports"];
  Print(out, "  servers' reports %s of %s", Grouped(reports["found"]).c_str(),
        Grouped(reports["expected"]).c_str());
  if (!reports["version"].is_null()) {
    Print(out, ", version %s", Grouped(reports["version"]).c_str());
  }
  *out += "\n";
  for (const Json& note : report["notes"]) {
    *out += "  note: " + note.get<std::string>() + "\n";
  }
}

void AddCounters(const Json& servers, bool hybrid, std::string* out) {
  const auto count = [&](const char* name) { return Grouped(servers["counters"][name]); };
  const Json& counters = servers["counters"];
  const std::string own =
      hybrid ? " + promoted " + count("promoted") + " - demoted " + count("demoted") : "";
  const std::uint64_t evicted = counters["evicted_unseen"].get<std::uint64_t>() +
                                counters["evicted_limit"].get<std::uint64_t>() +
                                counters["evicted_memory"].get<std::uint64_t>();
  Print(out, "  where            %s rows in memory, %s on disk (%s)\n",
        Grouped(servers["rows_in_memory"]).c_str(), Grouped(servers["rows_on_disk"]).c_str(),
        ByteText(servers["bytes_on_disk"]).c_str());
  Print(out, "  came and went    admitted %s + restored %s - evicted %s%s %s %s rows\n",
        count("admitted").c_str(), count("restored").c_str(), Grouped(evicted).c_str(), own.c_str(),
        servers["balanced"].get<bool>() ? "=" : "IS NOT", Grouped(servers["rows"]).c_str());
  Print(out, "  evicted          %s unseen for long, %s beyond the table's limit, %s for room\n",
        count("evicted_unseen").c_str(), count("evicted_limit").c_str(),
        count("evicted_memory").c_str());
  Print(out, "  refused          %s gradients by admission, %s for room; rows made late: %s\n",
        count("refused_admission").c_str(), count("refused_memory").c_str(),
        count("late_pushes").c_str());
  Print(out, "  spilled          %s rows went to disk, %s came back\n", count("spilled").c_str(),
        count("thawed").c_str());
  const Json& index = servers["index"];
  if (index["probe_max"].get<std::uint64_t>() > 0) {
    Print(
        out,
        "  index            load factor %.3f; cache lines read to find a key: mean %.3f, max %s\n",
        index["load_factor"].get<double>(), index["probe_mean"].get<double>(),
        Grouped(index["probe_max"]).c_str());
  }
}

void AddMemory(const Json& servers, std::string* out) {
  Print(out, "\n  %-24s %12s %16s\n", "memory", "size", "bytes a row");
  const double rows = std::max(1.0, servers["rows"].get<double>());
  for (const auto& [part, bytes] : servers["bytes"].items()) {
    Print(out, "    %-22s %12s %16.1f\n", part.c_str(), ByteText(bytes).c_str(),
          bytes.get<double>() / rows);
  }
}

void AddHottest(const Json& table, std::string* out) {
  if (table["occurrences"].is_null()) {
    *out += "\n  hottest keys: none, the job does not keep counts\n";
    return;
  }
  if (table["hottest"].empty()) {
    return;
  }
  Print(out, "\n  %-20s %15s %8s %12s %9s   %s\n", "hottest keys", "occurrences", "share",
        "last step", "L2 norm", "field");
  for (const Json& key : table["hottest"]) {
    const std::string field = key["field"].is_null() || key["shared"].get<bool>()
                                  ? ""
                                  : Clipped(key["field"].get<std::string>(), kFieldWidth);
    Print(out, "    %-18s %15s %7.2f%% %12s %9s   %s%s\n", key["key"].get<std::string>().c_str(),
          Grouped(key["count"]).c_str(), key["share"].get<double>() * 100,
          Grouped(key["last_step"]).c_str(), NumberText(key["norm"]).c_str(), field.c_str(),
          key["missing"].get<bool>()  ? " (no value)"
          : key["shared"].get<bool>() ? "(shared row)"
                                      : "");
    out->erase(out->find_last_not_of(" \n") + 1);
    *out += "\n";
  }
}

void AddNorms(const Json& norms, std::string* out) {
  Print(
      out,
      "\n  rows by the L2 norm of their values: min %s, mean %s, max %s; %s zero, %s not finite\n",
      NumberText(norms["min"]).c_str(), NumberText(norms["mean"]).c_str(),
      NumberText(norms["max"]).c_str(), Grouped(norms["zero"]).c_str(),
      Grouped(norms["not_finite"]).c_str());
  if (norms["log2"].empty()) {
    return;
  }
  const int last = norms["log2"].back()["exponent"].get<int>();
  const int first = std::max(norms["log2"].front()["exponent"].get<int>(),
                             last - static_cast<int>(kNormLinesMax) + 1);
  std::vector<std::uint64_t> rows(static_cast<std::size_t>(last - first + 1), 0);
  for (const Json& bucket : norms["log2"]) {  // What is below the first line is in it.
    const int exponent = std::max(first, bucket["exponent"].get<int>());
    rows[static_cast<std::size_t>(exponent - first)] += bucket["rows"].get<std::uint64_t>();
  }
  const std::uint64_t most = *std::max_element(rows.begin(), rows.end());
  const bool clipped = first > norms["log2"].front()["exponent"].get<int>();
  for (int exponent = first; exponent <= last; ++exponent) {
    const std::uint64_t here = rows[static_cast<std::size_t>(exponent - first)];
    const std::string from = clipped && exponent == first ? "0" : "2^" + std::to_string(exponent);
    const std::string range = "[" + from + ", 2^" + std::to_string(exponent + 1) + ")";
    const auto bar = static_cast<std::size_t>((here * kBarWidth + most - 1) / most);
    Print(out, "    %-16s %15s%s%s\n", range.c_str(), Grouped(here).c_str(), bar > 0 ? "  " : "",
          std::string(bar, '#').c_str());
  }
}

void AddTable(const std::string& name, const Json& table, std::string* out) {
  const std::string kind = table["kind"].get<std::string>();
  Print(out, "\n%s: %s, dim %s, values %s, state %s, %s\n", Clipped(name, kTitleWidth).c_str(),
        kind.c_str(), Grouped(table["dim"]).c_str(), table["precision"].get<std::string>().c_str(),
        table["state_precision"].get<std::string>().c_str(),
        table["optimizer"].get<std::string>().c_str());
  const std::string shared =
      table.contains("shared_rows") ? " (" + Grouped(table["shared_rows"]) + " shared)" : "";
  Print(out, "  rows             %s%s, each %s bytes of values and %s of state\n",
        Grouped(table["rows"]).c_str(), shared.c_str(),
        Grouped(table["record_bytes"]["values"]).c_str(),
        Grouped(table["record_bytes"]["state"]).c_str());
  if (!table["servers"].is_null()) {
    AddCounters(table["servers"], kind == "HYBRID", out);
    AddMemory(table["servers"], out);
  }
  AddHottest(table, out);
  AddNorms(table["norms"], out);
}

void AddFields(const Json& fields, std::string* out) {
  Print(out, "\nfields: %s samples, %s malformed lines\n\n", Grouped(fields["samples"]).c_str(),
        Grouped(fields["bad_lines"]).c_str());
  Print(out, "  %-22s %13s   %-18s %13s %13s %11s %7s\n", "field", "values", "table", "with a row",
        "rows", "size", "share");
  for (const auto& [name, field] : fields["fields"].items()) {
    std::string label = Clipped(name, kFieldWidth);
    std::string values = Grouped(field["values"]);
    for (const auto& [table, rows] : field["tables"].items()) {
      Print(out, "  %-22s %13s   %-18s %13s %13s %11s %6.2f%%\n", label.c_str(), values.c_str(),
            Clipped(table, kTableWidth).c_str(), Grouped(rows["values_with_row"]).c_str(),
            Grouped(rows["rows"]).c_str(), ByteText(rows["bytes"]).c_str(),
            rows["share"].get<double>() * 100);
      label.clear();
      values.clear();
    }
  }
  *out += "\n";
  for (const auto& [table, rows] : fields["tables"].items()) {
    Print(out, "  %-18s %s of fields - %s counted again + %s of no field = %s rows\n",
          Clipped(table, kTableWidth).c_str(), Grouped(rows["rows_of_fields"]).c_str(),
          Grouped(rows["rows_counted_again"]).c_str(), Grouped(rows["rows_of_no_field"]).c_str(),
          Grouped(rows["rows"]).c_str());
  }
}

void AddTotals(const Json& report, std::string* out) {
  const Json& totals = report["totals"];
  Print(out, "\ntotal\n  rows             %s, %s of values and state\n",
        Grouped(totals["rows"]).c_str(), ByteText(totals["record_bytes"]).c_str());
  if (!totals["memory_bytes"].is_null()) {
    Print(out, "  tables           %s in memory, %s on disk\n",
          ByteText(totals["memory_bytes"]).c_str(), ByteText(totals["bytes_on_disk"]).c_str());
  }
  Print(out, "  dense            %s parameters, %s with optimizer state\n",
        Grouped(totals["dense_parameters"]).c_str(), ByteText(totals["dense_bytes"]).c_str());
}

}  // namespace

std::string InspectText(const Json& report) {
  std::string out;
  AddHead(report, &out);
  for (const auto& [name, table] : report["tables"].items()) {
    AddTable(name, table, &out);
  }
  if (report.contains("fields")) {
    AddFields(report["fields"], &out);
  }
  AddTotals(report, &out);
  return out;
}

}  // namespace plexus
