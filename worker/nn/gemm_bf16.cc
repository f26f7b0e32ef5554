#include "worker/nn/gemm_bf16.h"

#include <bit>
#include <cstdlib>
#include <map>
#include <memory>
#include <tuple>

#include <dnnl.hpp>

namespace plexus::internal {
namespace {

using dnnl::memory;

// Bfloat16 copies of operands; grows to the largest and stays.
class Scratch {
 public:
  std::uint16_t* Reserve(std::size_t count) {
    if (count > capacity_) {
      capacity_ = (count + 31) / 32 * 32;
      data_.reset(
          static_cast<std::uint16_t*>(std::aligned_alloc(64, capacity_ * sizeof(std::uint16_t))));
      CHECK(data_ != nullptr) << "no memory for " << capacity_ << " bfloat16s";
    }
    return data_.get();
  }

 private:
  struct Free {
    void operator()(std::uint16_t* p) const { std::free(p); }
  };
  std::unique_ptr<std::uint16_t, Free> data_;
  std::size_t capacity_ = 0;
};

// The operand's stored rows, packed.
const std::uint16_t* Round(const MatrixOperand<float>& x, std::size_t rows, std::size_t cols,
                           Scratch& scratch) {
  std::uint16_t* const to = scratch.Reserve(rows * cols);
  for (std::size_t i = 0; i < rows; ++i) {
    RoundToBfloat16(x.data + i * x.stride, cols, to + i * cols);
  }
  return to;
}

// One product's primitive with the memories that it is run on.
struct Product {
  dnnl::matmul primitive;
  memory a;
  memory b;
  memory c;
};

using ProductKey = std::tuple<std::size_t, std::size_t, std::size_t, std::size_t, bool, bool, bool>;

memory::desc Descriptor(std::size_t rows, std::size_t cols, memory::data_type type,
                        std::size_t row_step, std::size_t col_step) {
  const auto dim = [](std::size_t value) { return static_cast<memory::dim>(value); };
  return {{dim(rows), dim(cols)}, type, {dim(row_step), dim(col_step)}};
}

memory::desc OperandDescriptor(std::size_t rows, std::size_t cols, bool transposed) {
  return transposed ? Descriptor(rows, cols, memory::data_type::bf16, 1, rows)
                    : Descriptor(rows, cols, memory::data_type::bf16, cols, 1);
}

class ProductCache {
 public:
  ProductCache() : engine_(dnnl::engine::kind::cpu, 0), stream_(engine_) {}

  Product& Find(const GemmShape& shape, bool a_transposed, bool b_transposed,
                const MatrixResult<float>& result) {
    const ProductKey key{shape.m,      shape.n,      shape.k,          result.stride,
                         a_transposed, b_transposed, result.accumulate};
    const auto found = products_.find(key);
    if (found != products_.end()) {
      return found->second;
    }
    if (products_.size() >= kProductsMax) {
      products_.clear();
    }
    const memory::desc a = OperandDescriptor(shape.m, shape.k, a_transposed);
    const memory::desc b = OperandDescriptor(shape.k, shape.n, b_transposed);
    const memory::desc c = Descriptor(shape.m, shape.n, memory::data_type::f32, result.stride, 1);
    dnnl::primitive_attr attributes;
    if (result.accumulate) {
      dnnl::post_ops sum;
      sum.append_sum(1.0F);
      attributes.set_post_ops(sum);
    }
    const dnnl::matmul::primitive_desc descriptor({a, b, c}, attributes, engine_);
    return products_
        .emplace(key, Product{dnnl::matmul(descriptor), memory(a, engine_, nullptr),
                              memory(b, engine_, nullptr), memory(c, engine_, nullptr)})
        .first->second;
  }

  void Run(Product& product, const std::uint16_t* a, const std::uint16_t* b, float* c) {
    product.a.set_data_handle(const_cast<std::uint16_t*>(a));
    product.b.set_data_handle(const_cast<std::uint16_t*>(b));
    product.c.set_data_handle(c);
    const dnnl_exec_arg_t arguments[] = {{DNNL_ARG_SRC, product.a.get()},
                                         {DNNL_ARG_WEIGHTS, product.b.get()},
                                         {DNNL_ARG_DST, product.c.get()}};
    const dnnl_status_t status =
        dnnl_primitive_execute(product.primitive.get(), stream_.get(), 3, arguments);
    CHECK(status == dnnl_success) << "bf16 product: oneDNN status " << status;
    stream_.wait();
  }

 private:
  // A tower has three products a layer, and a last, shorter run of samples.
  static constexpr std::size_t kProductsMax = 1024;

  dnnl::engine engine_;
  dnnl::stream stream_;
  std::map<ProductKey, Product> products_;
};

}  // namespace

void RoundToBfloat16(const float* from, std::size_t count, std::uint16_t* to) {
  for (std::size_t i = 0; i < count; ++i) {
    const auto bits = std::bit_cast<std::uint32_t>(from[i]);
    const std::uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    // Rounding could carry a NaN's fraction away.
    const bool nan = (bits & 0x7fffffff) > 0x7f800000;
    to[i] = static_cast<std::uint16_t>(nan ? (bits >> 16) | 0x40 : rounded);
  }
}

void GemmBf16(const GemmShape& shape, const MatrixOperand<float>& a, const MatrixOperand<float>& b,
              const MatrixResult<float>& c) {
  thread_local ProductCache cache;
  thread_local Scratch a_scratch;
  thread_local Scratch b_scratch;
  const std::uint16_t* const a_rounded =
      Round(a, a.transposed ? shape.k : shape.m, a.transposed ? shape.m : shape.k, a_scratch);
  const std::uint16_t* const b_rounded =
      Round(b, b.transposed ? shape.n : shape.k, b.transposed ? shape.k : shape.n, b_scratch);
  try {
    cache.Run(cache.Find(shape, a.transposed, b.transposed, c), a_rounded, b_rounded, c.data);
  } catch (const dnnl::error& error) {
    LOG(FATAL) << "bf16 product " << shape.m << " x " << shape.n << " x " << shape.k << ": "
               << error.what();
  }
}

}  // namespace plexus::internal
