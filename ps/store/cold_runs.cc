#include "ps/store/cold_runs.h"

#include <algorithm>
#include <cstring>

namespace plexus {

void TakeFrom(const ColdBatch& run, std::vector<ColdLookup>* lookups) {
  const auto before = [](Key key, std::uint64_t hash) { return Mix64(key) < hash; };
  auto at = run.keys.begin();
  std::erase_if(*lookups, [&](const ColdLookup& lookup) {
    at = std::lower_bound(at, run.keys.end(), lookup.hash, before);
    if (at == run.keys.end() || Mix64(*at) != lookup.hash || IsForgotten(run)) {
      return false;
    }
    const auto row = static_cast<std::size_t>(at - run.keys.begin());
    std::memcpy(lookup.to, run.records.data() + row * run.record_bytes, run.record_bytes);
    return true;
  });
}

void LeaveOut(std::span<const Key> keys, ColdBatch* batch) {
  const auto by_hash = [](Key a, Key b) { return Mix64(a) < Mix64(b); };
  const std::size_t width = batch->record_bytes;
  std::size_t kept = 0;
  auto at = keys.begin();
  for (std::size_t i = 0; i < batch->keys.size(); ++i) {
    const Key key = batch->keys[i];
    at = std::lower_bound(at, keys.end(), key, by_hash);
    if (at != keys.end() && *at == key) {
      continue;
    }
    if (kept != i) {
      batch->keys[kept] = key;
      std::memcpy(batch->records.data() + kept * width, batch->records.data() + i * width, width);
    }
    ++kept;
  }
  batch->keys.resize(kept);
  batch->records.resize(kept * width);
}

ColdRunMerger::ColdRunMerger(std::span<const ColdRun> runs) : runs_(runs) {
  for (std::uint32_t run = 0; run < runs_.size(); ++run) {
    if (!runs_[run]->keys.empty()) {
      heap_.push_back({Mix64(runs_[run]->keys[0]), run, 0});
    }
  }
  std::make_heap(heap_.begin(), heap_.end(), Behind);
}

const std::byte* ColdRunMerger::record() const {
  const Cursor& cursor = heap_.front();
  const ColdBatch& run = *runs_[cursor.run];
  return IsForgotten(run) ? nullptr : run.records.data() + cursor.at * run.record_bytes;
}

void ColdRunMerger::Advance() {
  std::pop_heap(heap_.begin(), heap_.end(), Behind);
  Cursor& cursor = heap_.back();
  if (++cursor.at == runs_[cursor.run]->keys.size()) {
    heap_.pop_back();
    return;
  }
  cursor.hash = Mix64(runs_[cursor.run]->keys[cursor.at]);
  std::push_heap(heap_.begin(), heap_.end(), Behind);
}

void ColdRunMerger::Next() {
  const std::uint64_t passed = hash();
  do {
    Advance();
  } while (valid() && hash() == passed);
}

}  // namespace plexus
