/* world.h - a small world to photograph: forty things in ten colours and five textures before sixteen backgrounds.

   A scene says what is in the picture; world_render turns it into 64 x 64 pixels and an exact mask of the thing,
   world_caption into a sentence.  Everything random comes from the fvg_rng that is handed in.  Things are made of
   parts in signed distance form: d(x, y) is the distance of a point to the part's edge, negative inside.  The union
   of parts is the least distance, cutting q out of p is max(p, -q), and a pixel at distance d (in pixels) is covered
   by 1/2 - d, cut to 0..1: that is all the anti-aliasing there is.

   Some pairs of colour and thing, and of texture and thing, are held out: pre-training never names them or makes a
   picture of one, so a model that knows them must have put them together itself.  (The small
   distractors behind the thing may be any pair.) */
#ifndef WORLD_H
#define WORLD_H
#include "../fvgpt_clip.h"

enum { WORLD_SIDE = 64, WORLD_THINGS = 40, WORLD_COLOURS = 10, WORLD_TEXTURES = 5,
       WORLD_GROUNDS = 16, WORLD_CAPTION = 160 };

/* The light in which a picture is taken.  Pre-training knows the clear day alone. */
typedef enum world_light { WORLD_DAY = 0, WORLD_OLD_PRINT, WORLD_UNDER_WATER, WORLD_MIST, WORLD_DAWN,
                           WORLD_LIGHTS } world_light;

typedef struct world_scene {
  int thing, colour, texture, ground;            /* what the caption speaks of                                      */
  int count;                                     /* 1 or 2 of the thing                                             */
  int large;                                     /* 0 small, 1 middle, 2 large                                      */
  int n_distractor;                              /* small other things, which the mask leaves out                   */
  float distractor_size;                         /* 0 or 1: as in pre-training; 2: twice as large                   */
  world_light light;
} world_scene;

/* ---- things ---- */
typedef struct world_part {
  char op;                                       /* '+' add, '-' cut out of what is there so far                    */
  char shape;                                    /* 'c' circle x y r; 'e' ellipse x y rx ry; 'b' box x y half-width
                                                    half-height; 's' stroke x0 y0 x1 y1 r; 't' triangle, 3 points   */
  float a[6];
} world_part;
typedef struct world_thing { const char *name, *plural; world_part part[8]; } world_thing;

