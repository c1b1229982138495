/* tools/world.h: a seed gives one picture, masks lie on things, lights keep to their numbers, held-out pairs stay out,
   captions tell the truth. */
#define FVGPT_IMPLEMENTATION
#include "../tools/world.h"

static int passed, failed;
static void check(int ok, const char *what) { if (ok) passed++; else { failed++; printf("FAILED %s\n", what); } }

enum { SIDE = WORLD_SIDE, AREA = SIDE * SIDE, RED = 0, TEAL = 9, SMALL_THINGS = 13 };
typedef struct picture { uint8_t rgb[3 * AREA], mask[AREA]; } picture;

static fvg_rng seeded(int seed) {
  fvg_rng r;
  fvg_rng_seed(&r, (uint64_t)seed, 77);
  return r;
}

static world_scene scene_of(int thing, int colour, int texture, int ground) {
  world_scene s;
  memset(&s, 0, sizeof s);
  s.thing = thing;
  s.colour = colour;
  s.texture = texture;
  s.ground = ground;
  s.count = 1;
  s.large = 1;
  return s;
}

static picture render(const world_scene *s, int seed) {
  fvg_rng r = seeded(seed);
  picture p;
  memset(&p, 7, sizeof p);
  world_render(s, &r, p.rgb, p.mask);
  return p;
}

static int area_of(const uint8_t *mask) {
  int i, n = 0;
  for (i = 0; i < AREA; i++) n += mask[i] != 0;
  return n;
}

static int differs_at(const picture *a, const picture *b, int i) {
  return memcmp(a->rgb + 3 * i, b->rgb + 3 * i, 3) != 0;
}

static int difference(const picture *a, const picture *b) {            /* pixels */
  int i, n = 0;
  for (i = 0; i < AREA; i++) n += differs_at(a, b, i);
  return n;
}

/* ---- one seed, one picture ---- */
static void test_seeds(void) {
  int i, k, same = 1, others = 0, without = 1, binary = 1;
  for (i = 0; i < 50; i++) {
    fvg_rng r = seeded(i), again = seeded(i);
    world_scene s = world_scene_draw(&r), t = world_scene_draw(&again);
    char caption[WORLD_CAPTION], recaption[WORLD_CAPTION];
    picture p = render(&s, i), q = render(&t, i), other = render(&s, i + 1000);
    world_caption(&s, &r, caption);
    world_caption(&t, &again, recaption);
    same &= !memcmp(&s, &t, sizeof s) && !strcmp(caption, recaption) && !memcmp(&p, &q, sizeof p);
    others += difference(&p, &other) > AREA / 2 && memcmp(p.mask, other.mask, AREA) != 0;
    again = seeded(i);
    world_render(&s, &again, q.rgb, NULL);
    without &= !memcmp(p.rgb, q.rgb, sizeof p.rgb);
    for (k = 0; k < AREA; k++) binary &= p.mask[k] == 0 || p.mask[k] == 255;
  }
  check(same, "a seed gives the same scene, caption, picture and mask again");
  check(others == 50, "another seed gives another picture of the same scene");
  check(without, "a picture is the same whether its mask is wanted or not");
  check(binary, "masks are 0 and 255");
}

/* The arguments of a call are evaluated in any order: drawing two of them would tie the picture to the compiler. */
static void test_order_of_draws(void) {
  int i, k, ok = 1;
  for (i = 0; i < 20; i++) {
    fvg_rng r = seeded(i), again = seeded(i);
    world_rgb c = world_muted(&r);
    float grey = world_between(&again, 70, 200);
    for (k = 2; k >= 0; k--) ok &= fabsf(c.v[k] - grey - world_between(&again, -45, 45)) < 1e-3f;
  }
  check(ok, "muted colours are drawn in one order: grey, blue, green, red");
}

/* ---- masks ---- */
/* Two renders from equal chances, in red and in teal, differ exactly on the thing: light, shadows, grain, background
   and distractors do not ask for its colour.  Edges stick out of the mask by two pixels at most, sharp tips more. */
