// Token embedding with learned positions (src/ops/embedding): out[b, t] = table[token[b, t]] + pos[t].
// Backward: dtable[v] (+)= sum of dout over the places of token v. dpos is `column_sums` over samples (reduce.cu).
//
// The gradient of the table, from n places (indices into `tokens`):
//   1. Sort the places by token: a stable radix sort, DIGIT_BITS at a time, three launches each (count, scan, sort).
//   2. Unless dtable accumulates, zero the rows of tokens that do not occur (clear).
//   3. Sum rows (sum). The sorted list is cut into pieces of PIECE entries. The run of a token that lies in one piece
//      is summed and written to dtable. A run that spans pieces leaves a partial row in each. These partial rows, with
//      their tokens, are a sorted list of at most two entries per piece, which the next launch sums in the same way.
//      The last launch has one piece.
// So the work is proportional to n (but for the zeros), however often one token occurs, as padding does. There are no
// atomics, and the order of every sum depends on the tokens alone.
//
// Bytes moved: dout once and dtable once; about 50 n for the sort; at most 16 width / PIECE n for partial rows, written
// and read.
#include "common.cuh"

// One thread per pack. Grid: any; block: 256. tokens: [places], table: [vocab, width] of T, pos: [context, width];
// width: a multiple of SIZE<T>. Bytes moved: out, and the rows of the table that occur.
template <typename T>
__device__ void forward(const int* tokens, const T* table, const float* pos, T* out, int places, int context,
                        int width) {
    constexpr int N = SIZE<T>;
    size_t total = (size_t)places * width;
    for (size_t at = thread_index() * N; at < total; at += thread_count() * N) {
        unsigned place = at / width, column = at % width;
        float v[N], p[N];
        load(table + (size_t)tokens[place] * width + column, v);
        load_params(pos + (size_t)(place % context) * width + column, p);
#pragma unroll
        for (int i = 0; i < N; i++) v[i] += p[i];
        store(out + at, v);
    }
}

constexpr int DIGIT_BITS = 8;  // launcher
constexpr int DIGITS = 256;    // launcher
constexpr int SEGMENT = 2048;  // launcher
constexpr int PIECE = 64;      // launcher
constexpr int THREADS = 256, WARPS = THREADS / 32;
// Entries of a segment that one thread has.
constexpr int EACH = SEGMENT / THREADS;
// Rows whose loads are in flight together.
constexpr int AHEAD = 8;
static_assert(DIGITS == 1 << DIGIT_BITS && DIGITS == THREADS, "thread i handles digit i");

// An element of a sorted list: `row` is the index of a row of dout or of a partial row, or -1 for none.
struct __align__(8) Entry {
    int token, row;
};

// The inclusive prefix sum over a warp.
__device__ __forceinline__ int warp_scan(int x) {
#pragma unroll
    for (int offset = 1; offset < 32; offset *= 2) {
        int other = __shfl_up_sync(ALL_LANES, x, offset);
        if (threadIdx.x % 32 >= offset) x += other;
    }
    return x;
}

// A block's segment of a list. Each warp has EACH * 32 neighbouring entries, 32 at a time.
struct Segment {
    Entry entries[EACH];
    // Of each entry, the number of earlier ones of the warp with the same digit.
    int ranks[EACH];

    static __device__ __forceinline__ int index(int round) {
        return blockIdx.x * SEGMENT + threadIdx.x / 32 * (EACH * 32) + round * 32 + threadIdx.x % 32;
    }
    __device__ __forceinline__ int digit(int round, int shift) const {
        return entries[round].token >> shift & (DIGITS - 1);
    }

    // Ranks the entries and leaves in `counts` how many each warp has of each digit. `list`: null in the first pass.
    __device__ __forceinline__ Segment(const int* tokens, const Entry* list, int count, int shift,
                                       int (&counts)[WARPS][DIGITS]) {
        int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
#pragma unroll
        for (int round = 0; round < EACH; round++) {
            int at = index(round);
            if (at < count) entries[round] = list ? list[at] : Entry{tokens[at], at};
            else entries[round] = Entry{-1, -1};
        }
#pragma unroll
        for (int i = 0; i < WARPS; i++) counts[i][threadIdx.x] = 0;
        __syncthreads();
#pragma unroll
        for (int round = 0; round < EACH; round++) {
            bool exists = index(round) < count;
            int digit = this->digit(round, shift);
            unsigned equal = __match_any_sync(ALL_LANES, exists ? digit : -1);
            int earlier = exists ? counts[warp][digit] : 0;
            int before = __popc(equal & ((1u << lane) - 1));
            ranks[round] = earlier + before;
            __syncwarp();
            if (exists && before == 0) counts[warp][digit] = earlier + __popc(equal);
            __syncwarp();
        }
        __syncthreads();
    }
};

