// Attention, backward: P is recomputed from lse. Products are transposed, so that P and dS are operands in registers.
#pragma once
#include "attention.cuh"

// A slab is 16 rows of Q, then the same 16 rows of dO, in shared memory; where queries are streamed, then those of O.

// Writes the pairs (lse in base 2, rowsum(dO O)) of `count` queries to shared memory, with GROUP lanes per row. `rows`:
// slabs of PARTS times 16 rows; `out`: O in global memory, unless it is in the slabs (PARTS = 3). Only the first
// `valid` rows exist; the others get lse = inf, so that their P is 0. `arrive` waits for the slabs; it is called after
// the loads from global memory.
template <int HEAD_DIM, int PARTS, typename Arrive>
__device__ __forceinline__ void row_statistics(float2* statistics, const float* lse, const bf16* out, size_t pitch,
                                               const uint4* rows, int count, int valid, int thread, int threads,
                                               Arrive arrive) {
    typedef SwizzledTile<HEAD_DIM> Tile;
    constexpr int GROUP = Tile::GROUP;
    constexpr int EACH = Tile::CHUNKS / GROUP;
    // Rows per group of lanes whose loads are in flight together.
    constexpr int AHEAD = PARTS == 2 && EACH == 1 ? 8 : 4;
    int lane = thread % GROUP;
    int step = threads / GROUP;
    // No lane leaves early, since all take part in the shuffles.
    for (int first = 0; first < count; first += AHEAD * step) {
        uint4 o[AHEAD][EACH];
        float l[AHEAD];
#pragma unroll
        for (int i = 0; i < AHEAD; i++) {
            int row = first + i * step + thread / GROUP;
            l[i] = INFINITY;
            if (row < count && row < valid) {
                l[i] = lse[row] * LOG2E;
#pragma unroll
                for (int j = 0; PARTS != 3 && j < EACH; j++)
                    o[i][j] = fetch(out + row * pitch + (lane + j * GROUP) * 8);
            }
        }
        if (first == 0) arrive();
#pragma unroll
        for (int i = 0; i < AHEAD; i++) {
            int row = first + i * step + thread / GROUP;
            float sum = 0;
            if (row < count && row < valid) {
                const char* slab = reinterpret_cast<const char*>(rows) + (row / 16 * PARTS + 1) * 16 * Tile::BYTES;
#pragma unroll
                for (int j = 0; j < EACH; j++) {
                    const char* at = slab + Tile::offset(row % 16, lane + j * GROUP);
                    float a[8], d[8];
                    load(reinterpret_cast<const bf16*>(at), d);
                    unpack(PARTS == 3 ? fetch(reinterpret_cast<const bf16*>(at + 16 * Tile::BYTES)) : o[i][j], a);
#pragma unroll
                    for (int k = 0; k < 8; k++) sum += a[k] * d[k];
                }
            }
#pragma unroll
            for (int offset = GROUP / 2; offset > 0; offset /= 2) sum += __shfl_xor_sync(ALL_LANES, sum, offset);
            if (row < count && lane == 0) statistics[row] = make_float2(l[i], sum);
        }
    }
}

// The statistics that a lane of a transposed product needs of 16 queries: those of 2 t, 2 t + 1, 2 t + 8 and 2 t + 9.
struct Statistics {
    // (lse, rowsum) of two neighbouring queries.
    float4 of[2];

    // `at`: of query 2 t.
    __device__ __forceinline__ Statistics(const float2* at) {
#pragma unroll
        for (int tile = 0; tile < 2; tile++) of[tile] = *reinterpret_cast<const float4*>(at + 8 * tile);
    }