static void mask_fits(const world_scene *scene, int seed, int *inside, int *outside, int *area) {
  world_scene red = *scene, teal = *scene;
  picture a, b;
  int x, y, dx, dy;
  red.colour = RED;
  teal.colour = TEAL;
  a = render(&red, seed);
  b = render(&teal, seed);
  *inside = *outside = 0;
  *area = area_of(a.mask);
  for (y = 0; y < SIDE; y++)
    for (x = 0; x < SIDE; x++) {
      int near = 0, i = y * SIDE + x;
      for (dy = -2; dy <= 2; dy++)
        for (dx = -2; dx <= 2; dx++)
          near |= x + dx >= 0 && x + dx < SIDE && y + dy >= 0 && y + dy < SIDE && a.mask[i + dy * SIDE + dx];
      *inside += a.mask[i] && differs_at(&a, &b, i);
      *outside += !near && differs_at(&a, &b, i);
    }
  if (memcmp(a.mask, b.mask, AREA)) *outside += AREA;
}

static void test_masks(void) {
  static const char *const what[4][3] = {
    {"a mask of one thing is of its size", "lies on it", "and nowhere else"},
    {"a mask of two things is of their size", "lies on them", "and nowhere else"},
    {"a mask of a thing among three others is of its size", "lies on it", "and not on the others"},
    {"a mask of a thing among small things is of its size", "lies on it", "and not on the small things"}};
  double mean[3] = {0, 0, 0};
  int kind, thing, size;
  for (kind = 0; kind < 4; kind++) {
    int sized = 1, on_thing = 1, nowhere_else = 1;
    for (thing = 0; thing < WORLD_THINGS; thing++)
      for (size = 0; size < 3; size++) {
        world_scene s = scene_of(thing, RED, kind, kind == 3 ? SMALL_THINGS : thing % SMALL_THINGS);
        int inside, outside, area;
        s.large = size;
        s.count = kind == 1 ? 2 : 1;
        s.n_distractor = kind == 2 ? 3 : 0;
        mask_fits(&s, 100 * kind + thing, &inside, &outside, &area);
        sized &= area >= 20 && area <= AREA / 2;
        on_thing &= inside == area;
        nowhere_else &= outside <= 5;
        if (kind == 0) mean[size] += (double)area / WORLD_THINGS;
      }
    check(sized, what[kind][0]);
    check(on_thing, what[kind][1]);
    check(nowhere_else, what[kind][2]);
  }
  printf("masks cover %.0f, %.0f and %.0f pixels of %d on average\n", mean[0], mean[1], mean[2], AREA);
  check(mean[1] > 1.3 * mean[0] && mean[2] > 1.3 * mean[1], "small, middle and large things");
}

/* ---- everything can be drawn ---- */
static int is_colour(float x) { return x >= 0 && x <= 310; }            /* a NaN is none */

static void test_everything(void) {
  int thing, texture, kind, i, x, y, finite = 1, drawn = 1, lively = 1;
  for (thing = 0; thing < WORLD_THINGS; thing++)
    for (texture = 0; texture < WORLD_TEXTURES; texture++)
      for (kind = 0; kind < WORLD_GROUNDS; kind++) {
        static float canvas[3 * AREA], cover[AREA];
        world_scene s = scene_of(thing, (thing + texture + kind) % WORLD_COLOURS, texture, kind);
        int seed = (thing * WORLD_TEXTURES + texture) * WORLD_GROUNDS + kind;
        fvg_rng r = seeded(seed);
        world_ground ground = world_ground_draw(&r, kind);
        world_object o = world_object_draw(&r, thing, s.colour, texture, 16);
        picture p = render(&s, seed);
        for (y = 0; y < SIDE; y++)
          for (x = 0; x < SIDE; x++) {
            world_rgb c = world_ground_at(&ground, (float)x, (float)y);
            memcpy(canvas + 3 * (y * SIDE + x), c.v, sizeof c.v);
          }
        memset(cover, 0, sizeof cover);
        o.x = o.y = 32;
        world_draw(&o, 0.6f, -0.8f, canvas, cover);
        for (i = 0; i < 3 * AREA; i++) finite &= is_colour(canvas[i]);
        for (i = 0; i < AREA; i++) finite &= cover[i] >= 0 && cover[i] <= 1;
        drawn &= area_of(p.mask) >= 20;
        for (i = 0; i < 3 * AREA && p.rgb[i] == p.rgb[0]; i++) {}
        lively &= i < 3 * AREA;
      }
  check(finite, "every thing in every texture before every background: colours and covers are numbers within bounds");
  check(drawn, "and has a mask");
  check(lively, "and is a picture of something");
}

