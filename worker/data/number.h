// Numbers in text, fast and with one meaning everywhere: no locale, no hexadecimal, no infinity.
//
// Thread safety: pure functions.
#pragma once

#include <charconv>
#include <cmath>
#include <cstdint>
#include <string_view>

namespace plexus {

// Parses all of `text` as a decimal number, with an optional sign and spaces around it.  False if
// it is not one, or not finite.
inline bool ParseNumber(std::string_view text, double* value) {
  // Most are short integers: 15 digits are below 2^53.
  constexpr std::size_t kExactDigits = 15;
  const char* begin = text.data();
  const char* end = begin + text.size();
  const bool negative = begin != end && *begin == '-';
  const char* digits = begin + (negative ? 1 : 0);
  if (digits != end && end - digits <= static_cast<std::ptrdiff_t>(kExactDigits)) {
    std::int64_t sum = 0;
    const char* p = digits;
    for (; p != end; ++p) {
      const unsigned digit = static_cast<unsigned char>(*p) - unsigned{'0'};
      if (digit > 9) {
        break;
      }
      sum = sum * 10 + static_cast<std::int64_t>(digit);
    }
    if (p == end) {
      *value = static_cast<double>(negative ? -sum : sum);
      return true;
    }
  }
  while (begin != end && *begin == ' ') {
    ++begin;
  }
  while (begin != end && end[-1] == ' ') {
    --end;
  }
  if (begin != end && *begin == '+') {
    ++begin;
    if (begin != end && *begin == '-') {
      return false;
    }
  }
  const auto [stop, error] = std::from_chars(begin, end, *value);
  return error == std::errc() && stop == end && begin != end && std::isfinite(*value);
}

}  // namespace plexus
