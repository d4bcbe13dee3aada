/* What the files of src/monitor share. */
#ifndef RING3_MONITOR_INTERNAL_H
#define RING3_MONITOR_INTERNAL_H

#include "base/timer.h"
#include "monitor/monitor.h"

struct vcpu;
struct session;

#define KEYS_HELD_MAX 16u
#define WORDS_MAX 16u

struct monitor {
    struct monitor_config config;
    struct session *sessions;
    struct timer reaper;  /* destroys sessions that have ended, outside their callbacks */
    unsigned cpu;         /* that commands are about */
    unsigned keys[KEYS_HELD_MAX], key_count; /* that sendkey holds down */
    struct timer keys_up;
};

/* One command being carried out. */
struct call {
    struct monitor *monitor;
    struct vm *vm;
    const struct vcpu *v; /* the current processor */
    FILE *out;
    const char *format;   /* what follows '/' behind the command's name; NULL: nothing */
    const char *rest;     /* the arguments as they were typed */
    unsigned argc;
    char *argv[WORDS_MAX]; /* the arguments, cut at spaces */
};

struct command {
    const char *name;  /* alternatives are separated by | */
    const char *args;  /* for help; "" for none */
    const char *help;
    unsigned args_max; /* words that may follow; ANY_WORDS: the command looks at `rest` */
    bool pause;        /* processors have to stand still */
    bool format;       /* takes /FORMAT */
    void (*run)(struct call *call);
};
#define ANY_WORDS UINT32_MAX

/* Ends with an entry without a name. */
extern const struct command monitor_commands[];
extern const struct command monitor_infos[];

/* Prints "Error: ..." as a line. */
void call_fail(struct call *call, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* The value of an expression: numbers as in C, $registers of `v`, + - * / % & | ^ << >> ~ and parentheses. */
bool expression_evaluate(const struct vcpu *v, const char *text, uint64_t *value, struct error *err);

/* control.c */
void call_help(struct call *call);
void call_stop(struct call *call);
void call_cont(struct call *call);
void call_quit(struct call *call);
void call_reset(struct call *call);
void call_powerdown(struct call *call);
void call_nmi(struct call *call);
void call_boot_set(struct call *call);
void call_change(struct call *call);
void call_eject(struct call *call);
void call_cpu(struct call *call);
void call_engine(struct call *call);
void call_log(struct call *call);
void call_info(struct call *call);
void call_stats(struct call *call);

/* keys.c */
void call_sendkey(struct call *call);
void keys_release(void *monitor); /* a timer's function */

/* screen.c */
void call_screendump(struct call *call);

/* examine.c */
void call_x(struct call *call);
void call_xp(struct call *call);
void call_print(struct call *call);
void call_gva2gpa(struct call *call);

/* tables.c */
void info_mem(struct call *call);
void info_tlb(struct call *call);
void info_screen(struct call *call);

#endif
