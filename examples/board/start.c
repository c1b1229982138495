/* What a Cortex-M does before main, and how it speaks to the debugger it hangs on (Arm's "semihosting").

   The stack lies below all variables, so that one that grows too long meets the end of the RAM, which is a fault, and
   not a variable.  It is filled with a pattern first; what has lost the pattern was used. */
#include "board.h"

extern uint32_t stack_end[], stack_unfilled[], stack_top[];              /* these are from board.ld */
extern uint32_t data_start[], data_end[], bss_start[], bss_end[];
extern const uint32_t data_in_flash[];
int main(void);

enum { PATTERN = 0x5AFE57AC, SEMIHOST_WRITE = 0x04, SEMIHOST_EXIT = 0x20, EXITED = 0x20026 };

static void semihost(uint32_t operation, const void *argument) {
  register uint32_t r0 __asm__("r0") = operation;
  register const void *r1 __asm__("r1") = argument;
  __asm__ volatile("bkpt 0xAB" : "+r"(r0) : "r"(r1) : "memory");
}

void board_write(const char *line) {
  semihost(SEMIHOST_WRITE, line);
  semihost(SEMIHOST_WRITE, "\n");
}

void board_exit(int status) {
  const uint32_t reason[2] = {EXITED, (uint32_t)status};
  for (;;) semihost(SEMIHOST_EXIT, reason);
}

size_t board_stack_bytes(void) {
  const uint32_t *at = stack_end;
  while (at < stack_top && *at == PATTERN) at++;
  return (size_t)((const char *)stack_top - (const char *)at);
}

size_t board_static_bytes(void) {
  return (size_t)((char *)data_end - (char *)data_start) + (size_t)((char *)bss_end - (char *)bss_start);
}

static void fault(void) {
  board_write("fault");
  board_exit(2);
}

void start(void);
void start(void) {
  volatile uint32_t *const coprocessors = (volatile uint32_t *)0xE000ED88;
  *coprocessors |= 0xFu << 20;                   /* the FPU is off until a program allows it */
  __asm__ volatile("dsb\n\tisb" ::: "memory");

  for (volatile uint32_t *p = stack_end; p < stack_unfilled; p++) *p = PATTERN;
  const uint32_t *from = data_in_flash;
  for (volatile uint32_t *p = data_start; p < data_end; p++) *p = *from++;
  for (volatile uint32_t *p = bss_start; p < bss_end; p++) *p = 0;
  board_exit(main());
}

/* The first words of flash: where the stack begins, where the program does, and who is called when something fails. */
static const struct vectors {
  uint32_t *stack;
  void (*start)(void), (*fault[14])(void);
} vectors __attribute__((section(".vectors"), used)) = {
  stack_top, start,
  {fault, fault, fault, fault, fault, fault, fault, fault, fault, fault, fault, fault, fault, fault}
};
