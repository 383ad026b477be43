// A fingerprint of a buffer (src/device/cuda/hash.rs): equal buffers have equal ones, others almost surely do not.
//
//   to[0] += sum over 32-bit words i of mix(i 2^32 + word_i), modulo 2^64
//   to[1] += words that are not zero and differ from the word before, within 16 bytes: few in data that says little
//
// Integer sums, so the order of the atomic additions does not matter.
#include "common.cuh"

// The finaliser of SplitMix64 (Steele, Lea and Flood 2014), a bijection.
__device__ __forceinline__ uint64_t mix(uint64_t x) {
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

// One thread per 16 bytes at a time; the last 16 may be fewer, and count as followed by zeros. x: 16-byte aligned.
// Grid: any; block: 256. Bytes moved: those of x.
extern "C" __global__ void __launch_bounds__(256) hash_bytes(const uint8_t* x, size_t bytes, unsigned long long* to) {
    unsigned long long sum = 0, varied = 0;
    for (size_t at = thread_index() * 16; at < bytes; at += thread_count() * 16) {
        uint32_t words[4] = {};
        if (at + 16 <= bytes) {
            uint4 raw = fetch(x + at);
            words[0] = raw.x, words[1] = raw.y, words[2] = raw.z, words[3] = raw.w;
        } else {
#pragma unroll
            for (int i = 0; i < 15; i++)
                if (at + i < bytes) words[i / 4] |= (uint32_t)x[at + i] << i % 4 * 8;
        }
#pragma unroll
        for (int i = 0; i < 4; i++) {
            sum += mix((at / 4 + i) << 32 | words[i]);
            if (i > 0) varied += words[i] != 0 && words[i] != words[i - 1];
        }
    }
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) {
        sum += __shfl_xor_sync(ALL_LANES, sum, offset);
        varied += __shfl_xor_sync(ALL_LANES, varied, offset);
    }
    if (threadIdx.x % 32 == 0) atomicAdd(to, sum), atomicAdd(to + 1, varied);
}