/* Drawn within -1..1, y downward. */
static const world_thing world_things[WORLD_THINGS] = {
  {"disc", "discs", {{'+', 'c', {0, 0, .85f}}}},
  {"square", "squares", {{'+', 'b', {0, 0, .75f, .75f}}}},
  {"triangle", "triangles", {{'+', 't', {0, -.9f, .9f, .7f, -.9f, .7f}}}},
  {"diamond", "diamonds", {{'+', 't', {0, -.95f, .65f, 0, -.65f, 0}}, {'+', 't', {0, .95f, .65f, 0, -.65f, 0}}}},
  {"star", "stars", {{'+', 't', {0, -.95f, .82f, .48f, -.82f, .48f}},
                     {'+', 't', {0, .95f, .82f, -.48f, -.82f, -.48f}}}},
  {"heart", "hearts", {{'+', 'c', {-.42f, -.3f, .46f}}, {'+', 'c', {.42f, -.3f, .46f}},
                       {'+', 't', {-.84f, -.1f, .84f, -.1f, 0, .92f}}}},
  {"cross", "crosses", {{'+', 'b', {0, 0, .28f, .9f}}, {'+', 'b', {0, 0, .9f, .28f}}}},
  {"ring", "rings", {{'+', 'c', {0, 0, .85f}}, {'-', 'c', {0, 0, .5f}}}},
  {"moon", "moons", {{'+', 'c', {0, 0, .85f}}, {'-', 'c', {.42f, -.15f, .7f}}}},
  {"drop", "drops", {{'+', 'c', {0, .3f, .58f}}, {'+', 't', {0, -.95f, .53f, .1f, -.53f, .1f}}}},
  {"bolt", "bolts", {{'+', 't', {.25f, -.95f, .1f, .15f, -.6f, .15f}},
                     {'+', 't', {-.25f, .95f, -.1f, -.15f, .6f, -.15f}}}},
  {"house", "houses", {{'+', 'b', {0, .4f, .65f, .5f}}, {'+', 't', {0, -.9f, .95f, 0, -.95f, 0}},
                       {'-', 'b', {.2f, .6f, .16f, .32f}}}},
  {"tree", "trees", {{'+', 't', {0, -.95f, .6f, 0, -.6f, 0}}, {'+', 't', {0, -.5f, .8f, .55f, -.8f, .55f}},
                     {'+', 'b', {0, .7f, .14f, .25f}}}},
  {"cloud", "clouds", {{'+', 'c', {-.45f, .15f, .38f}}, {'+', 'c', {0, -.15f, .48f}}, {'+', 'c', {.5f, .15f, .36f}},
                       {'+', 'b', {0, .35f, .5f, .18f}}}},
  {"fish", "fish", {{'+', 'e', {-.2f, 0, .7f, .42f}}, {'+', 't', {.3f, 0, .95f, -.5f, .95f, .5f}},
                    {'-', 'c', {-.55f, -.1f, .09f}}}},
  {"boat", "boats", {{'+', 'b', {0, .6f, .55f, .2f}}, {'+', 't', {-.95f, .4f, -.4f, .4f, -.4f, .8f}},
                     {'+', 't', {.95f, .4f, .4f, .4f, .4f, .8f}}, {'+', 't', {-.05f, -.95f, -.05f, .25f, .7f, .25f}},
                     {'+', 'b', {-.12f, -.2f, .06f, .6f}}}},
  {"mug", "mugs", {{'+', 'c', {.5f, .05f, .4f}}, {'-', 'c', {.5f, .05f, .22f}}, {'+', 'b', {-.15f, .05f, .5f, .7f}}}},
  {"key", "keys", {{'+', 'c', {-.5f, 0, .42f}}, {'-', 'c', {-.5f, 0, .2f}}, {'+', 'b', {.4f, 0, .55f, .11f}},
                   {'+', 'b', {.85f, .2f, .09f, .22f}}, {'+', 'b', {.55f, .16f, .09f, .2f}}}},
  {"bell", "bells", {{'+', 'c', {0, -.3f, .5f}}, {'+', 't', {0, -1.1f, .85f, .6f, -.85f, .6f}},
                     {'-', 'b', {0, -1.1f, .4f, .28f}}, {'+', 'c', {0, .72f, .2f}}}},
  {"parasol", "parasols", {{'+', 'c', {0, 0, .9f}}, {'-', 'b', {0, .55f, 1, .55f}}, {'+', 's', {0, 0, 0, .8f, .07f}},
                           {'+', 's', {0, .85f, .25f, .85f, .07f}}}},
  {"mushroom", "mushrooms", {{'+', 'e', {0, -.15f, .85f, .7f}}, {'-', 'b', {0, .5f, 1, .4f}},
                             {'+', 'b', {0, .45f, .25f, .45f}}}},
  {"flower", "flowers", {{'+', 'c', {0, -.55f, .38f}}, {'+', 'c', {.52f, -.17f, .38f}},
                         {'+', 'c', {.32f, .45f, .38f}}, {'+', 'c', {-.32f, .45f, .38f}},
                         {'+', 'c', {-.52f, -.17f, .38f}}, {'-', 'c', {0, 0, .22f}}}},
  {"moth", "moths", {{'+', 't', {0, 0, .95f, -.8f, .9f, .25f}}, {'+', 't', {0, 0, -.95f, -.8f, -.9f, .25f}},
                     {'+', 'c', {.45f, .45f, .35f}}, {'+', 'c', {-.45f, .45f, .35f}},
                     {'+', 's', {0, -.6f, 0, .7f, .12f}}}},
  {"car", "cars", {{'+', 'b', {0, .2f, .92f, .27f}}, {'+', 'b', {-.05f, -.2f, .5f, .3f}},
                   {'+', 'c', {-.5f, .5f, .25f}}, {'+', 'c', {.5f, .5f, .25f}},
                   {'-', 'b', {-.05f, -.2f, .33f, .15f}}}},
  {"rocket", "rockets", {{'+', 'e', {0, -.15f, .32f, .85f}}, {'+', 't', {-.25f, .2f, -.75f, .85f, -.1f, .6f}},
                         {'+', 't', {.25f, .2f, .75f, .85f, .1f, .6f}}, {'-', 'c', {0, -.3f, .13f}}}},
  {"hook", "hooks", {{'+', 'c', {0, .35f, .58f}}, {'-', 'c', {0, .35f, .34f}}, {'-', 'b', {-.4f, -.05f, .45f, .42f}},
                     {'+', 's', {.46f, .35f, .46f, -.8f, .12f}}}},
  {"hammer", "hammers", {{'+', 'b', {0, -.6f, .7f, .25f}}, {'+', 'b', {0, .25f, .12f, .7f}}}},
  {"spoon", "spoons", {{'+', 'e', {0, -.5f, .33f, .45f}}, {'+', 's', {0, -.2f, 0, .85f, .1f}}}},
  {"bottle", "bottles", {{'+', 'b', {0, .35f, .4f, .6f}}, {'+', 'c', {0, -.2f, .4f}},
                         {'+', 'b', {0, -.65f, .15f, .3f}}}},
  {"lamp", "lamps", {{'+', 't', {0, -1.5f, .75f, .1f, -.75f, .1f}}, {'-', 'b', {0, -1.4f, .8f, .5f}},
                     {'+', 's', {0, 0, 0, .7f, .07f}}, {'+', 'b', {0, .8f, .45f, .1f}}}},
  {"crown", "crowns", {{'+', 'b', {0, .45f, .8f, .25f}}, {'+', 't', {-.8f, .3f, -.8f, -.7f, -.2f, .3f}},
                       {'+', 't', {.8f, .3f, .8f, -.7f, .2f, .3f}}, {'+', 't', {-.4f, .3f, 0, -.75f, .4f, .3f}}}},
  {"ladder", "ladders", {{'+', 'b', {-.4f, 0, .1f, .95f}}, {'+', 'b', {.4f, 0, .1f, .95f}},
                         {'+', 'b', {0, -.6f, .4f, .08f}}, {'+', 'b', {0, -.2f, .4f, .08f}},
                         {'+', 'b', {0, .2f, .4f, .08f}}, {'+', 'b', {0, .6f, .4f, .08f}}}},
  {"chair", "chairs", {{'+', 'b', {-.5f, 0, .11f, .95f}}, {'+', 'b', {0, .15f, .6f, .12f}},
                       {'+', 'b', {.5f, .55f, .11f, .4f}}}},
  {"table", "tables", {{'+', 'b', {0, -.35f, .95f, .14f}}, {'+', 'b', {-.7f, .25f, .11f, .6f}},
                       {'+', 'b', {.7f, .25f, .11f, .6f}}}},
  {"kite", "kites", {{'+', 't', {0, -.95f, .55f, -.3f, -.55f, -.3f}}, {'+', 't', {0, .5f, .55f, -.3f, -.55f, -.3f}},
                     {'+', 's', {0, .5f, .3f, .7f, .06f}}, {'+', 's', {.3f, .7f, 0, .92f, .06f}}}},
  {"snowman", "snowmen", {{'+', 'c', {0, .45f, .5f}}, {'+', 'c', {0, -.2f, .36f}}, {'+', 'c', {0, -.68f, .25f}}}},
  {"bicycle", "bicycles", {{'+', 'c', {-.5f, .3f, .42f}}, {'-', 'c', {-.5f, .3f, .27f}},
                           {'+', 'c', {.5f, .3f, .42f}}, {'-', 'c', {.5f, .3f, .27f}},
                           {'+', 's', {-.5f, .3f, -.1f, -.3f, .07f}}, {'+', 's', {-.1f, -.3f, .5f, .3f, .07f}},
                           {'+', 's', {.5f, .3f, .35f, -.5f, .07f}}}},
  {"bone", "bones", {{'+', 's', {-.5f, 0, .5f, 0, .15f}}, {'+', 'c', {-.65f, -.2f, .24f}},
                     {'+', 'c', {-.65f, .2f, .24f}}, {'+', 'c', {.65f, -.2f, .24f}}, {'+', 'c', {.65f, .2f, .24f}}}},
  {"flag", "flags", {{'+', 's', {-.6f, -.85f, -.6f, .9f, .09f}}, {'+', 't', {-.55f, -.85f, .9f, -.35f, -.55f, .2f}}}},
  {"cactus", "cacti", {{'+', 's', {0, -.7f, 0, .85f, .22f}}, {'+', 's', {-.6f, -.3f, -.6f, .15f, .14f}},
                       {'+', 's', {-.6f, .15f, 0, .15f, .14f}}, {'+', 's', {.6f, -.45f, .6f, .35f, .14f}},
                       {'+', 's', {.6f, .35f, 0, .35f, .14f}}}}
};

