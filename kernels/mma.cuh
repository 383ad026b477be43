// Matrix products of one warp on bf16 (mma.sync m16n8k16, sm_80), on rows in shared memory.
//
// Layout of a fragment (PTX ISA, 9.7.14.5.8): lane 4 g + t holds of A the rows g, g + 8 at columns 2 t, 2 t + 8 (and one
// beyond); of B the rows 2 t, 2 t + 8 (and one beyond) at column g; of C the rows g (values 0, 1), g + 8 (2, 3) at columns
// 2 t, 2 t + 1. So two neighbouring tiles of C, in bf16, are an A.
#pragma once
#include "common.cuh"

__device__ __forceinline__ uint32_t shared_address(const void* at) { return (uint32_t)__cvta_generic_to_shared(at); }

// 16 bytes from global to shared memory, not waited for; zeros where not `there` (`from` is an address that exists, still).
__device__ __forceinline__ void copy_async(uint32_t to, const void* from, bool there) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(there ? 16 : 0) : "memory");
}
__device__ __forceinline__ void copies_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Waits for this thread's copies but for the PENDING newest groups; others see them after a barrier.
template <int PENDING> __device__ __forceinline__ void copies_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}

// A 16 x 16 tile as four 8 x 8 matrices, each transposed if TRANS. `at`: this lane's place in the tile, by which the order is
// (top, left), (bottom, left), (top, right), (bottom, right) - Rows::across - or with the middle two swapped - Rows::along.
// A tile is then, with T for TRANS:
//   across: an A, of the tile itself;            across, T: two B's, whose rows are the tile's
//   along, T: an A, of the tile transposed;      along: two B's, whose columns are the tile's rows
// The registers of an operand must be neighbours, or they are moved there: hence two orders.
template <bool TRANS> __device__ __forceinline__ void load_tile(uint32_t (&m)[4], uint32_t at) {
    if constexpr (TRANS)
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                     : "=r"(m[0]), "=r"(m[1]), "=r"(m[2]), "=r"(m[3]) : "r"(at) : "memory");
    else
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                     : "=r"(m[0]), "=r"(m[1]), "=r"(m[2]), "=r"(m[3]) : "r"(at) : "memory");
}

// c += a b, of 16 x 16 and 16 x 8.
__device__ __forceinline__ void mma(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// c += a b of 16 x 16 each.
__device__ __forceinline__ void mma(float (*c)[4], const uint32_t (&a)[4], const uint32_t (&b)[4]) {
    mma(c[0], a, b[0], b[1]);
    mma(c[1], a, b[2], b[3]);
}

// Two neighbouring 16 x 8 tiles of accumulators as an A.
__device__ __forceinline__ void as_operand(uint32_t (&a)[4], const float (*c)[4]) {
    a[0] = pack(c[0][0], c[0][1]), a[1] = pack(c[0][2], c[0][3]);
    a[2] = pack(c[1][0], c[1][1]), a[3] = pack(c[1][2], c[1][3]);
}

// 2^x
__device__ __forceinline__ float exp2_approx(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// Rows of WIDTH elements in shared memory, from an address that is a multiple of 128. The 16-byte chunks of a row are swapped
// among themselves so that eight rows at one column lie in all 32 banks: rows that are 8 / GROUP apart start at the same bank.
template <int WIDTH> struct Rows {
    static constexpr int CHUNKS = WIDTH / 8, BYTES = WIDTH * 2;
    static constexpr int GROUP = CHUNKS % 8 == 0 ? 8 : CHUNKS % 4 == 0 ? 4 : 2;
    static_assert(WIDTH % 16 == 0);

    static __device__ __forceinline__ uint32_t offset(int row, int chunk) {
        return row * BYTES + (chunk ^ row / (8 / GROUP) % GROUP) * 16;
    }
    // This lane's part of tile (0, 0), in the two orders.
    static __device__ __forceinline__ uint32_t across(int lane) { return offset(lane % 16, lane / 16); }
    static __device__ __forceinline__ uint32_t along(int lane) { return offset(lane / 16 * 8 + lane % 8, lane / 8 % 2); }
    // This lane's part of the tile at `row` (a multiple of 16), column 16 k, where `first` is its part of tile (0, 0).
    static __device__ __forceinline__ uint32_t tile(uint32_t first, int row, int k) {
        return (first ^ k % (GROUP / 2) * 32) + row * BYTES + k / (GROUP / 2) * (GROUP * 16);
    }

    // Begins to copy `count` rows, `pitch` elements apart, with `threads` threads; of them `there` (at least one) exist, the others
    // become zeros. Sixteen rows follow each other, and then the next `slab` bytes further on.
    static __device__ __forceinline__ void fetch(uint32_t to, const bf16* from, uint32_t pitch, int count, int there, int thread,
                                                 int threads, int slab = 16 * BYTES) {
        __builtin_assume(0 <= thread && thread < threads);
        for (int i = thread; i < count * CHUNKS; i += threads) {
            int row = i / CHUNKS, chunk = i % CHUNKS;
            // 32 bits times 32 bits are one instruction.
            const char* at = reinterpret_cast<const char*>(from + chunk * 8) + (size_t)min(row, there - 1) * (pitch * 2);
            copy_async(to + row / 16 * slab + offset(row % 16, chunk), at, row < there);
        }
    }
};

// Swaps a of the odd lanes (those with `bit`) with b of the even ones.
__device__ __forceinline__ void exchange(uint32_t& a, uint32_t& b, int bit) {
    bool odd = threadIdx.x & bit;
    uint32_t got = __shfl_xor_sync(ALL_LANES, odd ? a : b, bit);
    if (odd) a = got;
    else b = got;
}

// Stores 16 rows of TILES * 8 accumulators, times `low` (rows 0 to 7) and `high`, as bf16; only the first `rows`. Four lanes hold
// 16 bytes of each tile: they exchange them, so that each lane stores 16 bytes and every sector is written whole.
template <int TILES>
__device__ __forceinline__ void store_rows(bf16* to, size_t pitch, int rows, const float (&c)[TILES][4], float low, float high) {
    int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        float factor = half ? high : low;
        bool inside = g + 8 * half < rows;
        bf16* row = to + (g + 8 * half) * pitch;
        uint32_t w[TILES];
#pragma unroll
        for (int i = 0; i < TILES; i++) w[i] = pack(c[i][2 * half] * factor, c[i][2 * half + 1] * factor);
#pragma unroll
        for (int i = 0; i + 4 <= TILES; i += 4) {
            exchange(w[i], w[i + 1], 1), exchange(w[i + 2], w[i + 3], 1);
            exchange(w[i], w[i + 2], 2), exchange(w[i + 1], w[i + 3], 2);
            if (inside) __stcg(reinterpret_cast<uint4*>(row + (i + t) * 8), make_uint4(w[i], w[i + 1], w[i + 2], w[i + 3]));
        }
        if constexpr (TILES % 4 == 2) {
            constexpr int i = TILES - 2;
            exchange(w[i], w[i + 1], 1);
            if (inside) __stcg(reinterpret_cast<uint2*>(row + (i + t % 2) * 8 + t / 2 * 4), make_uint2(w[i], w[i + 1]));
        }
    }
}
