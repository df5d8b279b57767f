/* test_generate_cli.c: `imago generate` as a user runs it: exit codes, messages, files, events, a picture made again from its own
 * texts, Ctrl-C.   usage: test_generate_cli PATH_OF_IMAGO GOLDEN_DIR
 * SPDX-License-Identifier: MIT */
#include "file/image.h"
#include "cli_run.h"
#include <cjson/cJSON.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

static char dir[] = "test_generate_cli.XXXXXX";
static const char *exe, *golden;

/* Runs "exe generate --device cpu --precision f32 args" in dir; %m in args is the folder of tiny pipelines. */
static int run(const char *args) {
    char head[1200], models[1100];
    snprintf(head, sizeof head, "cd %s && '%s' generate --device cpu --precision f32", dir, exe);
    snprintf(models, sizeof models, "'%s/pipelines'", golden);
    return cli_run(head, args, "m", (const char *[]){models});
}

static const char *in_dir(const char *name) {
    static char path[2][256];
    static int turn;
    turn = !turn;
    snprintf(path[turn], sizeof path[turn], "%s/%s", dir, name);
    return path[turn];
}

static image load(const char *name) {
    image im = {0};
    REQUIRE_OK(image_load(in_dir(name), &im));
    return im;
}

static bool same(const char *a, const char *b) {
    image x = load(a), y = load(b);
    bool equal = x.w == y.w && x.h == y.h && x.channels == y.channels && memcmp(x.px, y.px, (size_t)x.w * (size_t)x.h * (size_t)x.channels) == 0;
    image_free(&x);
    image_free(&y);
    return equal;
}

#define SMALL "-m %m/sd1 --steps 3 --size 48x64 "

static void test_files(void) {
    REQUIRE_EQ(run(SMALL "-p 'a red fox' -n 'a cat' -s 5 -o fox.png"), 0);
    REQUIRE(says("fox.png  seed 5") && says("3 steps of") && says("Stable Diffusion 1.x"));
    image im = load("fox.png");
    REQUIRE(im.w == 48 && im.h == 64 && im.channels == 3);
    image_free(&im);
    REQUIRE_EQ(run(SMALL "-p 'a red fox' -o fox.png"), 2);
    REQUIRE(says("fox.png is there already") && one_line());
    REQUIRE_EQ(run(SMALL "-p 'a red fox' -n 'a cat' -s 5 -o fox.png --overwrite"), 0);
    REQUIRE_EQ(run(SMALL "-p 'a red fox' -n 'a cat' --seed 5 -o again.png"), 0);
    REQUIRE(same("fox.png", "again.png")); /* the same seed, the same picture */
    REQUIRE_EQ(run(SMALL "-p 'a red fox' -n 'a cat' --seed 6 -o other.png"), 0);
    REQUIRE(!same("fox.png", "other.png"));
    REQUIRE_EQ(run(SMALL "-p 'a red fox' -n 'a cat' --seed 5 -b 2 -o pair.png"), 0);
    REQUIRE(says("pair-0001.png  seed 5") && says("pair-0002.png  seed 6"));
    REQUIRE(same("fox.png", "pair-0001.png") && same("other.png", "pair-0002.png"));
    REQUIRE_EQ(run(SMALL "-p fox -s -1"), 0);
    REQUIRE(says("imago-0001.png  seed "));
    REQUIRE_EQ(run(SMALL "-p fox -s -1"), 0);
    REQUIRE(says("imago-0002.png"));
}

