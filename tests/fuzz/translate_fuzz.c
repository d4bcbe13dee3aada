/* libFuzzer entry for the translating engine: random bytes as code, translated at first sight, against the interpreter one
 * instruction at a time. Everything else is as in interpret_fuzz.c. */
#include "engine/translate/translate.h"

#define FUZZ_ENGINE engine_translate
#include "interpret_fuzz.c"