typedef struct world_rgb { float v[3]; } world_rgb;
static const struct { const char *name; world_rgb rgb; } world_colours[WORLD_COLOURS] = {
  {"red", {{205, 40, 40}}}, {"yellow", {{235, 205, 50}}}, {"green", {{45, 150, 60}}}, {"blue", {{45, 80, 205}}},
  {"purple", {{130, 55, 165}}}, {"pink", {{240, 140, 185}}}, {"brown", {{120, 75, 40}}}, {"black", {{28, 28, 32}}},
  {"white", {{240, 240, 236}}}, {"teal", {{40, 165, 170}}}
};
static const char *const world_textures[WORLD_TEXTURES] = {"plain", "striped", "dotted", "checked", "marbled"};
static const char *const world_grounds[WORLD_GROUNDS] = {
  "on a plain background", "on a fading background", "in front of stripes", "on a checked floor", "on a dotted cloth",
  "in the snow", "on the sea", "in front of a brick wall",
  "on the grass", "on the sand", "in a starry night", "on a target", "on a zigzag carpet", "among small things",
  "on wooden planks", "on a plaid blanket"
};

/* A fifth of the pairs of a thing with a colour or with a texture other than plain. */
static int world_held_out_colour(int thing, int colour) { return (thing + 2 * colour + thing / 5) % 5 == 0; }
static int world_held_out_texture(int thing, int texture) {
  return texture > 0 && (thing + texture + thing / 5) % 5 == 2;
}

