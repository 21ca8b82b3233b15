/* Small seeded random numbers (splitmix64): the same on every machine, for random pruning and
 * sampling. Not for secrets. */
#ifndef SQ_RNG_H
#define SQ_RNG_H

#include <stdint.h>

/* The next 64 bits; *state is any value, the seed itself will do. */
static inline uint64_t rng_next(uint64_t *state)
{
    uint64_t z = *state += 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

/* Uniform over 0 .. n-1 without modulo bias; n > 0. */
static inline uint64_t rng_below(uint64_t *state, uint64_t n)
{
    uint64_t reject = (0 - n) % n; /* 2^64 mod n: that many values would be counted twice */
    uint64_t r;
    do
        r = rng_next(state);
    while (r < reject);
    return r % n;
}

/* Uniform over [0, 1), 53 bits. */
static inline double rng_unit(uint64_t *state)
{
    return (double)(rng_next(state) >> 11) * 0x1p-53;
}

#endif
