/* Near misses: "did you mean ...?" for what a user typed. */
#ifndef RING3_BASE_SUGGEST_H
#define RING3_BASE_SUGGEST_H

#include <stddef.h>

/* Of the n `candidates`, the one nearest to `word` by edit distance (insertions, deletions, replacements and swaps of
 * neighbours), or NULL when none is near enough to have been meant. */
const char *suggest_nearest(const char *word, const char *const *candidates, size_t n);

/* The same as the tail of a message: " (did you mean 'X'?)", or "" when there is none. Writes into `buffer`, returns
 * it. */
const char *suggest_tail(const char *word, const char *const *candidates, size_t n, char *buffer, size_t size);

#endif
