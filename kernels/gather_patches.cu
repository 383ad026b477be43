// The pixels of the visible patches, which the loader has gathered, normalised (src/ops/gather_patches):
//   out[i] = (patches[i] / 255 - mean[c]) / std[c]
// with the channel c = i % 3. Bytes moved: one byte and one T per number.
#include "common.cuh"

struct Normalisation {
    // v -> v * scale + shift
    float scale[3], shift[3];

    // Rotated so that `channel` is the first. Selects, not a computed index: kernel parameters that are indexed by a
    // register are read lane by lane.
    __device__ __forceinline__ Normalisation from(unsigned channel) const {
        Normalisation rotated;
#pragma unroll
        for (int i = 0; i < 3; i++) {
            rotated.scale[i] = channel == 0 ? scale[i] : channel == 1 ? scale[(i + 1) % 3] : scale[(i + 2) % 3];
            rotated.shift[i] = channel == 0 ? shift[i] : channel == 1 ? shift[(i + 1) % 3] : shift[(i + 2) % 3];
        }
        return rotated;
    }
};

// One thread per SIZE<T> numbers. Grid: any; block: 256.
// patches, out: [count], whole pixels.
template <typename T>
__device__ void normalise(const uint8_t* patches, T* out, size_t count, Normalisation normalisation) {
    constexpr int N = SIZE<T>;
    // 32-bit pack numbers, since a 64-bit division takes a hundred instructions.
    unsigned packs = (count + N - 1) / N;
    for (unsigned pack = thread_index(); pack < packs; pack += thread_count()) {
        size_t at = (size_t)pack * N;
        Normalisation of = normalisation.from(pack % 3 * N % 3);
        if (at + N <= count) {
            uint32_t words[N / 4];
            if (N == 8) {
                uint2 raw = *reinterpret_cast<const uint2*>(patches + at);
                words[0] = raw.x, words[N / 4 - 1] = raw.y;
            } else {
                words[0] = *reinterpret_cast<const uint32_t*>(patches + at);
            }
            float v[N];
#pragma unroll
            for (int i = 0; i < N; i++)
                v[i] = (float)(words[i / 4] >> (i % 4 * 8) & 255) * of.scale[i % 3] + of.shift[i % 3];
            store(out + at, v);
        } else {
#pragma unroll
            for (int i = 0; i < N; i++) {
                if (at + i < count)
                    out[at + i] = from_float<T>((float)patches[at + i] * of.scale[i % 3] + of.shift[i % 3]);
            }
        }
    }
}

#define KERNELS(TYPE, NAME)                                                                                   \
    extern "C" __global__ void __launch_bounds__(256)                                                         \
        gather_patches_##NAME(const uint8_t* patches, TYPE* out, size_t count, Normalisation normalisation) { \
        normalise(patches, out, count, normalisation);                                                        \
    }

KERNELS(bf16, bf16)
KERNELS(float, f32)
