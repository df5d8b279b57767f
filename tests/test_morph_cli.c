/* test_morph_cli.c: `imago morph` as a user runs it: files, frames that are the pictures themselves, chains, the strip, the
 * animation, the page, messages, Ctrl-C.   usage: test_morph_cli PATH_OF_IMAGO GOLDEN_DIR
 * SPDX-License-Identifier: MIT */
#include "file/image.h"
#include "cli_run.h"
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

static char dir[] = "test_morph_cli.XXXXXX";
static const char *exe, *golden;

/* Runs "exe morph --device cpu --precision f32 args" in dir; %m in args is the golden folder. */
static int run(const char *args) {
    char head[1200], folder[1100];
    snprintf(head, sizeof head, "cd %s && '%s' morph --device cpu --precision f32", dir, exe);
    snprintf(folder, sizeof folder, "'%s'", golden);
    return cli_run(head, args, "m", (const char *[]){folder});
}

static const char *in_dir(const char *name) {
    static char path[256];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    return path;
}

static image load(const char *name) {
    image im = {0};
    REQUIRE_OK(image_load(in_dir(name), &im));
    REQUIRE_OK(image_flatten(&im, (const uint8_t[]){255, 255, 255}));
    return im;
}

static char *text_of(const char *name, size_t *bytes) {
    uint8_t *data = NULL;
    REQUIRE_OK(file_read(in_dir(name), 1 << 24, &data, bytes));
    return (char *)data;
}

static int count(const char *text, const char *word) {
    int n = 0;
    for (const char *s = text; (s = strstr(s, word)); s += strlen(word)) n++;
    return n;
}

/* Frames of an animated WebP, by walking its chunks; -1: not one. */
static int animation_frames(const char *name, int *loops) {
    size_t bytes = 0;
    uint8_t *d = (uint8_t *)text_of(name, &bytes);
    int n = 0;
    if (bytes < 12 || memcmp(d, "RIFF", 4) || memcmp(d + 8, "WEBPVP8X", 8)) n = -1;
    for (size_t at = 12; n >= 0 && at + 8 <= bytes;) {
        size_t size = d[at + 4] | (size_t)d[at + 5] << 8 | (size_t)d[at + 6] << 16 | (size_t)d[at + 7] << 24;
        if (memcmp(d + at, "ANMF", 4) == 0) n++;
        if (memcmp(d + at, "ANIM", 4) == 0) *loops = d[at + 12] | d[at + 13] << 8;
        at += 8 + size + (size & 1);
    }
    mem_free(d);
    return n;
}

#define SMALL "-m %m/pipelines/sd1 --steps 4 --strength 1 --inner 1 --size 48x64 "
#define PAIR "%m/morph/a.png %m/morph/b.png "

static void test_files(void) {
    int loops = -1;
    size_t bytes = 0;
    REQUIRE_EQ(run(SMALL PAIR "--prompt-a 'a red fox' --prompt-b 'a cat' -o pair"), 0);
    REQUIRE(says("7 frames in pair") && says("open pair/morph.html") && says("Stable Diffusion 1.x") && !strstr(out, "no prompts"));
    image a = {0}, first = load("pair/frame-0001.png"), strip = load("pair/strip.png");
    char path[1024];
    snprintf(path, sizeof path, "%s/morph/a.png", golden);
    REQUIRE_OK(image_load(path, &a));
    REQUIRE(first.w == 48 && first.h == 64 && memcmp(first.px, a.px, 48 * 64 * 3) == 0);
    REQUIRE(strip.w == 2 + 7 * 50 && strip.h == 68);
    for (int f = 0; f < 7; f++) {
        char name[64];
        snprintf(name, sizeof name, "pair/frame-%04d.png", f + 1);
        image im = load(name);
        for (int y = 0; y < 64; y++) REQUIRE(memcmp(strip.px + ((y + 2) * strip.w + 2 + f * 50) * 3, im.px + y * 48 * 3, 48 * 3) == 0);
        image_free(&im);
    }
    REQUIRE_EQ(animation_frames("pair/morph.webp", &loops), 12); /* there and back */
    REQUIRE_EQ(loops, 0);
    char *page = text_of("pair/morph.html", &bytes);
    REQUIRE_EQ(count(page, "data:image/png;base64,iVBORw0KGgo"), 7);
    REQUIRE(!strstr(page, "src=\"http") && !strstr(page, "href=") && !strstr(page, "fetch(")); /* loads nothing */
    mem_free(page);
    image_free(&a);
    image_free(&first);
    image_free(&strip);
    REQUIRE_EQ(run(SMALL PAIR "-o pair"), 2);
    REQUIRE(says("frame-0001.png is there already") && one_line());
}