    // Replaces S^T of 16 SLABS keys by P^T. `key`, `query`: the first of each.
    template <int SLABS>
    __device__ __forceinline__ void probabilities(float (&s)[SLABS][2][4], int key, int query, int tokens, bool causal,
                                                  float scale_log2) const {
        int g = threadIdx.x % 32 / 4;
        int t = threadIdx.x % 4;
#pragma unroll
        for (int slab = 0; slab < SLABS; slab++) {
#pragma unroll
            for (int tile = 0; tile < 2; tile++) {
#pragma unroll
                for (int i = 0; i < 4; i++)
                    s[slab][tile][i] = exp2_approx(s[slab][tile][i] * scale_log2 - (i % 2 ? of[tile].z : of[tile].x));
            }
        }
        if (key + 16 * SLABS > tokens || causal && key + 16 * SLABS > query + 1) {
            asm volatile("");  // Makes this a branch, seldom taken, not a select per number.
#pragma unroll
            for (int slab = 0; slab < SLABS; slab++) {
#pragma unroll
                for (int i = 0; i < 8; i++) {
                    int at_key = key + 16 * slab + g + i % 4 / 2 * 8;
                    int at_query = query + i / 4 * 8 + 2 * t + i % 2;
                    if (at_key >= tokens || causal && at_key > at_query) s[slab][i / 4][i % 4] = 0;
                }
            }
        }
    }

    // Replaces dP^T by dS^T.
    __device__ __forceinline__ void gradients(float (&dp)[2][4], const float (&p)[2][4]) const {
#pragma unroll
        for (int tile = 0; tile < 2; tile++) {
#pragma unroll
            for (int i = 0; i < 4; i++) dp[tile][i] = p[tile][i] * (dp[tile][i] - (i % 2 ? of[tile].w : of[tile].y));
        }
    }
};

// 16 SLABS keys of a warp: the sums dK and dV, and fragments of K and V, if they are kept in registers.
template <int HEAD_DIM, int SLABS, bool KEEP_K, bool KEEP_V> struct Keys {
    typedef SwizzledTile<HEAD_DIM> Tile;
    uint32_t k[KEEP_K ? SLABS : 1][HEAD_DIM / 16][4], v[KEEP_V ? SLABS : 1][HEAD_DIM / 16][4];
    float dk[SLABS][HEAD_DIM / 8][4], dv[SLABS][HEAD_DIM / 8][4];

    // `keys`, `values`: this lane's address in the first tile of each.
    __device__ __forceinline__ void load(uint32_t keys, uint32_t values) {
#pragma unroll
        for (int slab = 0; slab < SLABS; slab++) {
#pragma unroll
            for (int i = 0; i < HEAD_DIM / 16; i++) {
                if (KEEP_K) ldmatrix_x4<false>(k[slab][i], Tile::address(keys, 16 * slab, i));
                if (KEEP_V) ldmatrix_x4<false>(v[slab][i], Tile::address(values, 16 * slab, i));
            }
#pragma unroll
            for (int i = 0; i < HEAD_DIM / 8; i++) {
#pragma unroll
                for (int j = 0; j < 4; j++) dk[slab][i][j] = dv[slab][i][j] = 0;
            }
        }
    }

    // Adds the contributions of 16 queries. `a_order`, `b_order`: this lane's addresses in the first tile of their
    // slab. S^T and dP^T, keys by queries, become P^T and dS^T, which are operands for dV and dK as they are. Returns
    // dS^T in `ds`.
    __device__ __forceinline__ void add(uint32_t (&ds)[SLABS][4], uint32_t keys, uint32_t values, uint32_t a_order,
                                        uint32_t b_order, const float2* statistics, int key, int query, int tokens,
                                        bool causal, float scale_log2) {
        float s[SLABS][2][4] = {}, dp[SLABS][2][4] = {};
#pragma unroll
        for (int i = 0; i < HEAD_DIM / 16; i++) {
            uint32_t q[4], d[4];
            ldmatrix_x4<false>(q, Tile::address(b_order, 0, i));
#pragma unroll
            for (int slab = 0; slab < SLABS; slab++) {
                if (!KEEP_K) ldmatrix_x4<false>(k[0][i], Tile::address(keys, 16 * slab, i));
                mma(s[slab], k[KEEP_K ? slab : 0][i], q);
            }
            ldmatrix_x4<false>(d, Tile::address(b_order, 16, i));
#pragma unroll
            for (int slab = 0; slab < SLABS; slab++) {
                if (!KEEP_V) ldmatrix_x4<false>(v[0][i], Tile::address(values, 16 * slab, i));
                mma(dp[slab], v[KEEP_V ? slab : 0][i], d);
            }
        }
        uint32_t p[SLABS][4];
        Statistics of(statistics + 2 * (threadIdx.x % 4));
        of.probabilities(s, key, query, tokens, causal, scale_log2);
#pragma unroll
        for (int slab = 0; slab < SLABS; slab++) {
            of.gradients(dp[slab], s[slab]);
            acc_to_a_frag(p[slab], s[slab]);
            acc_to_a_frag(ds[slab], dp[slab]);
        }
#pragma unroll
        for (int i = 0; i < HEAD_DIM / 16; i++) {
            uint32_t q[4], d[4];
            ldmatrix_x4<true>(d, Tile::address(a_order, 16, i));
            ldmatrix_x4<true>(q, Tile::address(a_order, 0, i));
#pragma unroll
            for (int slab = 0; slab < SLABS; slab++) {
                mma(dv[slab] + 2 * i, p[slab], d);
                mma(dk[slab] + 2 * i, ds[slab], q);
            }
        }
    }

    // `to`: dK of the first key; dV is `width` elements further. `rows`: keys that exist.
    __device__ __forceinline__ void store(bf16* to, size_t pitch, int width, int rows, float scale) {
#pragma unroll
        for (int slab = 0; slab < SLABS; slab++) {
            store_rows(to + 16 * slab * pitch, pitch, rows - 16 * slab, dk[slab], scale, scale);
            store_rows(to + 16 * slab * pitch + width, pitch, rows - 16 * slab, dv[slab], 1, 1);
        }
    }
};

