// PhaseJson: a phase as /status shows it.
//
// Thread safety: a pure function.
#pragma once

#include <nlohmann/json.hpp>

#include "proto/control.pb.h"

namespace plexus {

// Null before the first phase.
inline nlohmann::ordered_json PhaseJson(const proto::Phase& phase) {
  if (phase.number() == 0) {
    return nullptr;
  }
  nlohmann::ordered_json json;
  json["number"] = phase.number();
  json["kind"] = proto::Phase::Kind_Name(phase.kind());
  json["first_step"] = phase.first_step();
  if (phase.kind() == proto::Phase::TRAIN) {
    json["epoch"] = phase.epoch() + 1;
    json["last_step"] = phase.last_step();
  } else if (phase.kind() == proto::Phase::EVALUATE) {
    json["data"] = proto::Phase::DataSet_Name(phase.data_set());
  }
  return json;
}

}  // namespace plexus
