// The pixels of the visible patches, normalised, as rows of a matrix (src/ops/gather_patches):
//   out[b, k, (y p + x) 3 + c] = (image[b, top + y, left + x, c] / 255 - mean[c]) / std[c]
// where (top, left) is the corner of patch ids[b, k]. Only visible pixels are read. Bytes moved: one byte and one T per
// number.
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

// One thread per SIZE<T> numbers of a row. Grid: any; block: 256.
// images: [batch, side, side, 3]; ids: [batch, kept]; out: [batch, kept, patch * patch * 3].
// ALIGNED: 8 divides 3 patch and 3 side, so that a thread's bytes are in one line and are read at once.
template <typename T, bool ALIGNED>
__device__ void gather(const uint8_t* images, const uint32_t* ids, T* out, int batch, int side, int patch, int kept,
                       Normalisation normalisation) {
    constexpr int N = SIZE<T>;
    unsigned line = patch * 3;
    unsigned length = line * patch;
    unsigned across = side / patch;
    size_t total = (size_t)batch * kept * length;
    // 32-bit pack numbers, since a 64-bit division takes a hundred instructions.
    unsigned packs = (total + N - 1) / N;
    for (unsigned pack = thread_index(); pack < packs; pack += thread_count()) {
        size_t at = (size_t)pack * N;
        float v[N];
        if (ALIGNED) {
            unsigned row = pack / (length / N), inside = pack % (length / N) * N;
            unsigned id = ids[row];
            unsigned y = inside / line, x = inside % line;
            const uint8_t* from =
                images + ((size_t)(row / kept) * side + id / across * patch + y) * side * 3 + id % across * line + x;
            uint32_t words[N / 4];
            if (N == 8) {
                uint2 raw = *reinterpret_cast<const uint2*>(from);
                words[0] = raw.x, words[N / 4 - 1] = raw.y;
            } else {
                words[0] = *reinterpret_cast<const uint32_t*>(from);
            }
            Normalisation of = normalisation.from(x % 3);
#pragma unroll
            for (int i = 0; i < N; i++)
                v[i] = (float)(words[i / 4] >> (i % 4 * 8) & 255) * of.scale[i % 3] + of.shift[i % 3];
            store(out + at, v);
        } else {
            // The last pack may be shorter, and a pack may extend into the next line or patch.
            for (int i = 0; i < N && at + i < total; i++) {
                unsigned row = (at + i) / length, inside = (at + i) % length;
                unsigned id = ids[row];
                unsigned y = inside / line, x = inside % line;
                uint8_t byte =
                    images[((size_t)(row / kept) * side + id / across * patch + y) * side * 3 + id % across * line + x];
                out[at + i] = from_float<T>((float)byte * normalisation.scale[x % 3] + normalisation.shift[x % 3]);
            }
        }
    }
}

// For patches that were already gathered: bytes [count] -> out [count], channel fastest. Grid: any; block: 256.
template <typename T>
__device__ void normalise(const uint8_t* bytes, T* out, size_t count, Normalisation normalisation) {
    constexpr int N = SIZE<T>;
    for (size_t at = thread_index() * N; at < count; at += thread_count() * N) {
        if (at + N <= count) {
            Normalisation of = normalisation.from(at % 3);
            float v[N];
#pragma unroll
            for (int i = 0; i < N; i += 4) {
                uint32_t word = *reinterpret_cast<const uint32_t*>(bytes + at + i);
#pragma unroll
                for (int j = 0; j < 4; j++)
                    v[i + j] = (float)(word >> (j * 8) & 255) * of.scale[(i + j) % 3] + of.shift[(i + j) % 3];
            }
            store(out + at, v);
        } else {
            for (size_t i = at; i < count; i++)
                out[i] = from_float<T>((float)bytes[i] * normalisation.scale[i % 3] + normalisation.shift[i % 3]);
        }
    }
}

#define KERNELS(TYPE, NAME)                                                                                          \
    extern "C" __global__ void __launch_bounds__(256)                                                                \
        gather_patches_##NAME(const uint8_t* images, const uint32_t* ids, TYPE* out, int batch, int side, int patch, \
                              int kept, Normalisation normalisation) {                                               \
        gather<TYPE, false>(images, ids, out, batch, side, patch, kept, normalisation);                              \
    }                                                                                                                \
    extern "C" __global__ void __launch_bounds__(256)                                                                \
        gather_patches_aligned_##NAME(const uint8_t* images, const uint32_t* ids, TYPE* out, int batch, int side,    \
                                      int patch, int kept, Normalisation normalisation) {                            \
        gather<TYPE, true>(images, ids, out, batch, side, patch, kept, normalisation);                               \
    }                                                                                                                \
    extern "C" __global__ void __launch_bounds__(256)                                                                \
        normalise_patches_##NAME(const uint8_t* bytes, TYPE* out, size_t count, Normalisation normalisation) {       \
        normalise(bytes, out, count, normalisation);                                                                 \
    }

KERNELS(bf16, bf16)
KERNELS(float, f32)