// Q, K, V and dO of a head are in shared memory. First each warp takes 16 keys at a time, with all queries, for dK and
// dV. It stores their dS^T to shared memory in place of V, of which it needs only its own 16 rows, which are in
// registers by then. Then each warp takes 16 queries at a time, for dQ.
// Grid: batch * heads; block: 32 times the number of warps; dynamic shared memory, with R = tokens rounded up to 16:
// R * (6 HEAD_DIM + 2 max(R + 8, HEAD_DIM) + 8) bytes.
template <int HEAD_DIM>
__device__ void backward(const bf16* qkv, const bf16* out, const float* lse, const bf16* dout, bf16* dqkv, int tokens,
                         int heads, int causal, float scale) {
    typedef SwizzledTile<HEAD_DIM> Tile;
    extern __shared__ __align__(128) uint4 shared[];
    int threads = blockDim.x;
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    int g = lane / 4;
    int t = lane % 4;
    HeadOffset at(blockIdx.x, tokens, heads, HEAD_DIM);
    size_t pitch = 3 * at.pitch;
    int padded = (tokens + 15) / 16 * 16;
    // A row of dS^T is an odd number of chunks long, so that neighbouring rows start at different banks.
    int score_row = (padded + 8) * 2;
    int score_slab = 16 * max(score_row, Tile::BYTES);
    uint32_t rows = shared_address(shared);
    uint32_t keys = rows + 2 * padded * Tile::BYTES;
    uint32_t scores = keys + padded * Tile::BYTES;
    float2* statistics = reinterpret_cast<float2*>(shared) + (3 * padded * Tile::BYTES + padded / 16 * score_slab) / 8;
    const bf16* from = qkv + at.qkv;
    Tile::load_async(rows + 16 * Tile::BYTES, dout + at.out, at.pitch, padded, tokens, threadIdx.x, threads,
                     32 * Tile::BYTES);
    cp_async_commit();
    Tile::load_async(rows, from, pitch, padded, tokens, threadIdx.x, threads, 32 * Tile::BYTES);
    Tile::load_async(keys, from + at.width, pitch, padded, tokens, threadIdx.x, threads);
    Tile::load_async(scores, from + 2 * at.width, pitch, padded, tokens, threadIdx.x, threads, score_slab);
    cp_async_commit();
    row_statistics<HEAD_DIM, 2>(statistics, lse + at.lse, out + at.out, at.pitch, shared, padded, tokens, threadIdx.x,
                                threads, [] { cp_async_wait_group<1>(), __syncthreads(); });
    cp_async_wait_group<0>();
    __syncthreads();

    uint32_t a_order = Tile::a_order(lane), b_order = Tile::b_order(lane);
    float scale_log2 = scale * LOG2E;
    for (int key = 16 * warp; key < tokens; key += threads / 2) {
        uint32_t own = scores + key / 16 * score_slab;
        Keys<HEAD_DIM, 1, HEAD_DIM <= 64, true> of;
        of.load(keys + a_order + key * Tile::BYTES, own + a_order);
        __syncwarp();
        int query = causal ? key : 0;
        uint32_t row = rows + query * 2 * Tile::BYTES;
        uint32_t low = own + g * score_row + (query + 2 * t) * 2;
        uint32_t high = low + 8 * score_row;
#pragma unroll 1
        for (; query < tokens; query += 16, row += 32 * Tile::BYTES, low += 32, high += 32) {
            uint32_t ds[1][4];
            of.add(ds, keys + a_order + key * Tile::BYTES, own + a_order, row + a_order, row + b_order,
                   statistics + query, key, query, tokens, causal, scale_log2);
#pragma unroll
            for (int i = 0; i < 4; i++)
                asm volatile("st.shared.b32 [%0], %1;" ::"r"((i % 2 ? high : low) + i / 2 * 16), "r"(ds[0][i])
                             : "memory");
        }
        of.store(dqkv + at.qkv + at.width + key * pitch, pitch, at.width, tokens - key, scale);
    }
    __syncthreads();

    for (int query = 16 * warp; query < tokens; query += threads / 2) {
        float dq[HEAD_DIM / 8][4] = {};
        int end = causal ? query + 16 : tokens;
        uint32_t score = scores + (lane / 16 * 8 + lane % 8) * score_row + query * 2 + lane / 8 % 2 * 16;
        uint32_t row = keys + a_order;
#pragma unroll 2
        for (int key = 0; key < end; key += 16, score += score_slab, row += 16 * Tile::BYTES) {
            uint32_t ds[4];
            ldmatrix_x4<true>(ds, score);
            mma_ab<HEAD_DIM>(dq, ds, row, 0);
        }
        store_rows(dqkv + at.qkv + query * pitch, pitch, tokens - query, dq, scale, scale);
    }
}