static void test_chain(void) {
    int loops = -1;
    REQUIRE_EQ(run(SMALL PAIR "%m/pipelines/init.png --loop --frames 3 --method slerp -o chain"), 0);
    REQUIRE(says("6 frames in chain") && says("no prompts"));
    REQUIRE_EQ(animation_frames("chain/morph.webp", &loops), 6);
    REQUIRE_EQ(run(SMALL PAIR "--frames 2 --overwrite -o chain"), 0);
    REQUIRE(says("2 frames in chain"));
    for (int f = 3; f <= 6; f++) { /* what the longer one left is gone */
        char name[64];
        snprintf(name, sizeof name, "chain/frame-%04d.png", f);
        REQUIRE(!os_file_exists(in_dir(name)));
    }
    REQUIRE_EQ(run(SMALL "%m/morph/a.png %m/morph/a.png --frames 3 -o same"), 0);
    REQUIRE_EQ(run("-m %m/pipelines/sd2 --steps 2 --strength 1 --inner 1 --frames 3 --size 64 " PAIR "--fit pad --background ff0000 --prompt fox -p cat -o pad"), 0);
    image im = load("pad/frame-0001.png");
    REQUIRE(im.w == 64 && im.h == 64 && im.px[0] == 255 && im.px[1] == 0 && im.px[2] == 0); /* 48x64 in the middle of red */
    image_free(&im);
}

static void write_text(const char *name, const char *text) { REQUIRE_OK(file_write_atomic(in_dir(name), text, strlen(text))); }

/* A video where ffmpeg is; nothing amiss where it is not. A folder's name may look like a pattern of ffmpeg's. */
static void test_video(void) {
    char head[1200], folder[1100];
    size_t bytes = 0;
    snprintf(folder, sizeof folder, "'%s'", golden);
    REQUIRE_EQ(run(SMALL PAIR "--frames 3 -o 100%03d"), 0);
    REQUIRE(!strstr(out, "no SqueezeNet")); /* found from the program's place */
    if (system("command -v ffmpeg >/dev/null 2>&1") == 0) {
        REQUIRE(says(", morph.mp4") && !os_file_exists(in_dir("100%03d/morph.mp4.part")));
        char *video = text_of("100%03d/morph.mp4", &bytes);
        REQUIRE(bytes > 500 && memcmp(video + 4, "ftyp", 4) == 0);
        mem_free(video);
    }
    write_text("100%03d/morph.mp4", "of another day");
    snprintf(head, sizeof head, "cd %s && PATH=/nowhere '%s' morph --device cpu --precision f32", dir, exe);
    REQUIRE_EQ(cli_run(head, SMALL PAIR "--frames 3 --overwrite -o 100%03d", "m", (const char *[]){folder}), 0);
    REQUIRE(!strstr(out, "mp4") && !os_file_exists(in_dir("100%03d/morph.mp4")));
    /* one that fails is named, and the morph stays */
    write_text("ffmpeg", "#!/bin/sh\nexit 3\n");
    snprintf(head, sizeof head, "cd %s && chmod +x ffmpeg && PATH=\"$PWD\" && '%s' morph --device cpu --precision f32", dir, exe);
    REQUIRE_EQ(cli_run(head, SMALL PAIR "--frames 3 --overwrite -o 100%03d", "m", (const char *[]){folder}), 0);
    REQUIRE(says("ffmpeg gave up (exit code 3)") && says("3 frames in 100%03d"));
}

/* Frames of a video, from its table of samples. */
static int video_frames(const char *name) {
    size_t bytes = 0;
    uint8_t *d = (uint8_t *)text_of(name, &bytes);
    int n = -1;
    for (size_t i = 0; i + 16 <= bytes && n < 0; i++)
        if (memcmp(d + i, "stsz", 4) == 0) n = d[i + 12] << 24 | d[i + 13] << 16 | d[i + 14] << 8 | d[i + 15];
    mem_free(d);
    return n;
}