static float world_part_distance(const world_part *p, float x, float y) {
  const float *a = p->a;
  if (p->shape == 'c') return sqrtf((x - a[0]) * (x - a[0]) + (y - a[1]) * (y - a[1])) - a[2];
  if (p->shape == 'e') {                         /* close to the edge, which is where it matters                    */
    float u = (x - a[0]) / a[2], v = (y - a[1]) / a[3];
    return (sqrtf(u * u + v * v) - 1) * (a[2] < a[3] ? a[2] : a[3]);
  }
  if (p->shape == 'b') {
    float u = fabsf(x - a[0]) - a[2], v = fabsf(y - a[1]) - a[3];
    return u > 0 && v > 0 ? sqrtf(u * u + v * v) : u > v ? u : v;
  }
  if (p->shape == 's') {
    float dx = a[2] - a[0], dy = a[3] - a[1], t = ((x - a[0]) * dx + (y - a[1]) * dy) / (dx * dx + dy * dy), u, v;
    t = t < 0 ? 0 : t > 1 ? 1 : t;
    u = x - a[0] - t * dx;
    v = y - a[1] - t * dy;
    return sqrtf(u * u + v * v) - a[4];
  } else {                                       /* inside: behind all three edges                                  */
    float area = (a[2] - a[0]) * (a[5] - a[1]) - (a[4] - a[0]) * (a[3] - a[1]), d = -1e9f;
    int i;
    for (i = 0; i < 3; i++) {
      float x0 = a[2 * i], y0 = a[2 * i + 1], dx = a[(2 * i + 2) % 6] - x0, dy = a[(2 * i + 3) % 6] - y0;
      float side = ((x - x0) * dy - (y - y0) * dx) / sqrtf(dx * dx + dy * dy);
      if (area < 0) side = -side;
      if (side > d) d = side;
    }
    return d;
  }
}

static float world_distance(int thing, float x, float y) {
  const world_part *p = world_things[thing].part, *end = p + 8;
  float d = 1e9f;
  for (; p < end && p->op; p++) {
    float e = world_part_distance(p, x, y);
    if (p->op == '+' ? e < d : -e > d) d = p->op == '+' ? e : -e;
  }
  return d;
}

/* ---- chance ---- */
static float world_between(fvg_rng *r, double low, double high) {
  return (float)(low + (high - low) * fvg_rng_uniform(r));
}
static int world_below(fvg_rng *r, int n) { return (int)fvg_rng_below(r, (uint32_t)n); }

/* Noise that is the same for the same cell of a grid: 0..1. */
static float world_hash(int x, int y, uint32_t salt) {
  uint32_t h = (uint32_t)x * 374761393u + (uint32_t)y * 668265263u + salt * 2246822519u;
  h = (h ^ (h >> 13)) * 1274126177u;
  return (float)((h ^ (h >> 16)) & 0xffff) / 65535.0f;
}