// Any number of tokens. Half of the blocks compute dK and dV (backward_keys), the others dQ (backward_queries). The
// blocks of one head are neighbours, so that what several of them read is in the L2 cache. A block owns 64 SLABS rows,
// each warp 16 SLABS. Grid: 2 * batch * heads * ceil(tokens / (64 SLABS)); block: 128; dynamic shared memory: (256
// SLABS + 12 STAGE) * HEAD_DIM + 8 max(STAGE, 64 SLABS) bytes.

// dK and dV of 64 SLABS keys, in a loop over STAGE queries (Q, dO, O) at a time, of which the next are loaded
// meanwhile.
template <int HEAD_DIM, int SLABS, int STAGE>
__device__ __forceinline__ void backward_keys(const HeadOffset& at, int first, const bf16* qkv, const bf16* out,
                                              const float* lse, const bf16* dout, bf16* dqkv, int tokens, bool causal,
                                              float scale) {
    typedef SwizzledTile<HEAD_DIM> Tile;
    constexpr int OWN = 64 * SLABS, SLAB = 48 * Tile::BYTES;
    extern __shared__ __align__(128) uint4 shared[];
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    int key = first + 16 * SLABS * warp;
    size_t pitch = 3 * at.pitch;
    const bf16* from = qkv + at.qkv;
    uint32_t keys = shared_address(shared);
    uint32_t values = keys + OWN * Tile::BYTES;
    uint32_t stages = values + OWN * Tile::BYTES;
    float2* statistics = reinterpret_cast<float2*>(shared) + (2 * OWN + 6 * STAGE) * Tile::BYTES / 8;
    auto load_stage = [&](int row) {
        uint32_t to = stages + row / STAGE % 2 * (3 * STAGE * Tile::BYTES);
        Tile::load_async(to, from + row * pitch, pitch, STAGE, tokens - row, threadIdx.x, 128, SLAB);
        Tile::load_async(to + 16 * Tile::BYTES, dout + at.out + row * at.pitch, at.pitch, STAGE, tokens - row,
                         threadIdx.x, 128, SLAB);
        Tile::load_async(to + 32 * Tile::BYTES, out + at.out + row * at.pitch, at.pitch, STAGE, tokens - row,
                         threadIdx.x, 128, SLAB);
    };
    Tile::load_async(keys, from + at.width + first * pitch, pitch, OWN, tokens - first, threadIdx.x, 128);
    Tile::load_async(values, from + 2 * at.width + first * pitch, pitch, OWN, tokens - first, threadIdx.x, 128);
    int begin = causal ? first / STAGE * STAGE : 0;
    load_stage(begin);
    cp_async_commit();
    uint32_t a_order = Tile::a_order(lane), b_order = Tile::b_order(lane);
    uint32_t own = keys + a_order + 16 * SLABS * warp * Tile::BYTES;
    float scale_log2 = scale * LOG2E;
    cp_async_wait_group<0>();
    __syncthreads();
    Keys<HEAD_DIM, SLABS, HEAD_DIM * SLABS <= 64, HEAD_DIM <= 96> of;
    of.load(own, own + OWN * Tile::BYTES);
    for (int block = begin; block < tokens; block += STAGE) {
        if (block + STAGE < tokens) load_stage(block + STAGE);
        cp_async_commit();
        int stage = block / STAGE % 2 * (3 * STAGE * Tile::BYTES);
        row_statistics<HEAD_DIM, 3>(statistics, lse + at.lse + block, nullptr, 0,
                                    shared + 2 * OWN * Tile::CHUNKS + stage / 16, STAGE, tokens - block, threadIdx.x,
                                    128, [] { cp_async_wait_group<1>(), __syncthreads(); });
        __syncthreads();
        if (key < tokens) {
            int end = min(tokens - block, STAGE);
            uint32_t row = stages + stage;
#pragma unroll 1
            for (int query = 0; query < end; query += 16, row += SLAB) {
                uint32_t ds[SLABS][4];
                of.add(ds, own, own + OWN * Tile::BYTES, row + a_order, row + b_order, statistics + query, key,
                       block + query, tokens, causal, scale_log2);
            }
        }
        __syncthreads();
    }
    of.store(dqkv + at.qkv + at.width + key * pitch, pitch, at.width, tokens - key, scale);
}