// counts[d, s] = entries of segment s whose digit at `shift` is d. Grid: segments = ceil(count / SEGMENT); block: 256.
// tokens: [count] of the first pass, or list: [count]; counts: [DIGITS, segments].
extern "C" __global__ void __launch_bounds__(256)
    embedding_count(const int* tokens, const Entry* list, int* counts, int count, int shift) {
    __shared__ int of_warps[WARPS][DIGITS];
    Segment segment(tokens, list, count, shift, of_warps);
    int total = 0;
#pragma unroll
    for (int warp = 0; warp < WARPS; warp++) total += of_warps[warp][threadIdx.x];
    counts[threadIdx.x * gridDim.x + blockIdx.x] = total;
}

// Each row of `counts` becomes its exclusive prefix sum, totals[d] its sum. One warp per digit. Grid: DIGITS / 8;
// block: 256.
extern "C" __global__ void __launch_bounds__(256) embedding_scan(int* counts, int* totals, int segments) {
    int digit = thread_index() / 32;
    int lane = threadIdx.x % 32;
    int before = 0;
    counts += digit * segments;
    for (int first = 0; first < segments; first += 32) {
        int at = first + lane;
        int own = at < segments ? counts[at] : 0;
        int scanned = warp_scan(own);
        if (at < segments) counts[at] = before + scanned - own;
        before += __shfl_sync(ALL_LANES, scanned, 31);
    }
    if (lane == 0) totals[digit] = before;
}

// Writes the entries to `to`, ordered by the digit at `shift`, equal ones in the order they had. Grid and block as for
// `embedding_count`; `counts`, `totals`: of `embedding_scan`.
extern "C" __global__ void __launch_bounds__(256)
    embedding_sort(const int* tokens, const Entry* list, const int* counts, const int* totals, Entry* to, int count,
                   int shift) {
    __shared__ int starts[WARPS][DIGITS], sums[WARPS];
    Segment segment(tokens, list, count, shift, starts);
    int warp = threadIdx.x / 32;
    // Where entries of digit threadIdx.x start: after all smaller digits, earlier segments and earlier warps.
    int own = totals[threadIdx.x];
    int scanned = warp_scan(own);
    if (threadIdx.x % 32 == 31) sums[warp] = scanned;
    __syncthreads();
    int start = scanned - own + counts[threadIdx.x * gridDim.x + blockIdx.x];
    for (int i = 0; i < warp; i++) start += sums[i];
#pragma unroll
    for (int i = 0; i < WARPS; i++) {
        int size = starts[i][threadIdx.x];
        starts[i][threadIdx.x] = start;
        start += size;
    }
    __syncthreads();
#pragma unroll
    for (int round = 0; round < EACH; round++)
        if (segment.index(round) < count)
            to[starts[warp][segment.digit(round, shift)] + segment.ranks[round]] = segment.entries[round];
}

// dtable[v] = 0 for each v that `list` lacks. A lane looks for one row's token by bisection, its warp writes the zeros.
// Grid: ceil(vocab / 256); block: 256. list: [count], sorted; width: a multiple of 4.
extern "C" __global__ void __launch_bounds__(256)
    embedding_clear(const Entry* list, float* dtable, int count, int width, int vocab) {
    int row = thread_index();
    int lane = threadIdx.x % 32;
    int low = 0, high = row < vocab ? count : 0;
    while (low < high) {
        int middle = (low + high) / 2;
        if (list[middle].token < row) low = middle + 1;
        else high = middle;
    }
    bool absent = row < vocab && (low == count || list[low].token != row);
    for (unsigned rows = __ballot_sync(ALL_LANES, absent); rows; rows &= rows - 1) {
        float* to = dtable + (size_t)(row - lane + __ffs(rows) - 1) * width;
        for (int column = lane * 4; column < width; column += 128)
            *reinterpret_cast<float4*>(to + column) = make_float4(0, 0, 0, 0);
    }
}

// to[column] = v, or += v.
__device__ __forceinline__ void put(float* to, int column, float4 v, bool accumulate) {
    float4* at = reinterpret_cast<float4*>(to + column);
    float4 before = accumulate ? *at : make_float4(0, 0, 0, 0);
    *at = make_float4(before.x + v.x, before.y + v.y, before.z + v.z, before.w + v.w);
}