/* Distances of parts are numbers everywhere, their corners and centres included, and each part has an inside. */
static void test_parts(void) {
  int thing, i, k, ok = 1;
  for (thing = 0; thing < WORLD_THINGS; thing++) {
    const world_part *p = world_things[thing].part;
    for (i = 0; i < 8 && p[i].op; i++) {
      float least = 9;
      ok &= strchr("+-", p[i].op) && strchr("cebst", p[i].shape) && (i || p[i].op == '+');
      for (k = 0; k < 101 * 101; k++) {
        float d = world_part_distance(&p[i], (float)(k % 101) / 50 - 1, (float)(k / 101) / 50 - 1);
        ok &= d > -2 && d < 5;
        if (d < least) least = d;
      }
      for (k = 0; k < 6; k += 2) ok &= isfinite(world_part_distance(&p[i], p[i].a[k], p[i].a[k + 1]));
      ok &= least < 0;
    }
  }
  check(ok, "the parts of things");
}

/* A pattern shows before grain and light are added. */
static void test_grounds(void) {
  int kind, seed, i, k, plain = 1, patterned = 1;
  for (kind = 0; kind < WORLD_GROUNDS; kind++)
    for (seed = 0; seed < 10; seed++) {
      fvg_rng r = seeded(seed);
      world_ground g = world_ground_draw(&r, kind);
      world_rgb first = world_ground_at(&g, 0, 0);
      int differ = 0;
      for (i = 0; i < AREA; i++) {
        world_rgb c = world_ground_at(&g, (float)(i % SIDE), (float)(i / SIDE));
        float apart = 0;
        for (k = 0; k < 3; k++) apart += fabsf(c.v[k] - first.v[k]);
        differ += apart > 2;
      }
      if (kind) patterned &= differ > AREA / 200;
      else plain &= differ == 0;
    }
  check(plain, "the plain background is plain");
  check(patterned, "all others have a pattern");
}

/* The same chances, one word changed: the picture must change with it. */
static void test_words_matter(void) {
  static picture p[WORLD_THINGS];
  int i, k, n, apart = 1, colours = 1, textures = 1, grounds = 1;
  for (i = 0; i < WORLD_THINGS; i++) {
    world_scene s = scene_of(i, RED, 0, 0);
    s.large = 2;
    p[i] = render(&s, 5);
    for (k = 0; k < i; k++) {
      int both = 0, either = 0;
      for (n = 0; n < AREA; n++) {
        both += p[i].mask[n] && p[k].mask[n];
        either += p[i].mask[n] || p[k].mask[n];
      }
      if (both > 0.9 * either) printf("  %s is nearly a %s\n", world_things[i].name, world_things[k].name);
      apart &= both <= 0.9 * either;
    }
  }
  check(apart, "no two things have nearly the same shape");
  for (i = 0; i < WORLD_GROUNDS; i++) {
    world_scene s = scene_of(0, i % WORLD_COLOURS, i % WORLD_TEXTURES, i);
    s.large = 2;
    p[i] = render(&s, 6);
  }
  for (i = 0; i < WORLD_GROUNDS; i++)
    for (k = 0; k < i; k++) {
      int inside = 0, outside = 0, area = area_of(p[0].mask);
      for (n = 0; n < AREA; n++) *(p[0].mask[n] ? &inside : &outside) += differs_at(&p[i], &p[k], n);
      if (i < SMALL_THINGS) grounds &= outside > (AREA - area) / 3;    /* those after it draw other chances */
      if (i < WORLD_COLOURS) colours &= inside > 0.9 * area;
    }
  for (i = 1; i < WORLD_TEXTURES; i++)
    for (k = 0; k < i; k++) {
      world_scene s = scene_of(0, RED, i, 0), t = scene_of(0, RED, k, 0);
      picture a = render(&s, 7), b = render(&t, 7);
      textures &= difference(&a, &b) > area_of(a.mask) / 5;
    }
  check(colours, "no two colours look the same");
  check(textures, "no two textures look the same");
  check(grounds, "no two backgrounds look the same");
}