// 16 SLABS queries of a warp: the sums dQ, and fragments of Q and dO, which are loaded each time unless KEEP.
template <int HEAD_DIM, int SLABS, bool KEEP> struct Queries {
    typedef SwizzledTile<HEAD_DIM> Tile;
    uint32_t q[SLABS][HEAD_DIM / 16][4], d[SLABS][HEAD_DIM / 16][4];
    float dq[SLABS][HEAD_DIM / 8][4] = {};

    // `own`: this lane's address in the first tile of the warp's slabs.
    __device__ __forceinline__ void load(uint32_t own, int slab, int i) {
        ldmatrix_x4<false>(q[slab][i], Tile::address(own, 32 * slab, i));
        ldmatrix_x4<false>(d[slab][i], Tile::address(own, 32 * slab + 16, i));
    }
    __device__ __forceinline__ void load(uint32_t own) {
#pragma unroll
        for (int slab = 0; KEEP && slab < SLABS; slab++) {
#pragma unroll
            for (int i = 0; i < HEAD_DIM / 16; i++) load(own, slab, i);
        }
    }

    // Adds the contributions of 16 keys. `a_order`, `b_order`: this lane's addresses in the first tile of K; V is 16
    // rows further. `of`: the statistics of rows g and g + 8 of each slab; `key`, `query`: the first of each.
    __device__ __forceinline__ void add(uint32_t own, uint32_t a_order, uint32_t b_order, const float2 (&of)[SLABS][2],
                                        int key, int query, int lane, int tokens, bool causal, float scale_log2) {
        int g = lane / 4;
        int t = lane % 4;
        float s[SLABS][2][4] = {}, dp[SLABS][2][4] = {};
#pragma unroll
        for (int i = 0; i < HEAD_DIM / 16; i++) {
            uint32_t k[4], v[4];
            ldmatrix_x4<false>(k, Tile::address(b_order, 0, i));
            ldmatrix_x4<false>(v, Tile::address(b_order, 16, i));
#pragma unroll
            for (int slab = 0; slab < SLABS; slab++) {
                if (!KEEP) load(own, slab, i);
                mma(s[slab], q[slab][i], k);
                mma(dp[slab], d[slab][i], v);
            }
        }
        bool all = key + 16 <= tokens && !(causal && key + 15 > query);
#pragma unroll
        for (int slab = 0; slab < SLABS; slab++) {
#pragma unroll
            for (int i = 0; i < 8; i++)
                s[slab][i / 4][i % 4] = exp2_approx(s[slab][i / 4][i % 4] * scale_log2 - of[slab][i % 4 / 2].x);
        }
        if (!all) {
            asm volatile("");
#pragma unroll
            for (int slab = 0; slab < SLABS; slab++) {
#pragma unroll
                for (int i = 0; i < 8; i++) {
                    int at_key = key + i / 4 * 8 + 2 * t + i % 2;
                    int at_query = query + 16 * slab + g + i % 4 / 2 * 8;
                    if (at_key >= tokens || causal && at_key > at_query) s[slab][i / 4][i % 4] = 0;
                }
            }
        }
        uint32_t ds[SLABS][4];
#pragma unroll
        for (int slab = 0; slab < SLABS; slab++) {
#pragma unroll
            for (int i = 0; i < 8; i++)
                dp[slab][i / 4][i % 4] = s[slab][i / 4][i % 4] * (dp[slab][i / 4][i % 4] - of[slab][i % 4 / 2].y);
            acc_to_a_frag(ds[slab], dp[slab]);
        }
#pragma unroll
        for (int i = 0; i < HEAD_DIM / 16; i++) {
            uint32_t k[4];
            ldmatrix_x4<true>(k, Tile::address(a_order, 0, i));
#pragma unroll
            for (int slab = 0; slab < SLABS; slab++) mma(dq[slab] + 2 * i, ds[slab], k);
        }
    }

    // `to`: dQ of the first query; `rows`: queries that exist.
    __device__ __forceinline__ void store(bf16* to, size_t pitch, int rows, float scale) {
#pragma unroll
        for (int slab = 0; slab < SLABS; slab++)
            store_rows(to + 16 * slab * pitch, pitch, rows - 16 * slab, dq[slab], scale, scale);
    }
};

