// Keys for encrypted, authenticated connections (ZeroMQ's CURVE), and the directory they lie in.
//
// Who has a name has a pair of keys: DIR/NAME.public, which everybody may read, and
// DIR/NAME.secret, which only its owner may.  A file holds one key: 40 characters of Z85.  A member
// proves that it has the secret key of its name; whoever binds admits the public keys in its
// directory, whoever connects wants the key of the name that it goes to.
//
// Secret keys are in no message and no log.  See docs/security.md.
//
// Thread safety: pure functions on files; CurveKeys is a value.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "common/status.h"

namespace plexus {

struct CurveKeyPair {
  std::string public_key;
  std::string secret_key;
};

// What one member knows.
struct CurveKeys {
  CurveKeyPair own;
  std::map<std::string, std::string> known;  // Name -> public key, of every DIR/NAME.public.
};

// kUnavailable: this libzmq was built without CURVE.
Status CheckCurve();

StatusOr<CurveKeyPair> MakeCurveKeyPair();

// Makes a pair for each of `names`; `directory` is made with mode 0700 if it is not there.
// kInvalidArgument: a name is none.  kFailedPrecondition: a file is there already; nothing was
// written.
Status WriteCurveKeys(const std::string& directory, const std::vector<std::string>& names);

// The keys of the member `name`.  The sentence of an error names the file that is missing or wrong.
StatusOr<CurveKeys> LoadCurveKeys(const std::string& directory, const std::string& name);

}  // namespace plexus