static void test_reproduction(void) {
    REQUIRE_EQ(run(SMALL "-p 'a (red:1.3) fox' --cfg 4 --sampler 'DPM++ 2M Karras' --cfg-rescale 0.3 -s 12345678901 -o made.png"), 0);
    REQUIRE_EQ(run("-m %m/sd1 --like made.png -o like.png"), 0);
    REQUIRE(same("made.png", "like.png"));
    REQUIRE_EQ(run("-m %m/sd1 --like made.png --seed 3 -o like3.png"), 0); /* what is given counts */
    REQUIRE(!same("made.png", "like3.png"));
    arena mem = {0};
    png_text *text = NULL;
    int n = 0;
    REQUIRE_OK(png_read_text(in_dir("made.png"), &mem, &text, &n));
    REQUIRE_EQ(n, 2);
    REQUIRE(strcmp(text[0].key, "parameters") == 0 && strcmp(text[1].key, "imago") == 0);
    REQUIRE(strstr(text[0].text, "a (red:1.3) fox\nSteps: 3, Sampler: DPM++ 2M, Schedule type: karras, CFG scale: 4, Seed: 12345678901, Size: 48x64, Model: sd1"));
    /* A1111's own line alone */
    image im = load("made.png");
    REQUIRE_OK(image_save_png(in_dir("a1111.png"), &im, (png_text[]){{"parameters", "a red fox\nNegative prompt: a cat\nSteps: 3, Sampler: Euler a, CFG scale: 7, Seed: 5, Size: 48x64, RNG: CPU"}}, 1));
    REQUIRE_OK(image_save_png(in_dir("bare.png"), &im, NULL, 0));
    image_free(&im);
    arena_fini(&mem);
    REQUIRE_EQ(run("-m %m/sd1 --like a1111.png -o from_a1111.png"), 0);
    REQUIRE(same("fox.png", "from_a1111.png"));
    REQUIRE_EQ(run("-m %m/sd1 --like bare.png -o x.png"), 1);
    REQUIRE(says("carries no settings") && one_line());
}

static void test_inputs(void) {
    char cmd[600];
    REQUIRE_OK(file_write_atomic(in_dir("prompts.txt"), "a red fox\n\n  \nin the snow\n", 25));
    REQUIRE_EQ(run(SMALL "-p @prompts.txt -o 'list-%02d.png'"), 0);
    REQUIRE(says("list-01.png") && says("list-02.png") && !strstr(out, "list-03"));
    snprintf(cmd, sizeof cmd, "cp '%s/pipelines/init.png' '%s/pipelines/mask.png' %s", golden, golden, dir);
    REQUIRE_EQ(system(cmd), 0);
    REQUIRE_EQ(run(SMALL "-p fox --init init.png --strength 0.5 -o i2i.png"), 0);
    REQUIRE_EQ(run(SMALL "-p fox --init init.png --mask mask.png -o paint.png"), 0);
    REQUIRE_EQ(run("-m %m/inpaint --steps 2 -p fox --init init.png --mask mask.png -o paint9.png"), 0);
    REQUIRE_EQ(run("-m %m/inpaint --steps 2 -p fox -o no.png"), 2);
    REQUIRE(says("inpainting model"));
    REQUIRE_EQ(run(SMALL "-p 'a red fox' -n 'a cat' -s 5 --vae %m/sd2/vae -o vae.png"), 0);
    REQUIRE(!same("fox.png", "vae.png"));
    REQUIRE_EQ(run("-m %m/sd2 --steps 2 -p fox --preview --size 64x64 -o preview.png"), 0);
    REQUIRE(os_file_exists(in_dir("preview.preview.png")));
}

static void test_bundled(void) {
    image sheet = {0};
    REQUIRE_OK(file_write_atomic(in_dir("lines.txt"), "a red heart\na bus\na clock\n", 26));
    REQUIRE_EQ(run("-p @lines.txt --steps 2 --cfg 0 -o none-%02d.png --sheet all.png"), 0); /* no --model: the bundled one, if it is beside the program */
    REQUIRE_EQ(run("-p @lines.txt --steps 2 --cfg 1 -o one-%02d.png"), 0);
    REQUIRE(same("none-02.png", "one-02.png"));
    REQUIRE_OK(image_load(in_dir("all.png"), &sheet));
    REQUIRE(sheet.w == 2 * 128 + 2 && sheet.h == 2 * 128 + 2); /* three pictures */
    image_free(&sheet);
}

static void test_events(void) {
    REQUIRE_EQ(run(SMALL "-p fox -o events.png --json"), 0);
    int pictures = 0, done = 0, steps = 0;
    char *end = NULL;
    for (char *line = strtok_r(out, "\n", &end); line; line = strtok_r(NULL, "\n", &end)) {
        cJSON *j = cJSON_Parse(line);
        if (!j) printf("not JSON: %s\n", line);
        REQUIRE(j);
        const char *event = cJSON_GetStringValue(cJSON_GetObjectItem(j, "event")), *stage = cJSON_GetStringValue(cJSON_GetObjectItem(j, "stage"));
        steps += stage && strcmp(stage, "sampling") == 0;
        pictures += strcmp(event, "picture") == 0;
        done += strcmp(event, "done") == 0 && cJSON_GetNumberValue(cJSON_GetObjectItem(j, "seconds_per_step")) > 0;
        cJSON_Delete(j);
    }
    REQUIRE_EQ(pictures, 1);
    REQUIRE_EQ(done, 1);
    REQUIRE_EQ(steps, 4); /* 0 to 3 */
}