// dQ of 64 SLABS queries, in a loop over STAGE keys (K, V) at a time, of which the next are loaded meanwhile.
template <int HEAD_DIM, int SLABS, int STAGE>
__device__ __forceinline__ void backward_queries(const HeadOffset& at, int first, const bf16* qkv, const bf16* out,
                                                 const float* lse, const bf16* dout, bf16* dqkv, int tokens,
                                                 bool causal, float scale) {
    typedef SwizzledTile<HEAD_DIM> Tile;
    constexpr int OWN = 64 * SLABS;
    constexpr int SLAB = 32 * Tile::BYTES;
    extern __shared__ __align__(128) uint4 shared[];
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    int g = lane / 4;
    int query = first + 16 * SLABS * warp;
    size_t pitch = 3 * at.pitch;
    const bf16* from = qkv + at.qkv;
    uint32_t rows = shared_address(shared);
    uint32_t stages = rows + 2 * OWN * Tile::BYTES;
    float2* statistics = reinterpret_cast<float2*>(shared) + (2 * OWN + 6 * STAGE) * Tile::BYTES / 8;
    auto load_stage = [&](int row) {
        uint32_t to = stages + row / STAGE % 2 * (2 * STAGE * Tile::BYTES);
        const bf16* k = from + at.width + row * pitch;
        const bf16* v = from + 2 * at.width + row * pitch;
        Tile::load_async(to, k, pitch, STAGE, tokens - row, threadIdx.x, 128, SLAB);
        Tile::load_async(to + 16 * Tile::BYTES, v, pitch, STAGE, tokens - row, threadIdx.x, 128, SLAB);
    };
    const bf16* d = dout + at.out + first * at.pitch;
    Tile::load_async(rows, from + first * pitch, pitch, OWN, tokens - first, threadIdx.x, 128, SLAB);
    Tile::load_async(rows + 16 * Tile::BYTES, d, at.pitch, OWN, tokens - first, threadIdx.x, 128, SLAB);
    cp_async_commit();
    load_stage(0);
    cp_async_commit();
    row_statistics<HEAD_DIM, 2>(statistics, lse + at.lse + first, out + at.out + first * at.pitch, at.pitch, shared,
                                OWN, tokens - first, threadIdx.x, 128,
                                [] { cp_async_wait_group<1>(), __syncthreads(); });
    uint32_t a_order = Tile::a_order(lane), b_order = Tile::b_order(lane);
    uint32_t own = rows + a_order + 32 * SLABS * warp * Tile::BYTES;
    float scale_log2 = scale * LOG2E;
    Queries<HEAD_DIM, SLABS, HEAD_DIM <= 80> queries;
    queries.load(own);
    int limit = causal ? min(tokens, first + OWN) : tokens;
    for (int block = 0; block < limit; block += STAGE) {
        if (block + STAGE < limit) load_stage(block + STAGE);
        cp_async_commit();
        cp_async_wait_group<1>();
        __syncthreads();
        int end = query < tokens ? min(limit - block, STAGE) : 0;
        uint32_t row = stages + block / STAGE % 2 * (2 * STAGE * Tile::BYTES);
        float2 of[SLABS][2];
#pragma unroll
        for (int slab = 0; slab < SLABS; slab++) {
#pragma unroll
            for (int half = 0; half < 2; half++) of[slab][half] = statistics[16 * (SLABS * warp + slab) + g + 8 * half];
        }
#pragma unroll 1
        for (int key = block; key < block + end; key += 16, row += SLAB)
            queries.add(own, row + a_order, row + b_order, of, key, query, lane, tokens, causal, scale_log2);
        __syncthreads();
    }
    queries.store(dqkv + at.qkv + query * pitch, pitch, tokens - query, scale);
}

template <int HEAD_DIM, int SLABS, int STAGE>
__device__ void backward_long(const bf16* qkv, const bf16* out, const float* lse, const bf16* dout, bf16* dqkv,
                              int tokens, int heads, int causal, float scale) {
    int blocks = (tokens + 64 * SLABS - 1) / (64 * SLABS);
    int block = blockIdx.x % (2 * blocks);
    HeadOffset at(blockIdx.x / (2 * blocks), tokens, heads, HEAD_DIM);
    if (block < blocks)
        backward_keys<HEAD_DIM, SLABS, STAGE>(at, block * 64 * SLABS, qkv, out, lse, dout, dqkv, tokens, causal, scale);
    else
        backward_queries<HEAD_DIM, SLABS, STAGE>(at, (block - blocks) * 64 * SLABS, qkv, out, lse, dout, dqkv, tokens,
                                                 causal, scale);
}
