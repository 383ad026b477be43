// The vision tower's sequence (src/ops/assemble): a CLS token in front of the visible patches, positions by patch
// index.
//   out[b, 0] = cls + pos[0];  out[b, 1 + k] = patches[b, k] + pos[1 + ids[b, k]]
// Backward: dpatches by `copy_tokens`; dcls by `column_sums` over the first tokens (reduce.cu); dpos, if it is learned,
// the same for row 0, and the gradient of an embedding by ids for the others (embedding.cu).
#include "common.cuh"

// One thread per pack. Grid: any; block: 256. width: a multiple of SIZE<T>. Bytes moved: patches and out.
template <typename T>
__device__ void assemble(const T* patches, const uint32_t* ids, const float* cls, const float* pos, T* out, int batch,
                         int kept, int width) {
    constexpr int N = SIZE<T>;
    unsigned packs = width / N;
    size_t total = (size_t)batch * (kept + 1) * packs;
    for (size_t at = thread_index(); at < total; at += thread_count()) {
        unsigned column = at % packs * N, row = at / packs;
        unsigned token = row % (kept + 1), sample = row / (kept + 1);
        float v[N], p[N];
        if (token == 0) {
            load_params(cls + column, v);
            load_params(pos + column, p);
        } else {
            unsigned patch = sample * kept + token - 1;
            load(patches + (size_t)patch * width + column, v);
            load_params(pos + (size_t)(1 + ids[patch]) * width + column, p);
        }
#pragma unroll
        for (int i = 0; i < N; i++) v[i] += p[i];
        store(out + at * N, v);
    }
}

// dpatches[b, k] = dout[b, 1 + k]. Grid: any; block: 256.
template <typename T> __device__ void copy_tokens(const T* dout, T* dpatches, int batch, int kept, int width) {
    constexpr int N = SIZE<T>;
    size_t sample = (size_t)kept * width;
    size_t total = batch * sample;
    for (size_t at = thread_index() * N; at < total; at += thread_count() * N) {
        float v[N];
        load(dout + at + (at / sample + 1) * width, v);
        store(dpatches + at, v);
    }
}

#define KERNELS(TYPE, NAME)                                                                                   \
    extern "C" __global__ void __launch_bounds__(256)                                                         \
        assemble_forward_##NAME(const TYPE* patches, const uint32_t* ids, const float* cls, const float* pos, \
                                TYPE* out, int batch, int kept, int width) {                                  \
        assemble(patches, ids, cls, pos, out, batch, kept, width);                                            \
    }                                                                                                         \
    extern "C" __global__ void __launch_bounds__(256)                                                         \
        assemble_copy_##NAME(const TYPE* dout, TYPE* dpatches, int batch, int kept, int width) {              \
        copy_tokens(dout, dpatches, batch, kept, width);                                                      \
    }

KERNELS(bf16, bf16)
KERNELS(float, f32)
