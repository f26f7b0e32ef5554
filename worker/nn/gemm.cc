#include "worker/nn/gemm.h"

#include <algorithm>
#include <atomic>
#include <string>

#include <dnnl.h>
#include <omp.h>

#include "worker/nn/gemm_bf16.h"

namespace plexus {
namespace {

void ZeroResult(const GemmShape& shape, const MatrixResult<double>& c) {
  for (std::size_t i = 0; i < shape.m; ++i) {
    std::fill_n(c.data + i * c.stride, shape.n, 0.0);
  }
}

void ZeroResult(const GemmShape& shape, const MatrixResult<float>& c) {
  for (std::size_t i = 0; i < shape.m; ++i) {
    std::fill_n(c.data + i * c.stride, shape.n, 0.0F);
  }
}

constexpr int kNotPinned = -1;
std::atomic<int> pinned_profile{kNotPinned};  // Written once, at start: relaxed.

dnnl_cpu_isa_t IsaOf(NumericProfile profile) {
  // oneDNN's f32 products are the same on every CPU between avx512_core and avx512_core_bf16; the
  // latter's products of bfloat16 are wanted where they exist.  AMX adds in another order.
  return profile == NumericProfile::kAvx2 ? dnnl_cpu_isa_avx2 : dnnl_cpu_isa_avx512_core_bf16;
}

}  // namespace

bool CpuSupports(NumericProfile profile) {
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (profile == NumericProfile::kAvx2) {
    return avx2;
  }
  return avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}

bool CpuSupportsBf16() {
  return CpuSupports(NumericProfile::kAvx512) && __builtin_cpu_supports("avx512bf16") &&
         pinned_profile.load(std::memory_order_relaxed) != static_cast<int>(NumericProfile::kAvx2);
}

Status SetNumericProfile(NumericProfile profile) {
  const std::string what =
      std::string("numeric profile ") + (profile == NumericProfile::kAvx2 ? "AVX2" : "AVX512");
  if (!CpuSupports(profile)) {
    return FailedPrecondition(what + ": this CPU lacks it");
  }
  const int pinned = pinned_profile.load(std::memory_order_relaxed);
  if (pinned == static_cast<int>(profile)) {
    return OkStatus();
  }
  if (dnnl_set_max_cpu_isa(IsaOf(profile)) != dnnl_success) {
    return FailedPrecondition(what + ": oneDNN already runs with another instruction set");
  }
  pinned_profile.store(static_cast<int>(profile), std::memory_order_relaxed);
  return OkStatus();
}

void UseOneThread() {
  // omp_set_num_threads sets a variable of the calling thread.
  thread_local const bool done = [] {
    omp_set_num_threads(1);
    return true;
  }();
  (void)done;
}

template <>
void Gemm(const GemmShape& shape, const MatrixOperand<float>& a, const MatrixOperand<float>& b,
          const MatrixResult<float>& c, ProductPrecision precision) {
  if (shape.m == 0 || shape.n == 0) {
    return;
  }
  if (shape.k == 0) {
    if (!c.accumulate) {
      ZeroResult(shape, c);
    }
    return;
  }
  UseOneThread();
  if (precision == ProductPrecision::kBf16) {
    internal::GemmBf16(shape, a, b, c);
    return;
  }
  const auto size = [](std::size_t value) { return static_cast<dnnl_dim_t>(value); };
  const dnnl_status_t status =
      dnnl_sgemm(a.transposed ? 'T' : 'N', b.transposed ? 'T' : 'N', size(shape.m), size(shape.n),
                 size(shape.k), 1.0F, a.data, size(a.stride), b.data, size(b.stride),
                 c.accumulate ? 1.0F : 0.0F, c.data, size(c.stride));
  CHECK(status == dnnl_success) << "sgemm " << shape.m << " x " << shape.n << " x " << shape.k;
}

template <>
void Gemm(const GemmShape& shape, const MatrixOperand<double>& a, const MatrixOperand<double>& b,
          const MatrixResult<double>& c, ProductPrecision) {
  if (!c.accumulate) {
    ZeroResult(shape, c);
  }
  const auto at = [](const MatrixOperand<double>& x, std::size_t i, std::size_t j) {
    return x.transposed ? x.data[j * x.stride + i] : x.data[i * x.stride + j];
  };
  for (std::size_t i = 0; i < shape.m; ++i) {
    for (std::size_t l = 0; l < shape.k; ++l) {
      const double left = at(a, i, l);
      for (std::size_t j = 0; j < shape.n; ++j) {
        c.data[i * c.stride + j] += left * at(b, l, j);
      }
    }
  }
}

}  // namespace plexus
