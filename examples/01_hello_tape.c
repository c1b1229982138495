/* 01 - tensors and gradients: a line is fitted by gradient descent.
        cc -O2 -I.. 01_hello_tape.c -o hello_tape -lm && ./hello_tape

   To learn here: building a node computes its value and writes it on the tape; fvg_backward goes back along the tape and
   fills the gradient of every parameter; the optimiser takes a step.  Everything else is trained by this loop, too. */
#define FVGPT_IMPLEMENTATION
#include "fvgpt.h"

/* The mean squared error of y = weight x + bias over four points of the line y = 2 x + 1. */
static fvg_node *build_loss(fvg_tape *t, fvg_parameter *weight, fvg_parameter *bias) {
  static const float x[4] = {0, 1, 2, 3}, minus_y[4] = {-1, -3, -5, -7};

  fvg_node *prediction = fvg_linear(fvg_const(t, 4, 1, x), fvg_param(t, weight), fvg_param(t, bias));      /* [4,1] */
  fvg_node *error = fvg_add(prediction, fvg_const(t, 4, 1, minus_y));
  return fvg_mean(fvg_mul(error, error));
}

static float number(const fvg_parameter *p) { return ((const float *)p->value.data)[0]; }

static fvg_status fit(fvg_tape *t, fvg_optimizer *optimizer, fvg_parameter *weight, fvg_parameter *bias) {
  for (int step = 0; step <= 200; step++) {
    fvg_tape_clear(t);                           /* forgets the nodes of the last step, and keeps their memory */
    fvg_optimizer_zero_grad(optimizer);

    fvg_node *loss = build_loss(t, weight, bias);
    fvg_status s = fvg_backward(loss);           /* a node that could not be built is NULL, and is an error here */
    if (s) return s;

    if (step % 50 == 0)
      printf("step %3d  loss %.6f  y = %.4f x + %.4f\n", step, fvg_value(loss)[0], number(weight), number(bias));
    fvg_optimizer_step(optimizer, 0.02);
  }
  return FVG_OK;
}

static fvg_status run(fvg_ctx *c) {
  const int matrix[2] = {1, 1}, vector[1] = {1};
  fvg_parameter weight, bias;
  fvg_parameter *params[2] = {&weight, &bias};
  fvg_status s = fvg_parameter_new(c, &weight, "weight", 2, matrix);
  if (s) return s;
  s = fvg_parameter_new(c, &bias, "bias", 1, vector);

  fvg_optimizer_desc desc;
  memset(&desc, 0, sizeof desc);                 /* zero means the default in every desc */
  desc.weight_decay = -1;                        /* negative: none */
  fvg_optimizer *optimizer = NULL;
  fvg_tape *t = fvg_tape_new(c);
  if (!s) s = t ? fvg_optimizer_new(c, &optimizer, params, 2, &desc) : FVG_E_NOMEM;
  if (!s) s = fit(t, optimizer, &weight, &bias);

  fvg_optimizer_free(optimizer);
  fvg_tape_free(t);
  fvg_parameter_free(c, &bias);
  fvg_parameter_free(c, &weight);
  return s;
}

int main(void) {
  fvg_ctx *c;
  if (fvg_init(&c, NULL)) return 1;
  fvg_status s = run(c);
  if (s) fprintf(stderr, "%s\n", fvg_error(c));
  fvg_free(c);
  return s != FVG_OK;
}
