/* 01 - the tape: fit a line by gradient descent.        cc -O2 -I.. 01_hello_tape.c -o hello_tape -lm && ./hello_tape

   Building a node computes its value; fvg_backward fills the gradients of all parameters; the optimiser steps. */
#define FVGPT_IMPLEMENTATION
#include "fvgpt.h"

int main(void) {
  const float x[4] = {0, 1, 2, 3}, y[4] = {1, 3, 5, 7};                  /* y = 2 x + 1                             */
  const int matrix[2] = {1, 1}, vector[1] = {1};
  fvg_parameter weight, bias, *params[2];
  fvg_optimizer_desc desc;
  fvg_optimizer *optimizer;
  fvg_tape *t;
  fvg_ctx *c;
  int step;
  params[0] = &weight;
  params[1] = &bias;
  memset(&desc, 0, sizeof desc);
  desc.weight_decay = -1;                                                /* none; 0 would mean the default          */
  if (fvg_init(&c, NULL)) return 1;
  if (fvg_parameter_new(c, &weight, "weight", 2, matrix) || fvg_parameter_new(c, &bias, "bias", 1, vector) ||
      fvg_optimizer_new(c, &optimizer, &desc, params, 2) || (t = fvg_tape_new(c)) == NULL) {
    fprintf(stderr, "%s\n", fvg_error(c));
    return 1;
  }
  for (step = 0; step <= 200; step++) {
    fvg_node *prediction, *error, *loss;
    fvg_tape_clear(t);                                                   /* the memory stays reserved               */
    fvg_optimizer_zero_grad(optimizer);
    prediction = fvg_linear(fvg_const(t, 4, 1, x), fvg_param(t, &weight), fvg_param(t, &bias));
    error = fvg_add(prediction, fvg_scale(fvg_const(t, 4, 1, y), -1));
    loss = fvg_mean(fvg_mul(error, error));
    if (fvg_backward(loss)) { fprintf(stderr, "%s\n", fvg_error(c)); return 1; }
    if (step % 50 == 0)
      printf("step %3d  loss %.6f  y = %.4f x + %.4f\n", step, fvg_value(loss)[0], ((float *)weight.value.data)[0], ((float *)bias.value.data)[0]);
    fvg_optimizer_step(optimizer, 0.02);
  }
  fvg_tape_free(t);
  fvg_optimizer_free(optimizer);
  fvg_parameter_free(c, &bias);
  fvg_parameter_free(c, &weight);
  fvg_free(c);
  return 0;
}