static float world_smooth_noise(float x, float y, uint32_t salt) {
  float fx = floorf(x), fy = floorf(y), u = x - fx, v = y - fy;
  int i = (int)fx, j = (int)fy;
  float top = world_hash(i, j, salt) * (1 - u) + world_hash(i + 1, j, salt) * u;
  float low = world_hash(i, j + 1, salt) * (1 - u) + world_hash(i + 1, j + 1, salt) * u;
  u = v * v * (3 - 2 * v);
  return top * (1 - u) + low * u;
}

static world_rgb world_mix(world_rgb a, world_rgb b, float t) {
  int k;
  t = t < 0 ? 0 : t > 1 ? 1 : t;
  for (k = 0; k < 3; k++) a.v[k] += t * (b.v[k] - a.v[k]);
  return a;
}

static world_rgb world_rgb_of(float r, float g, float b) {
  world_rgb c;
  c.v[0] = r;
  c.v[1] = g;
  c.v[2] = b;
  return c;
}

static world_rgb world_muted(fvg_rng *r) {
  float grey = world_between(r, 70, 200), blue = world_between(r, -45, 45);
  float green = world_between(r, -45, 45), red = world_between(r, -45, 45);
  return world_rgb_of(grey + red, grey + green, grey + blue);
}

/* ---- backgrounds ---- */
typedef struct world_ground {
  int kind;
  world_rgb a, b;
  float angle, period, shift, u, v;
  uint32_t salt;
} world_ground;

static world_ground world_ground_draw(fvg_rng *r, int kind) {
  static const float natural[WORLD_GROUNDS][6] = {       /* two colours for the backgrounds that have their own     */
    {0}, {0}, {0}, {0}, {0}, {225, 230, 238, 170, 180, 200}, {40, 95, 160, 110, 165, 205},
    {160, 75, 55, 200, 190, 175}, {60, 125, 45, 110, 165, 65}, {215, 190, 140, 190, 160, 110},
    {18, 20, 48, 235, 230, 190}, {0}, {0}, {0}, {150, 105, 65, 100, 65, 40}, {0}};
  world_ground g;
  const float *n = natural[kind];
  g.kind = kind;
  g.a = world_muted(r);
  g.b = world_muted(r);
  if (n[0] > 0) {
    g.a = world_mix(world_rgb_of(n[0], n[1], n[2]), g.a, 0.12f);
    g.b = world_mix(world_rgb_of(n[3], n[4], n[5]), g.b, 0.12f);
  }
  g.angle = world_between(r, 0, 3.1416);
  g.period = world_between(r, 9, 16);
  g.shift = world_between(r, 0, 64);
  g.u = world_between(r, 16, 48);
  g.v = world_between(r, 16, 48);
  g.salt = (uint32_t)fvg_rng_next(r);
  return g;
}

static float world_wave(float x, float period) { return 0.5f + 0.5f * sinf(6.2832f * x / period); }
static float world_edge(float x) { return x < -0.5f ? 0 : x > 0.5f ? 1 : x + 0.5f; }     /* a step, one pixel wide  */
static float world_saw(float x, float period) { return x - period * floorf(x / period); }