/* ---- light ---- */
/* Where day has v, a light has h + c ((1 - f) v + f l - h), but for the rounding of both; the masks stay. */
static int is_lit(const picture *day, const picture *other, world_light light) {
  const float c = world_lights[light].contrast, f = world_lights[light].fade;
  int i, k, ok = !memcmp(day->mask, other->mask, AREA);
  for (i = 0; i < AREA; i++) {
    const uint8_t *v = day->rgb + 3 * i;
    const float luminance = 0.299f * v[0] + 0.587f * v[1] + 0.114f * v[2];
    if (v[0] % 255 == 0 || v[1] % 255 == 0 || v[2] % 255 == 0) continue;          /* it may have been cut there */
    for (k = 0; k < 3; k++) {
      const float h = world_lights[light].haze.v[k], wanted = h + c * ((1 - f) * v[k] + f * luminance - h);
      ok &= fabsf((float)other->rgb[3 * i + k] - wanted) <= 1.01f;
    }
  }
  return ok;
}

static void test_lights(void) {
  int light, seed, day = 1, lit = 1, apart = 1;
  for (seed = 0; seed < 20; seed++) {
    fvg_rng r = seeded(seed);
    world_scene s = world_scene_draw(&r);
    picture p = render(&s, seed);
    day &= s.light == WORLD_DAY && is_lit(&p, &p, WORLD_DAY);
    for (light = 1; light < WORLD_LIGHTS; light++) {
      picture other;
      s.light = (world_light)light;
      other = render(&s, seed);
      lit &= is_lit(&p, &other, (world_light)light);
      apart &= difference(&p, &other) > AREA / 2;
    }
  }
  check(day, "pre-training is by day");
  check(lit, "a light changes every pixel as its numbers say, and no mask");
  check(apart, "and is another light");
}

/* ---- held-out pairs ---- */
static void test_held_out(void) {
  static int colour[WORLD_THINGS][WORLD_COLOURS], texture[WORLD_THINGS][WORLD_TEXTURES];
  int thing, k, i, n = 300000, n_colour = 0, n_texture = 0, at_home = 0;
  int shown = 1, hidden = 1, within = 1, two_kinds = 1;
  int of_colour[WORLD_COLOURS] = {0}, of_texture[WORLD_TEXTURES] = {0};
  fvg_rng r = seeded(1);
  for (i = 0; i < n; i++) {
    world_scene s = world_scene_draw(&r);
    within &= s.thing >= 0 && s.thing < WORLD_THINGS && s.colour >= 0 && s.colour < WORLD_COLOURS &&
              s.texture >= 0 && s.texture < WORLD_TEXTURES && s.ground >= 0 && s.ground < WORLD_GROUNDS &&
              s.large >= 0 && s.large <= 2 &&
              (s.count == 1 || s.count == 2) && s.n_distractor >= 0 && s.n_distractor <= 3;
    if (!within) break;
    colour[s.thing][s.colour]++;
    texture[s.thing][s.texture]++;
    at_home += s.ground == s.thing * 7 % WORLD_GROUNDS;
  }
  check(within, "scenes are within bounds");
  for (thing = 0; thing < WORLD_THINGS; thing++) {
    int of_thing = 0;
    for (k = 0; k < WORLD_COLOURS; k++) {
      int out = world_held_out_colour(thing, k);
      of_thing += out;
      of_colour[k] += out;
      n_colour += out;
      hidden &= !out || colour[thing][k] == 0;
      shown &= out || colour[thing][k] > 0;
    }
    two_kinds &= of_thing > 0 && of_thing < WORLD_COLOURS;
    for (k = 0; k < WORLD_TEXTURES; k++) {
      int out = world_held_out_texture(thing, k);
      of_texture[k] += out;
      n_texture += out;
      hidden &= !out || texture[thing][k] == 0;
      shown &= out || texture[thing][k] > 0;
    }
  }
  for (k = 0; k < WORLD_COLOURS; k++) two_kinds &= of_colour[k] > 0 && of_colour[k] < WORLD_THINGS;
  for (k = 1; k < WORLD_TEXTURES; k++) two_kinds &= of_texture[k] > 0 && of_texture[k] < WORLD_THINGS;
  check(hidden, "no drawn scene holds a held-out pair");
  check(shown, "every other pair is drawn");
  check(n_colour == WORLD_THINGS * WORLD_COLOURS / 5, "a fifth of the pairs of colour and thing are held out");
  check(n_texture == WORLD_THINGS * (WORLD_TEXTURES - 1) / 5, "and of texture, other than plain, and thing");
  check(of_texture[0] == 0 && two_kinds, "every thing, colour and texture is in pairs of both kinds");
  check(fabs((double)at_home / n - (0.3 + 0.7 / WORLD_GROUNDS)) < 0.01, "a third of all things are at home");
}

