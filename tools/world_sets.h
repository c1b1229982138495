/* world_sets.h - the data sets of the small world of world.h: which 32 classes each has, and what is on their pictures.

     things    things, on old prints
     colours   held-out pairs of colour and thing, under water; the new classes have other colours than the base
     textures  held-out pairs of texture and thing, in the mist; the new classes have other textures than the base
     control   other held-out pairs of colour and thing, at dawn, divided as those of `colours`

   The light is new to a model that pre-training has shown clear days alone.  In the training pictures every base class
   has a background of its own (each new class shares one of theirs), which it is seen before with the probability
   `strength`, else before any; in the test pictures the background tells nothing.  In the control set it never does.
   At most one small other thing stands about.  Pictures of `things` may show held-out pairs. */
#ifndef WORLD_SETS_H
#define WORLD_SETS_H
#include "world.h"

enum { WORLD_CLASSES = 32, WORLD_STREAM_CLASSES = 1, WORLD_STREAM_SCENES = 2 };
enum { WORLD_SET_THINGS, WORLD_SET_COLOURS, WORLD_SET_TEXTURES, WORLD_SET_CONTROL, WORLD_SETS };

typedef struct world_class { int thing, colour, texture; char name[64]; } world_class;          /* -1: any          */

/* How the pictures of a set are drawn. */
typedef struct world_draw_desc {
  double strength;                               /* how often a training picture has its class's own background     */
  int train;                                     /* so many of a class's pictures are for training, the first       */
  int seed;
  int clear;                                     /* 1: by day                                                       */
} world_draw_desc;

static const char *const world_set_name[WORLD_SETS] = {"things", "colours", "textures", "control"};
static const world_light world_set_light[WORLD_SETS] = {WORLD_OLD_PRINT, WORLD_UNDER_WATER, WORLD_MIST, WORLD_DAWN};

/* Base classes, which come first, are of colours or textures with an even number, new ones of the others: prompts that
   have learned how some colours look under water know nothing of the rest. */
static int world_class_is_new(const world_class *x) { return (x->colour >= 0 ? x->colour : x->texture) % 2; }

/* The candidates in their order, as far as there is room in the half where they belong; things, which have no colour,
   may be in either. */
static void world_fill_halves(const world_class *all, const int *order, int n, world_class *chosen) {
  int count[2] = {0, 0}, k;
  for (k = 0; k < n; k++) {
    const world_class *x = &all[order[k]];
    int any = x->colour < 0 && x->texture < 0, half = any ? count[0] == WORLD_CLASSES / 2 : world_class_is_new(x);
    if (count[half] < WORLD_CLASSES / 2) chosen[half * WORLD_CLASSES / 2 + count[half]++] = *x;
  }
}

/* The set's candidates in the order of things, then 32 of them drawn. */
static void world_choose_classes(int set, world_class *chosen) {
  world_class all[WORLD_THINGS * WORLD_COLOURS];
  int order[WORLD_THINGS * WORLD_COLOURS], n = 0, thing, k;
  fvg_rng r;
  for (thing = 0; thing < WORLD_THINGS; thing++) {
    if (set == WORLD_SET_THINGS) {
      all[n].thing = thing;
      all[n].colour = all[n].texture = -1;
      snprintf(all[n++].name, 64, "%s", world_things[thing].name);
    }
    for (k = 0; set == WORLD_SET_TEXTURES && k < WORLD_TEXTURES; k++)
      if (world_held_out_texture(thing, k)) {
        all[n].thing = thing;
        all[n].colour = -1;
        all[n].texture = k;
        snprintf(all[n++].name, 64, "%s_%s", world_textures[k], world_things[thing].name);
      }
    for (k = 0; (set == WORLD_SET_COLOURS || set == WORLD_SET_CONTROL) && k < WORLD_COLOURS; k++)
      if (world_held_out_colour(thing, k) && (thing + k) % 2 == (set == WORLD_SET_CONTROL)) {   /* its are others   */
        all[n].thing = thing;
        all[n].colour = k;
        all[n].texture = -1;
        snprintf(all[n++].name, 64, "%s_%s", world_colours[k].name, world_things[thing].name);
      }
  }
  fvg_rng_seed(&r, (uint64_t)set, WORLD_STREAM_CLASSES);
  for (k = 0; k < n; k++) order[k] = k;
  fvg_rng_permute(&r, order, n);
  world_fill_halves(all, order, n, chosen);
}

/* What is on picture `index` of a class.  r is seeded for this picture. */
static world_scene world_set_scene(const world_draw_desc *o, int set, const world_class *c, int label, int index,
                                   fvg_rng *r) {
  double strength = set == WORLD_SET_CONTROL ? 0 : o->strength;
  world_scene s;
  fvg_rng_seed(r, (uint64_t)o->seed * 1000000u + (uint64_t)(set * WORLD_CLASSES + label) * 1000u + (uint64_t)index,
               WORLD_STREAM_SCENES);
  s = world_scene_draw(r);
  s.thing = c->thing;
  if (c->colour >= 0) s.colour = c->colour;
  if (c->texture >= 0) s.texture = c->texture;
  s.n_distractor = world_below(r, 2);
  if (!o->clear) s.light = world_set_light[set];
  s.ground = index < o->train && fvg_rng_uniform(r) < strength ? (5 * label + 3) % WORLD_GROUNDS :
             world_below(r, WORLD_GROUNDS);
  return s;
}

/* Picture `index` of a class, its mask and its caption, as world_render and world_caption give them.  *after receives the
   generator as they leave it; NULL: not wanted. */
static void world_set_picture(const world_draw_desc *o, int set, const world_class *c, int label, int index, uint8_t *rgb,
                              uint8_t *mask, char *caption, fvg_rng *after) {
  fvg_rng r;
  world_scene s = world_set_scene(o, set, c, label, index, &r);
  world_caption(&s, &r, caption);
  world_render(&s, &r, rgb, mask);
  if (after) *after = r;
}
#endif
