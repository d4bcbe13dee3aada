/* The commands of the ring3 program. Each takes the words behind its name and returns the exit status. */
#ifndef RING3_CLI_COMMANDS_H
#define RING3_CLI_COMMANDS_H

#include "base/error.h"

int command_run(int argc, char **argv);
int command_engines(int argc, char **argv);
int command_monitor(int argc, char **argv);
int command_top(int argc, char **argv);
int command_screenshot(int argc, char **argv);
int command_explain(int argc, char **argv);
int command_report(int argc, char **argv);
int command_help(int argc, char **argv);

/* "ring3: MESSAGE" to stderr, as one line; returns `status`. */
int cli_fail(int status, const struct error *err);

#endif
