#include "base/suggest.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

#define WORD_MAX 40u

static unsigned min3(unsigned a, unsigned b, unsigned c)
{
    unsigned m = a < b ? a : b;
    return m < c ? m : c;
}

static int lower(char c)
{
    return tolower((unsigned char)c);
}

/* Optimal string alignment distance, whatever the case; both words at most WORD_MAX long. */
static unsigned edit_distance(const char *a, size_t na, const char *b, size_t nb)
{
    unsigned row[3][WORD_MAX + 1]; /* rows i-2, i-1 and i of the matrix, by i modulo 3 */
    for (unsigned j = 0; j <= nb; j++)
        row[0][j] = j;
    for (unsigned i = 1; i <= na; i++) {
        unsigned *now = row[i % 3], *above = row[(i + 2) % 3], *above2 = row[(i + 1) % 3];
        now[0] = i;
        for (unsigned j = 1; j <= nb; j++) {
            unsigned differs = lower(a[i - 1]) != lower(b[j - 1]);
            now[j] = min3(above[j] + 1, now[j - 1] + 1, above[j - 1] + differs);
            if (i > 1 && j > 1 && lower(a[i - 1]) == lower(b[j - 2]) && lower(a[i - 2]) == lower(b[j - 1]) &&
                above2[j - 2] + 1 < now[j])
                now[j] = above2[j - 2] + 1;
        }
    }
    return row[na % 3][nb];
}

const char *suggest_nearest(const char *word, const char *const *candidates, size_t n)
{
    size_t length = strlen(word);
    if (length == 0 || length > WORD_MAX)
        return NULL;
    const char *best = NULL;
    unsigned best_distance = 0;
    for (size_t i = 0; i < n; i++) {
        size_t candidate_length = strlen(candidates[i]);
        if (candidate_length > WORD_MAX)
            continue;
        unsigned distance = edit_distance(word, length, candidates[i], candidate_length);
        if (length >= 3 && strncmp(word, candidates[i], length) == 0)
            distance = 1; /* the beginning of a word is as good as one slip */
        /* About a quarter of the letters may be wrong, and never all of them. */
        if (distance <= 1 + length / 4 && distance < length && (best == NULL || distance < best_distance)) {
            best = candidates[i];
            best_distance = distance;
        }
    }
    return best;
}

const char *suggest_tail(const char *word, const char *const *candidates, size_t n, char *buffer, size_t size)
{
    const char *nearest = suggest_nearest(word, candidates, n);
    if (nearest != NULL)
        snprintf(buffer, size, " (did you mean '%s'?)", nearest);
    else if (size > 0)
        buffer[0] = 0;
    return buffer;
}