/* Is that frame the picture itself, on red and cut to 48x64? */
static bool frame_is(int frame, const char *picture) {
    char path[1200], name[64];
    image given = {0}, fitted = {0};
    const uint8_t red[3] = {255, 0, 0};
    snprintf(path, sizeof path, "%s/%s", golden, picture);
    snprintf(name, sizeof name, "between/frame-%04d.png", frame);
    REQUIRE_OK(image_load(path, &given));
    REQUIRE_OK(image_flatten(&given, red));
    REQUIRE_OK(image_fit_to(&given, 48, 64, FIT_CROP, red, &fitted));
    image im = load(name);
    REQUIRE(im.w == 48 && im.h == 64);
    bool same = memcmp(im.px, fitted.px, 48 * 64 * 3) == 0;
    image_free(&given);
    image_free(&fitted);
    image_free(&im);
    return same;
}

/* --inbetween: made frames are counted, the pictures themselves (one transparent and of another shape) stand where one turns into
 * the next, and every file has all of them. */
static void test_inbetween(void) {
    static const char *const picture[] = {"morph/a.png", "images/rgba8.png", "morph/b.png"};
    char text[2048];
    int loops = -1;
    size_t bytes = 0;
    REQUIRE_EQ(run(SMALL "%m/morph/a.png %m/images/rgba8.png %m/morph/b.png --background ff0000 --inbetween --frames 2 --loop --uneven -o between"), 0);
    REQUIRE(says("9 frames in between"));
    for (int f = 0; f < 9; f++)
        for (int i = 0; i < 3; i++) REQUIRE(frame_is(f + 1, picture[i]) == (f == 3 * i));
    REQUIRE(!os_file_exists(in_dir("between/frame-0010.png")));
    image strip = load("between/strip.png");
    REQUIRE(strip.w == 2 + 9 * 50);
    image_free(&strip);
    REQUIRE_EQ(animation_frames("between/morph.webp", &loops), 9);
    char *page = text_of("between/morph.html", &bytes);
    REQUIRE_EQ(count(page, "data:image/png;base64,"), 9);
    mem_free(page);
    if (os_file_exists(in_dir("between/morph.mp4"))) REQUIRE_EQ(video_frames("between/morph.mp4"), 9);
    REQUIRE_EQ(run(SMALL PAIR "--inbetween --method slerp -o five"), 0);
    REQUIRE(says("7 frames in five"));
    snprintf(text, sizeof text, "{\"exp_id\": \"m\", \"image_paths\": [\"%s/morph/a.png\", \"%s/morph/b.png\"]}\n", golden, golden);
    write_text("one.jsonl", text);
    REQUIRE_EQ(run(SMALL "--inbetween --frames 1 --uneven --manifest one.jsonl -o lines"), 0);
    REQUIRE(says("3 frames in lines/m"));
    REQUIRE_EQ(run(SMALL PAIR "--inbetween --frames 999 -o none"), 2);
    REQUIRE(says("--frames wants 1 to 998 between two pictures, not 999") && one_line());
}

static void test_manifest(void) {
    char text[4096];
    snprintf(text, sizeof text, "{\"exp_id\": \"one\", \"image_paths\": [\"%s/morph/a.png\", \"%s/morph/b.png\"], \"prompts\": [\"a fox\", \"a cat\"]}\n\n"
             "{\"image_paths\": [\"here.png\", \"%s/morph/b.png\"]}\n", golden, golden, golden);
    write_text("many.jsonl", text);
    image im = load("pair/frame-0001.png");
    REQUIRE_OK(image_save_png(in_dir("here.png"), &im, NULL, 0));
    image_free(&im);
    REQUIRE_EQ(run(SMALL "--frames 3 --manifest many.jsonl -o many"), 0);
    REQUIRE(says("3 frames in many/one") && says("3 frames in many/3"));
    REQUIRE_EQ(count(out, "Stable Diffusion 1.x"), 1); /* opened once */
    static const struct { const char *line, *says; } wrong[] = {
        {"{\"image_paths\": [\"a.png\"]}", "bad.jsonl:1: 1 pictures"}, {"[1, 2]", "bad.jsonl:1"}, {"{\"image_paths\": [\"a\", 7]}", "bad.jsonl:1"},
        {"{\"image_paths\": [\"a\", \"b\"], \"prompts\": [\"x\"]}", "1 prompts"}, {"{\"exp_id\": \"../x\", \"image_paths\": [\"a\", \"b\"]}", "exp_id"},
        {"{broken", "bad.jsonl:1"}, {"", "no morph"}};
    for (size_t i = 0; i < ARRAY_LEN(wrong); i++) {
        write_text("bad.jsonl", wrong[i].line);
        REQUIRE_EQ(run(SMALL "--manifest bad.jsonl -o bad"), 1);
        REQUIRE(says(wrong[i].says) && one_line());
    }
}