static world_rgb world_ground_at(const world_ground *g, float x, float y) {
  float c = cosf(g->angle), s = sinf(g->angle), along = c * x + s * y + g->shift,
        across = c * y - s * x + g->shift, t, row;
  switch (g->kind) {
    case 0: return g->a;                                                                                /* plain    */
    case 1: t = along / 64 - 0.5f; break;                                                               /* fading   */
    case 2: t = world_edge(6 * (world_wave(along, g->period) - 0.5f)); break;                           /* stripes  */
    case 3:
      t = world_edge(6 * (sinf(6.2832f * along / (1.5f * g->period)) * sinf(6.2832f * across / (1.5f * g->period))));
      break;
    case 4:                                                                                             /* dots     */
      along = world_saw(along, g->period) - g->period / 2; across = world_saw(across, g->period) - g->period / 2;
      t = world_edge(0.3f * g->period - sqrtf(along * along + across * across)); break;
    case 5:                                                                                             /* snow     */
      t = world_hash((int)x / 2, (int)y / 2, g->salt) > 0.85f ? 0 :
          0.5f + 0.5f * world_smooth_noise(x / 12, y / 12, g->salt);
      break;
    case 6:
      t = 0.7f * world_wave(y + 2.5f * sinf(x / 7 + g->shift), 0.6f * g->period) +
          0.3f * world_smooth_noise(x / 5, y / 2, g->salt);
      break;
    case 7:
      row = floorf(y / 8);
      t = world_edge(1 - fabsf(world_saw(y, 8) - 4) + 3) > 0 && world_saw(y, 8) < 7 &&
          world_saw(x + 8 * world_saw(row, 2) + g->shift, 16) < 15 ?
          0.25f * world_hash((int)((x + 8 * world_saw(row, 2) + g->shift) / 16), (int)row, g->salt) : 1;
      break;
    case 8:                                                                                             /* grass    */
      t = 0.6f * world_hash((int)x, (int)y / 3, g->salt) + 0.4f * world_smooth_noise(x / 6, y / 9, g->salt); break;
    case 9:
      t = 0.35f * world_hash((int)x, (int)y, g->salt) +
          0.5f * world_wave(y + 4 * sinf(x / 11 + g->shift), 1.3f * g->period);
      break;
    case 10: t = world_hash((int)x / 2, (int)y / 2, g->salt) > 0.96f ? 1 : 0; break;                    /* night    */
    case 11:
      t = world_edge(6 * (world_wave(sqrtf((x - g->u) * (x - g->u) + (y - g->v) * (y - g->v)), g->period) - 0.5f));
      break;
    case 12:
      t = world_edge(6 * (world_wave(y + fabsf(world_saw(x, g->period) - g->period / 2), g->period) - 0.5f)); break;
    case 14:
      t = world_saw(y + g->shift, 11) < 1 ? 1 :
          0.6f * world_smooth_noise(x / 14, y / 1.5f, g->salt) +
          0.15f * world_hash(0, (int)((y + g->shift) / 11), g->salt);
      break;
    case 15:
      t = 0.5f * world_edge(6 * (world_wave(x + g->shift, g->period) - 0.5f)) +
          0.5f * world_edge(6 * (world_wave(y + g->shift, g->period) - 0.5f));
      break;
    default: t = 0.6f * world_smooth_noise(x / 20, y / 20, g->salt); break;           /* small things are added     */
  }
  return world_mix(g->a, g->b, t);
}

/* ---- light ---- */
/* A colour p comes out as h + c ((1 - f) p + f l - h): its own luminance l takes the share f of its place, and a haze
   of colour h leaves the contrast c. */
static const struct { const char *name; world_rgb haze; float contrast, fade; } world_lights[WORLD_LIGHTS] = {
  {"clear day", {{0, 0, 0}}, 1, 0},
  {"old print", {{190, 160, 115}}, 0.55f, 0.3f},
  {"under water", {{110, 155, 165}}, 0.4f, 0},
  {"mist", {{200, 203, 208}}, 0.4f, 0},
  {"dawn", {{150, 170, 190}}, 0.4f, 0}
};

static world_rgb world_lit(world_light light, world_rgb p) {
  const float c = world_lights[light].contrast, f = world_lights[light].fade;
  const float luminance = 0.299f * p.v[0] + 0.587f * p.v[1] + 0.114f * p.v[2];
  int k;
  for (k = 0; k < 3; k++) {
    const float haze = world_lights[light].haze.v[k];
    p.v[k] = haze + c * ((1 - f) * p.v[k] + f * luminance - haze);
  }
  return p;
}

/* ---- drawing ---- */
typedef struct world_object {
  int thing, texture;
  world_rgb a, b;
  float x, y, size, angle, phase;
  uint32_t salt;
} world_object;