static void test_refusals(void) {
    static const struct { const char *args; int code; const char *says; } wrong[] = {
        {"-m %m/sd1", 2, "no prompt"}, {"-m %m/sd1 -p fox --steps 0", 2, "--steps 0"}, {"-m %m/sd1 -p fox --init init.png --strength 0", 2, "--strength 0"},
        {"-m %m/sd1 -p fox --sheet sheet.bmp", 2, "end the name in .png"}, {"-m nowhere.safetensors -p fox", 1, "nowhere.safetensors"},
        {"-m %m/sd1 -p fox --size big", 2, "'big'"}, {"-m %m/sd1 -p fox --size 50x50", 2, "50x50"}, {"-m %m/sd1 -p fox --sampler warp", 2, "'warp'"},
        {"-m %m/sd1 -p fox -o fox.bmp", 2, "end the name in .png"}, {"-m %m/sd1 -p fox -o 'a%s.png'", 2, "place-holder"}, {"-m %m/sd1 -p fox -s x", 2, "'x'"},
        {"-m %m/sd1 -p @none.txt", 1, "none.txt"}, {"-m %m/sd1 -p fox --init none.png", 1, "none.png"}, {"-m %m/sd1 -p fox --mask mask.png", 2, "init"},
        {"-m %m/sd1 -p fox --embedding %m/sd1/unet/diffusion_pytorch_model.safetensors", 1, "embedding"},
        {"-m %m/sd1 -p fox --device vulkan:77", 2, "vulkan:77"}, {"-m %m/sd1 -p fox --steps 3 --like none.png", 1, "none.png"},
        {"-m %m/sd1 -p fox -o nowhere/fox.png --steps 1 --size 48x64", 1, "nowhere"}};
    for (size_t i = 0; i < ARRAY_LEN(wrong); i++) {
        int code = run(wrong[i].args);
        if (code != wrong[i].code) printf("%s: exit code %d, expected %d\n%s", wrong[i].args, code, wrong[i].code, out);
        REQUIRE_EQ(code, wrong[i].code);
        REQUIRE(says(wrong[i].says));
    }
}

/* Ctrl-C: exit code 130 soon, nothing written. */
static void test_interrupt(void) {
    pid_t pid = fork();
    REQUIRE(pid >= 0);
    if (pid == 0) {
        char model[1100];
        snprintf(model, sizeof model, "%s/pipelines/sd1", golden);
        if (chdir(dir) != 0 || !freopen("interrupted.log", "w", stderr)) _exit(99);
        execl(exe, exe, "generate", "-m", model, "-p", "fox", "--device", "cpu", "--precision", "f32", "--steps", "900", "--size", "512x512", "-o", "interrupted.png", (char *)NULL);
        _exit(98);
    }
    int st = 0;
    sleep(2);
    REQUIRE_EQ(kill(pid, SIGINT), 0);
    double start = os_seconds();
    REQUIRE_EQ(waitpid(pid, &st, 0), pid);
    REQUIRE(os_seconds() - start < 20);
    REQUIRE(WIFEXITED(st));
    REQUIRE_EQ(WEXITSTATUS(st), 130);
    REQUIRE(!os_file_exists(in_dir("interrupted.png")));
}

int main(int argc, char **argv) {
    char cmd[100];
    if (argc != 3) return printf("usage: test_generate_cli PATH_OF_IMAGO GOLDEN_DIR\n"), 2;
    exe = argv[1], golden = argv[2];
    REQUIRE(mkdtemp(dir));
    test_files();
    test_reproduction();
    test_inputs();
    test_bundled();
    test_events();
    test_refusals();
    test_interrupt();
    snprintf(cmd, sizeof cmd, "rm -r %s", dir);
    REQUIRE_EQ(system(cmd), 0);
    printf("test_generate_cli: passed\n");
    return 0;
}