static void test_messages(void) {
    static const struct { const char *args, *says; int code; } wrong[] = {
        {"-m %m/pipelines/sd1 %m/morph/a.png", "PICTURE PICTURE", 2},
        {SMALL "%m/morph/a.png nowhere.png", "nowhere.png", 1},
        {SMALL "%m/morph/a.png %m/morph.safetensors", "morph.safetensors", 1},
        {SMALL PAIR "--frames 1", "--frames wants 2 to 1000", 2},
        {SMALL PAIR "--background blue", "RRGGBB", 2},
        {SMALL PAIR "--fit squeeze", "crop or pad", 2},
        {SMALL PAIR "--fps 0", "--fps", 2},
        {SMALL PAIR "--manifest x", "either pictures or a manifest", 2},
        {SMALL PAIR "--prompt fox", "2 pictures and 1 prompts", 2},
        {SMALL PAIR "--prompt fox --prompt cat --prompt-a fox", "either", 2},
        {"-m %m/pipelines/sd1 --size big " PAIR, "--size", 2}};
    for (size_t i = 0; i < ARRAY_LEN(wrong); i++) {
        REQUIRE_EQ(run(wrong[i].args), wrong[i].code);
        REQUIRE(says(wrong[i].says) && one_line());
    }
}

/* Ctrl-C: what is finished stays. */
static void test_interrupt(void) {
    char model[1024], a[1024], b[1024];
    snprintf(model, sizeof model, "%s/pipelines/sd1", golden);
    snprintf(a, sizeof a, "%s/morph/a.png", golden);
    snprintf(b, sizeof b, "%s/morph/b.png", golden);
    pid_t child = fork();
    REQUIRE(child >= 0);
    if (child == 0) {
        if (chdir(dir) || !freopen("stopped.txt", "w", stderr)) _exit(9);
        execl(exe, exe, "morph", "-m", model, "--device", "cpu", "--size", "128", "--frames", "300", "--steps", "500", "-o", "stopped", a, b, (char *)NULL);
        _exit(9);
    }
    for (int i = 0; i < 600 && !os_file_exists(in_dir("stopped/frame-0001.png")); i++) usleep(50000);
    REQUIRE(kill(child, SIGINT) == 0);
    int st = 0;
    REQUIRE(waitpid(child, &st, 0) == child);
    REQUIRE(WIFEXITED(st));
    REQUIRE_EQ(WEXITSTATUS(st), 130);
    size_t bytes = 0;
    char *text = text_of("stopped.txt", &bytes);
    REQUIRE(strstr(text, "stopped: 1 of 300 frames are in stopped"));
    mem_free(text);
    REQUIRE(os_file_exists(in_dir("stopped/frame-0001.png")) && !os_file_exists(in_dir("stopped/strip.png")));
}

int main(int argc, char **argv) {
    char full[1024], place[1024], cmd[1024];
    if (argc != 3) return printf("usage: test_morph_cli PATH_OF_IMAGO GOLDEN_DIR\n"), 2;
    REQUIRE(realpath(argv[1], full) && realpath(argv[2], place) && mkdtemp(dir));
    exe = full, golden = place;
    int64_t live = mem_live();
    test_files();
    test_chain();
    test_video();
    test_inbetween();
    test_manifest();
    test_messages();
    test_interrupt();
    REQUIRE_EQ(mem_live(), live);
    snprintf(cmd, sizeof cmd, "rm -r %s", dir);
    REQUIRE_EQ(system(cmd), 0);
    printf("passed\n");
    return 0;
}
