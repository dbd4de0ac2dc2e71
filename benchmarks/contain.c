/* Membership of consecutive keys in a binary fuse filter with 8-bit fingerprints, one key after the other: the same
 * arithmetic as binary_fuse8_contain of the reference implementation (Graf, Lemire 2022), written anew. The benchmark
 * compiles it with -O3 to have a C program to be compared with. */
#include <stdbool.h>
#include <stdint.h>

typedef struct {
  uint64_t seed;
  uint32_t segment_length;
  uint32_t segment_count_length;
  const uint8_t *fingerprints;
} filter;

static inline bool contains(const filter *f, uint64_t key) {
  uint64_t h = key + f->seed;
  h ^= h >> 33;
  h *= UINT64_C(0xff51afd7ed558ccd);
  h ^= h >> 33;
  h *= UINT64_C(0xc4ceb9fe1a85ec53);
  h ^= h >> 33;
  const uint32_t mask = f->segment_length - 1;
  const uint32_t h0 = (uint32_t)(((unsigned __int128)h * f->segment_count_length) >> 64);
  const uint32_t h1 = (h0 + f->segment_length) ^ ((uint32_t)(h >> 18) & mask);
  const uint32_t h2 = (h0 + 2 * f->segment_length) ^ ((uint32_t)h & mask);
  const uint8_t fingerprint = (uint8_t)(h ^ (h >> 32));
  return fingerprint == (f->fingerprints[h0] ^ f->fingerprints[h1] ^ f->fingerprints[h2]);
}

void contains_range(uint64_t seed, uint32_t segment_length, uint32_t segment_count_length,
                    const uint8_t *fingerprints, uint64_t stop, bool *out) {
  const filter f = {seed, segment_length, segment_count_length, fingerprints};
  for (uint64_t key = 0; key < stop; key++)
    out[key] = contains(&f, key);
}