/* ---- captions ---- */
/* Where `word` stands in text as a whole word, or NULL. */
static const char *find_word(const char *text, const char *word) {
  size_t n = strlen(word);
  const char *at = text;
  for (; (at = strstr(at, word)) != NULL; at++)
    if ((at == text || at[-1] == ' ') && (at[n] == ' ' || at[n] == '.')) return at;
  return NULL;
}

static void test_captions(void) {
  int i, k, dot = 1, named = 1, count = 1, colours = 1, textures = 1, grounds = 1, held_out = 1, longest = 0;
  int with_colour = 0, with_texture = 0, with_ground = 0, n = 40000;
  fvg_rng r = seeded(2);
  for (i = 0; i < n; i++) {
    world_scene s = world_scene_draw(&r);
    char text[2 * WORLD_CAPTION], before[WORLD_CAPTION];
    const char *noun, *rest;
    memset(text, '#', sizeof text);
    world_caption(&s, &r, text);
    for (k = WORLD_CAPTION; k < 2 * WORLD_CAPTION; k++) dot &= text[k] == '#';
    if (!memchr(text, 0, WORLD_CAPTION) || !text[0]) { dot = 0; break; }
    if ((int)strlen(text) > longest) longest = (int)strlen(text);
    dot &= text[strlen(text) - 1] == '.' && strchr(text, '.') == text + strlen(text) - 1;
    noun = find_word(text, s.count == 2 ? world_things[s.thing].plural : world_things[s.thing].name);
    named &= noun != NULL;
    if (!noun) continue;
    snprintf(before, sizeof before, "%.*s", (int)(noun - text), text);
    rest = strpbrk(noun, " .");
    count &= (strstr(before, "two ") != NULL) == (s.count == 2) && (s.count == 2 || strstr(before, "a ") != NULL);
    for (k = 0; k < WORLD_COLOURS; k++)
      if (find_word(before, world_colours[k].name)) {
        colours &= k == s.colour;
        held_out &= !world_held_out_colour(s.thing, k);
        with_colour++;
      }
    for (k = 0; k < WORLD_TEXTURES; k++)
      if (find_word(before, world_textures[k])) {
        textures &= k == s.texture;
        held_out &= !world_held_out_texture(s.thing, k);
        with_texture++;
      }
    if (*rest == ' ') {
      grounds &= !strncmp(rest + 1, world_grounds[s.ground], strlen(world_grounds[s.ground])) &&
                 !strcmp(rest + 1 + strlen(world_grounds[s.ground]), ".");
      with_ground++;
    }
  }
  check(dot, "captions end with a dot, their only one, within 160 bytes");
  check(named, "name the thing");
  check(count, "say a or two");
  check(colours && textures && grounds, "name its own colour, texture and background");
  check(held_out, "and never a held-out pair");
  check(with_colour > n / 2 && with_colour < n * 0.8 && with_texture > n / 4 && with_ground > n / 3 &&
            with_ground < n / 2,
        "nobody mentions everything");
  printf("the longest caption has %d bytes\n", longest);
}

int main(void) {
  test_seeds();
  test_order_of_draws();
  test_masks();
  test_everything();
  test_parts();
  test_grounds();
  test_words_matter();
  test_lights();
  test_held_out();
  test_captions();
  printf("%d passed, %d failed\n", passed, failed);
  return failed != 0;
}