/* Covers the picture by an object; mask (may be NULL) receives the greatest cover so far. */
static void world_draw(const world_object *o, float light_x, float light_y, float *rgb, float *mask) {
  float c = cosf(o->angle), s = sinf(o->angle), reach = 1.5f * o->size + 3;
  int x, y, k, x0 = (int)(o->x - reach), x1 = (int)(o->x + reach), y0 = (int)(o->y - reach), y1 = (int)(o->y + reach);
  for (y = y0 < 0 ? 0 : y0; y < WORLD_SIDE && y <= y1; y++)
    for (x = x0 < 0 ? 0 : x0; x < WORLD_SIDE && x <= x1; x++) {
      float dx = ((float)x + 0.5f - o->x) / o->size, dy = ((float)y + 0.5f - o->y) / o->size,
            *pixel = rgb + (y * WORLD_SIDE + x) * 3;
      float u = c * dx + s * dy, v = c * dy - s * dx, d = o->size * world_distance(o->thing, u, v),
            cover = 0.5f - d, t = 0, shade;
      float sx = dx - 0.12f * light_x, sy = dy - 0.12f * light_y, shadow;
      shadow = 0.5f - 0.35f * o->size * world_distance(o->thing, c * sx + s * sy, c * sy - s * sx);
      shadow = shadow < 0 ? 0 : shadow > 1 ? 1 : shadow;
      cover = cover < 0 ? 0 : cover > 1 ? 1 : cover;
      for (k = 0; k < 3; k++) pixel[k] *= 1 - 0.35f * shadow * (1 - cover);
      if (cover <= 0) continue;
      if (o->texture == 1) t = world_edge(o->size / 4 * (sinf(9 * u + 3 * v + o->phase)));
      if (o->texture == 2) {
        float p = world_saw(u + o->phase, 0.5f) - 0.25f, q = world_saw(v + o->phase, 0.5f) - 0.25f;
        t = world_edge(o->size * (0.15f - sqrtf(p * p + q * q)));
      }
      if (o->texture == 3) t = world_edge(o->size / 4 * sinf(8 * u + o->phase) * sinf(8 * v + o->phase));
      if (o->texture == 4)
        t = 1.3f * world_smooth_noise(2.5f * u + 9 + 1.5f * world_smooth_noise(2 * v, 3 * u, o->salt),
                                      4 * v + 9, o->salt + 1) - 0.15f;
      shade = 1 - 0.16f * (light_x * dx + light_y * dy) - (d > -1.5f ? 0.1f : 0);
      for (k = 0; k < 3; k++) pixel[k] += cover * (shade * world_mix(o->a, o->b, t).v[k] - pixel[k]);
      if (mask && cover > mask[y * WORLD_SIDE + x]) mask[y * WORLD_SIDE + x] = cover;
    }
}

static world_object world_object_draw(fvg_rng *r, int thing, int colour, int texture, float size) {
  world_object o;
  int k;
  memset(&o, 0, sizeof o);
  o.thing = thing;
  o.texture = texture;
  o.a = world_colours[colour].rgb;
  for (k = 0; k < 3; k++) o.a.v[k] += world_between(r, -18, 18);
  o.b = world_mix(o.a, o.a.v[0] + o.a.v[1] + o.a.v[2] > 390 ? world_rgb_of(40, 40, 50) : world_rgb_of(235, 235, 225),
                  0.55f);
  o.size = size;
  o.angle = world_between(r, -0.25, 0.25);
  o.phase = world_between(r, 0, 6);
  o.salt = (uint32_t)fvg_rng_next(r);
  return o;
}