// A row of f32: each lane of a warp has pack `pack`, and `packs` exist. With 8 floats a lane, neighbours exchange
// halves, so that each store writes whole sectors.
__device__ __forceinline__ void put_row(float* to, const float (&v)[4], int pack, int packs, bool accumulate) {
    if (pack < packs) put(to, pack * 4, make_float4(v[0], v[1], v[2], v[3]), accumulate);
}
__device__ __forceinline__ void put_row(float* to, const float (&v)[8], int pack, int packs, bool accumulate) {
    bool odd = pack % 2;
    float a[4], b[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
        float other = __shfl_xor_sync(ALL_LANES, odd ? v[i] : v[i + 4], 1);
        a[i] = odd ? other : v[i];
        b[i] = odd ? v[i + 4] : other;
    }
    int even = pack - odd;
    int column = even * 8 + odd * 4;
    if (even < packs) put(to, column, make_float4(a[0], a[1], a[2], a[3]), accumulate);
    if (even + 1 < packs) put(to, column + 8, make_float4(b[0], b[1], b[2], b[3]), accumulate);
}

// Sums the runs of a sorted list, piece by piece: complete runs into dtable, the others into partial rows. A group of
// warps takes a piece, a thread one pack of a row (or several, if a row has more than 256).
// Grid: ceil(pieces / groups), pieces = ceil(count / PIECE), groups = 256 / min(256, packs rounded up to 32); block:
// 256. list: [count]; rows: [.., width], to which the list refers; partials: [2 pieces, width], and next: [2 pieces],
// the list of them, both null if there is one piece.
template <typename T>
__device__ void sum(const Entry* list, const T* rows, float* dtable, Entry* next, float* partials, int count, int width,
                    int accumulate) {
    constexpr int N = SIZE<T>;
    int packs = width / N;
    int threads = min((packs + 31) / 32 * 32, THREADS);
    int groups = THREADS / threads;
    int group = threadIdx.x / threads;
    int piece = blockIdx.x * groups + group;
    int begin = piece * PIECE, end = min(count, begin + PIECE);
    if (group >= groups || begin >= count) return;
    int first = list[begin].token, last = list[end - 1].token;
    bool began_before = begin > 0 && list[begin - 1].token == first;
    bool goes_on = end < count && list[end].token == last;
    // Slots of the partial rows of the first and the last run, if they have any.
    int head = -1, tail = -1;
    for (int base = 0; base < packs; base += threads) {
        int pack = base + threadIdx.x % threads;
        int token = first;
        bool found = false;
        float total[N] = {};
        // The same in all threads of the group.
        auto finish = [&] {
            if (!found) return;
            float* to = dtable + (size_t)token * width;
            bool complete = false;
            if (token == first && began_before) head = 2 * piece, to = partials + (size_t)head * width;
            else if (token == last && goes_on) tail = 2 * piece + 1, to = partials + (size_t)tail * width;
            else complete = true;
            put_row(to, total, pack, packs, complete && accumulate);
        };
#pragma unroll 1
        for (int at = begin; at < end; at += AHEAD) {
            Entry entries[AHEAD];
            uint4 raw[AHEAD];
#pragma unroll
            for (int i = 0; i < AHEAD; i++) {
                entries[i] = at + i < end ? list[at + i] : Entry{last, -1};
                raw[i] = make_uint4(0, 0, 0, 0);
                if (entries[i].row >= 0 && pack < packs)
                    raw[i] = fetch(rows + (size_t)entries[i].row * width + pack * N);
            }
#pragma unroll
            for (int i = 0; i < AHEAD; i++) {
                if (entries[i].token != token) {
                    finish();
                    token = entries[i].token, found = false;
#pragma unroll
                    for (int j = 0; j < N; j++) total[j] = 0;
                }
                if (entries[i].row < 0) continue;
                float v[N];
                unpack(raw[i], v);
#pragma unroll
                for (int j = 0; j < N; j++) total[j] += v[j];
                found = true;
            }
        }
        finish();
    }
    if (next && threadIdx.x % threads == 0)
        next[2 * piece] = Entry{first, head}, next[2 * piece + 1] = Entry{last, tail};
}

#define KERNELS(TYPE, NAME)                                                                                      \
    extern "C" __global__ void __launch_bounds__(256) embedding_forward_##NAME(                                  \
        const int* tokens, const TYPE* table, const float* pos, TYPE* out, int places, int context, int width) { \
        forward(tokens, table, pos, out, places, context, width);                                                \
    }                                                                                                            \
    extern "C" __global__ void __launch_bounds__(256)                                                            \
        embedding_sum_##NAME(const Entry* list, const TYPE* rows, float* dtable, Entry* next, float* partials,   \
                             int count, int width, int accumulate) {                                             \
        sum(list, rows, dtable, next, partials, count, width, accumulate);                                       \
    }

KERNELS(bf16, bf16)
KERNELS(float, f32)
