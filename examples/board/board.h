/* What start.c and files.S give to main.c. */
#ifndef BOARD_H
#define BOARD_H
#include <stddef.h>
#include <stdint.h>

/* Writes a line to the debugger that the board hangs on, which is the emulator's terminal. */
void board_write(const char *line);

/* Ends the emulation with this exit status. */
void board_exit(int status);

/* The deepest that the stack has been so far, and what variables take besides the arena, in bytes. */
size_t board_stack_bytes(void);
size_t board_static_bytes(void);

/* A file in flash is the bytes from NAME to NAME_end. */
#define BOARD_FILE(name) extern const uint8_t name[], name##_end[]
BOARD_FILE(model);
BOARD_FILE(config);                  /* ends with a zero besides */
BOARD_FILE(merges);
BOARD_FILE(key_0);
BOARD_FILE(key_1);
BOARD_FILE(boat_0);
BOARD_FILE(boat_1);
BOARD_FILE(bell_0);
BOARD_FILE(bell_1);
BOARD_FILE(car_0);
BOARD_FILE(car_1);
BOARD_FILE(key_0_mask);
BOARD_FILE(key_1_mask);
BOARD_FILE(boat_0_mask);
BOARD_FILE(boat_1_mask);
BOARD_FILE(bell_0_mask);
BOARD_FILE(bell_1_mask);
BOARD_FILE(car_0_mask);
BOARD_FILE(car_1_mask);
BOARD_FILE(key_test);
#endif