/* rgb [64,64,3]; mask [64,64], 255 where the thing covers at least half of a pixel, or NULL. */
static void world_render(const world_scene *scene, fvg_rng *r, uint8_t *rgb, uint8_t *mask) {
  static const float size_from[3] = {15, 18.5f, 22}, size_to[3] = {18, 21.5f, 26};
  float canvas[WORLD_SIDE * WORLD_SIDE * 3], cover[WORLD_SIDE * WORLD_SIDE], gain = world_between(r, 0.75, 1.12),
        slope[3], noise = world_between(r, 2, 9);
  float angle = world_between(r, 0, 6.2832), light_x = cosf(angle), light_y = sinf(angle);
  world_ground ground = world_ground_draw(r, scene->ground);
  world_object o;
  int x, y, k, i, n_small = scene->n_distractor + (scene->ground == 13 ? 14 : 0);
  for (y = 0; y < WORLD_SIDE; y++)
    for (x = 0; x < WORLD_SIDE; x++) {
      world_rgb c = world_ground_at(&ground, (float)x, (float)y);
      memcpy(canvas + (y * WORLD_SIDE + x) * 3, c.v, sizeof c.v);
    }
  memset(cover, 0, sizeof cover);
  for (i = 0; i < n_small; i++) {
    int thing = world_below(r, WORLD_THINGS);
    float size = (scene->distractor_size > 0 ? scene->distractor_size : 1) * world_between(r, 4, 6.5);
    int colour = world_below(r, WORLD_COLOURS);
    if (thing == scene->thing) thing = (thing + 1) % WORLD_THINGS;
    o = world_object_draw(r, thing, colour, 0, size);
    o.x = world_between(r, 3, 61);
    o.y = world_between(r, 3, 61);
    world_draw(&o, light_x, light_y, canvas, NULL);
  }
  for (i = 0; i < scene->count; i++) {                                  /* in the middle, or two side by side       */
    float size = world_between(r, (double)size_from[scene->large], (double)size_to[scene->large]) *
                 (scene->count == 2 ? 0.65f : 1);
    o = world_object_draw(r, scene->thing, scene->colour, scene->texture, size);
    o.x = (scene->count == 1 ? 32 : i ? 47.0f : 17.0f) + world_between(r, -5, 5);
    o.y = 32 + world_between(r, -5, 5);
    world_draw(&o, light_x, light_y, canvas, cover);
  }
  for (k = 0; k < 3; k++) slope[k] = gain * world_between(r, 0.93, 1.07);                      /* tint of the light */
  for (y = 0; y < WORLD_SIDE; y++)
    for (x = 0; x < WORLD_SIDE; x++) {
      float fall = 1 - 0.2f * (light_x * ((float)x / 64 - 0.5f) + light_y * ((float)y / 64 - 0.5f)),
            grain = noise * (float)(fvg_rng_uniform(r) + fvg_rng_uniform(r) - 1);
      world_rgb p;
      for (k = 0; k < 3; k++) p.v[k] = slope[k] * fall * canvas[(y * WORLD_SIDE + x) * 3 + k] + grain;
      p = world_lit(scene->light, p);
      for (k = 0; k < 3; k++)
        rgb[(y * WORLD_SIDE + x) * 3 + k] = (uint8_t)(p.v[k] < 0 ? 0 : p.v[k] > 255 ? 255 : p.v[k]);
      if (mask) mask[y * WORLD_SIDE + x] = cover[y * WORLD_SIDE + x] >= 0.5f ? 255 : 0;
    }
}

/* ---- scenes and sentences ---- */
/* Any scene by day that holds no held-out pair.  A third of the things are where they belong. */
static world_scene world_scene_draw(fvg_rng *r) {
  world_scene s;
  do {
    s.thing = world_below(r, WORLD_THINGS);
    s.colour = world_below(r, WORLD_COLOURS);
    s.texture = fvg_rng_uniform(r) < 0.45 ? 0 : 1 + world_below(r, WORLD_TEXTURES - 1);
  } while (world_held_out_colour(s.thing, s.colour) || world_held_out_texture(s.thing, s.texture));
  s.ground = fvg_rng_uniform(r) < 0.3 ? s.thing * 7 % WORLD_GROUNDS : world_below(r, WORLD_GROUNDS);
  s.count = fvg_rng_uniform(r) < 0.15 ? 2 : 1;
  s.large = world_below(r, 3);
  s.n_distractor = fvg_rng_uniform(r) < 0.5 ? 0 : 1 + world_below(r, 3);
  s.distractor_size = 1;
  s.light = WORLD_DAY;
  return s;
}

/* What somebody might write under the picture; nobody mentions everything. */
static void world_caption(const world_scene *s, fvg_rng *r, char *caption) {
  static const char *const lead[4] = {"a photo of ", "a photo of ", "a picture of ", ""};
  const char *article = s->count == 2 ? "two " : "a ";
  int say_size = s->large != 1 && fvg_rng_uniform(r) < 0.25, say_colour = fvg_rng_uniform(r) < 0.7;
  int say_texture = s->texture && fvg_rng_uniform(r) < 0.7, say_ground = fvg_rng_uniform(r) < 0.4;
  snprintf(caption, WORLD_CAPTION, "%s%s%s%s%s%s%s%s%s%s.", lead[world_below(r, 4)], article,
           say_size ? s->large ? "large " : "small " : "",
           say_colour ? world_colours[s->colour].name : "", say_colour ? " " : "",
           say_texture ? world_textures[s->texture] : "", say_texture ? " " : "",
           s->count == 2 ? world_things[s->thing].plural : world_things[s->thing].name,
           say_ground ? " " : "", say_ground ? world_grounds[s->ground] : "");
}
#endif
