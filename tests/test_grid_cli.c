/* test_grid_cli.c: `imago train-grid` and `imago grid` as a user runs them, on a tiny network and the small corpus: files and
 * their texts, a run that is stopped and goes on to the same bytes, and one clear line for what is wrong.
 * usage: test_grid_cli PATH_OF_IMAGO GOLDEN_DIR
 * SPDX-License-Identifier: MIT */
#include "file/image.h"
#include "cli_run.h"
#include <cjson/cJSON.h>
#include <unistd.h>

static char dir[] = "test_grid_cli.XXXXXX";
static const char *exe, *golden;

static int run_as(const char *command, const char *args) {
    char head[1400], models[1100];
    snprintf(head, sizeof head, "cd %s && '%s' %s --device cpu --precision f32 --threads 1", dir, exe, command);
    snprintf(models, sizeof models, "'%s/pipelines/sd1'", golden);
    char data[1100];
    snprintf(data, sizeof data, "'%s/corpus'", golden);
    return cli_run(head, args, "md", (const char *[]){models, data});
}

static int grid(const char *args) {
    char all[2048];
    snprintf(all, sizeof all, "-m %%m -g g.safetensors --steps 2 %s", args);
    return run_as("grid", all);
}

static const char *in_dir(const char *name) {
    static char path[4][300];
    static int turn;
    turn = (turn + 1) % 4;
    snprintf(path[turn], sizeof path[turn], "%s/%s", dir, name);
    return path[turn];
}

static bool same_bytes(const char *a, const char *b) {
    uint8_t *x, *y;
    size_t nx, ny;
    REQUIRE_OK(file_read(in_dir(a), (size_t)1 << 26, &x, &nx));
    REQUIRE_OK(file_read(in_dir(b), (size_t)1 << 26, &y, &ny));
    bool same = nx == ny && memcmp(x, y, nx) == 0;
    mem_free(x);
    mem_free(y);
    return same;
}

static bool same_picture(const char *a, const char *b) {
    image x = {0}, y = {0};
    REQUIRE_OK(image_load(in_dir(a), &x));
    REQUIRE_OK(image_load(in_dir(b), &y));
    bool same = x.w == y.w && x.h == y.h && memcmp(x.px, y.px, (size_t)(x.w * x.h * 3)) == 0;
    image_free(&x);
    image_free(&y);
    return same;
}

static void make_pictures(void) {
    for (int i = 0; i < 5; i++) {
        image im;
        char name[16];
        REQUIRE_OK(image_create(64 + 8 * i, 64, 3, &im));
        for (int k = 0; k < im.w * im.h; k++) im.px[3 * k] = (uint8_t)(50 * i), im.px[3 * k + 1] = (uint8_t)k, im.px[3 * k + 2] = 90;
        snprintf(name, sizeof name, "p%d.png", i);
        REQUIRE_OK(image_save_png(in_dir(name), &im, NULL, 0));
        image_free(&im);
    }
}

#define TRAIN "-m %m --data %d --size 64 --batch 2 --rank 2 --log-every 1 "
static void test_training(void) {
    REQUIRE_EQ(run_as("train-grid", TRAIN "--steps 4 -o g.safetensors"), 0);
    REQUIRE(says("g.safetensors") && os_file_exists(in_dir("g.run/train.log")) && os_file_exists(in_dir("g.run/sheet-0000004.png")));
    REQUIRE_EQ(run_as("train-grid", TRAIN "--steps 4 -o again.safetensors"), 0);
    REQUIRE(same_bytes("g.safetensors", "again.safetensors"));
    REQUIRE_EQ(run_as("train-grid", TRAIN "--steps 4 --seed 1 -o other.safetensors"), 0);
    REQUIRE(!same_bytes("g.safetensors", "other.safetensors"));
    REQUIRE_EQ(run_as("train-grid", TRAIN "--steps 4 -o g.safetensors"), 2);
    REQUIRE(says("is there already") && one_line());
    static const struct { const char *args, *text; } wrong[] = {
        {"--steps 4 --layout edit,oval", "layout 'oval'"}, {"--steps 0", "--steps"}, {"--sight far", "--sight far"}, {"--given dirty", "--given dirty"},
        {"--geometry cube", "--geometry cube"}, {"--adapter loha", "adapter 'loha'"}, {"--adapter coft", "adapter 'coft'"}, {"--lr 2", "learning rate"},
        {"--batch 0", "batch"}, {"--query-banks --geometry canvas", "--query-banks"}, {"--size 65", "size 65"}, {"-o g.bin", "g.bin"}};
    for (size_t i = 0; i < ARRAY_LEN(wrong); i++) {
        char args[300];
        snprintf(args, sizeof args, "%s-o w.safetensors %s", TRAIN, wrong[i].args);
        REQUIRE_EQ(run_as("train-grid", args), 2);
        REQUIRE(says(wrong[i].text) && one_line());
    }
    for (int i = 0; i < 3; i++) { /* every other way of it takes a step */
        static const char *const ways[] = {"--adapter oft --block 4 --sight all --given noised", "--adapter boft --layout edit,recon1 --query-banks", "--geometry canvas --layout compose --no-slots"};
        char args[300];
        snprintf(args, sizeof args, "%s--steps 1 --overwrite -o way.safetensors %s", TRAIN, ways[i]);
        REQUIRE_EQ(run_as("train-grid", args), 0);
        REQUIRE_EQ(run_as("grid", "edit p0.png p1.png p2.png -m %m -g way.safetensors --steps 1 --overwrite -o way"), 0);
    }
}

/* Stopped in the middle and gone on with: the same bytes. */
static void test_resume(void) {
    char stop[1400];
    snprintf(stop, sizeof stop, "cd %s && (timeout -s INT 100 '%s' train-grid --device cpu --precision f32 --threads 1 -m '%s/pipelines/sd1' --data '%s/corpus' --size 64 --batch 2 "
             "--rank 2 --log-every 1 --steps 4 -o cut.safetensors & pid=$!; for i in $(seq 400); do [ $(cat cut.run/train.log 2>/dev/null | wc -l) -ge 2 ] && break; sleep 0.02; done; "
             "kill -INT $pid; wait $pid)", dir, exe, golden, golden);
    int code = cli_run(stop, "", "", NULL);
    if (code == 0) return (void)printf("not stopped in time: nothing to go on with\n");
    REQUIRE(code == 130 && says("the same command goes on"));
    REQUIRE_EQ(run_as("train-grid", TRAIN "--steps 5 -o cut.safetensors --seed 7"), 2);
    REQUIRE(says("was begun with other settings"));
    REQUIRE_EQ(run_as("train-grid", TRAIN "--steps 4 -o cut.safetensors"), 0);
    REQUIRE(same_bytes("cut.safetensors", "g.safetensors"));
}

static void test_files(void) {
    arena a = {0};
    png_text *text = NULL;
    int n = 0;
    REQUIRE_EQ(grid("--cell tl=p0.png --cell tr=p1.png --cell bl=p2.png -o out"), 0);
    REQUIRE(says("out/br.png  seed 3") && says("out/grid.png"));
    REQUIRE_EQ(grid("edit p0.png p1.png p2.png -o edit"), 0);
    REQUIRE(same_picture("out/br.png", "edit/br.png")); /* the task says the same in fewer words */
    image im = {0};
    REQUIRE_OK(image_load(in_dir("out/grid.png"), &im));
    REQUIRE(im.w == 64 * 2 + 2 && im.h == 64 * 2 + 2);
    image_free(&im);
    REQUIRE_OK(png_read_text(in_dir("out/br.png"), &a, &text, &n));
    REQUIRE(n == 1 && strcmp(text[0].key, "imago") == 0);
    json *j = NULL;
    REQUIRE_OK(json_parse(text[0].text, strlen(text[0].text), "br.png", &j));
    REQUIRE(strcmp(cJSON_GetObjectItem(j, "grid")->valuestring, "g.safetensors") == 0 && strcmp(cJSON_GetObjectItem(j, "layout")->valuestring, "edit") == 0);
    REQUIRE(strcmp(cJSON_GetObjectItem(cJSON_GetArrayItem(cJSON_GetObjectItem(j, "cells"), 1), "source")->valuestring, "p1.png") == 0);
    json_free(j);
    arena_fini(&a);
    REQUIRE_EQ(grid("edit p0.png p1.png p2.png -s 4 -o seed"), 0);
    REQUIRE(!same_picture("seed/br.png", "edit/br.png"));
    REQUIRE_EQ(grid("edit p0.png p1.png p2.png --ref-strength 0 -o free"), 0);
    REQUIRE_EQ(grid("edit p3.png p4.png p1.png --ref-strength 0 -o free2"), 0);
    REQUIRE(same_picture("free/br.png", "free2/br.png") && !same_picture("free/br.png", "edit/br.png"));
    static const char *const tasks[] = {"subject p0.png --prompt 'a fox' -o t1", "subject p0.png p1.png -o t2", "subject p0.png p1.png p2.png -p x -o t3",
        "subject p0.png p1.png p2.png p3.png p4.png -o t5", "compose p0.png p1.png -p 'two things' -o t6", "--grid-size 1x2 --cell l=p0.png -o t7",
        "--grid-size 1x3 --cell m=p0.png --cell-prompt l='a cat' -o t8", "--cell bl=p1.png --size 64x128 --fit pad --canvas -o t9"};
    for (size_t i = 0; i < ARRAY_LEN(tasks); i++) REQUIRE_EQ(grid(tasks[i]), 0);
}

static void test_wrong(void) {
    static const struct { const char *args, *text; int code; } wrong[] = {
        {"--cell xx=p0.png", "no such cell", 2}, {"--cell tl", "NAME=", 2}, {"--cell l=p0.png", "has tl, tr, bl, br", 2},
        {"", "no cell is given", 2}, {"--cell tl=p0.png --cell tl=p1.png", "given already", 2},
        {"--cell tl=p0.png --cell tr=p0.png --cell bl=p0.png --cell br=p0.png", "all 4 cells are given", 2},
        {"--cell tl=none.png", "none.png", 1}, {"--cell tl=p0.png --size 63", "63x63", 2}, {"--cell tl=p0.png --size big", "--size", 2},
        {"--grid-size 3x3 --cell tl=p0.png", "--grid-size", 2}, {"--grid-size 1x2 --layout edit --cell l=p0.png", "layout edit", 2},
        {"--layout odd --cell tl=p0.png", "layout 'odd'", 2}, {"edit p0.png p1.png", "usage: imago grid edit", 2}, {"subject", "usage: imago grid subject", 2},
        {"compose p0.png", "usage: imago grid compose", 2}, {"paint p0.png", "'paint'", 2}, {"edit p0.png p1.png p2.png --cell tl=p0.png", "leave out --cell", 2},
        {"--cell tl=p0.png --cell-prompt tl=x", "that cell is given", 2}, {"--cell tl=p0.png --ref-strength -1", "of the given cells -1", 2},
        {"--cell tl=p0.png --strength 9", "strength 9", 2}, {"--cell tl=p0.png --sampler best", "sampler 'best'", 2}, {"--cell tl=p0.png --fit round", "--fit", 2},
        {"--cell tl=p0.png --steps 2000", "steps 2000", 2}, {"edit p0.png p1.png p2.png -o edit", "is there already", 2}};
    for (size_t i = 0; i < ARRAY_LEN(wrong); i++) {
        int code = grid(wrong[i].args);
        if (code != wrong[i].code || !says(wrong[i].text) || !strstr(out, "imago: ")) printf("wrong wish %zu: code %d\n%s", i, code, out), exit(1);
    }
    REQUIRE_EQ(run_as("grid", "-m %m --cell tl=p0.png"), 2);
    REQUIRE(says("no grid adapter") && one_line());
    REQUIRE_EQ(run_as("grid", "-m %m -g %m/unet/diffusion_pytorch_model.safetensors --cell tl=p0.png -o w"), 1);
    REQUIRE(says("is no grid adapter"));
    REQUIRE_EQ(run_as("generate", "-m %m -p fox --adapter g.safetensors -o no.png"), 1);
    REQUIRE(says("is a grid adapter"));
    char args[300];
    snprintf(args, sizeof args, "-m '%s/pipelines/inpaint' -g g.safetensors --cell tl=p0.png -o w", golden);
    REQUIRE_EQ(run_as("grid", args), 1);
    REQUIRE(says("make no grids"));
}

/* Numbers that must be what they are whatever the network paints. */
static void test_eval(void) {
    char args[1400];
    const char *judge = "assets/squeezenet/squeezenet_v1.0.safetensors";
    static const char tasks[] = "style_from\tstyle_to\tref_key\tref_name\tquery_key\tquery_name\n3d\tflat\t1f98a\tfox\t1fad6\tteapot\nline\tnoto\t1f34e\tapple\t1fad6\tteapot\n";
    REQUIRE_OK(file_write_atomic(in_dir("tasks.tsv"), tasks, strlen(tasks)));
    REQUIRE_OK(file_write_atomic(in_dir("bad.tsv"), "x\n3d\toil\t1f98a\tfox\t1fad6\tteapot\n", 36));
    snprintf(args, sizeof args, "-m %%m -g g.safetensors --data %%d --tasks tasks.tsv --steps 1 --judge '%s/../../%s' -o report --json", golden, judge);
    REQUIRE_EQ(run_as("eval grid", args), 0);
    const char *begin = strchr(out, '{');
    json *j = NULL;
    REQUIRE(begin && json_parse(begin, (size_t)(strrchr(out, '}') - begin) + 1, "report", &j) == OK);
    REQUIRE_EQ(cJSON_GetObjectItem(j, "tasks")->valueint, 2);
    const cJSON *query = cJSON_GetObjectItem(j, "the query"), *filled = cJSON_GetObjectItem(j, "filled");
    REQUIRE(query && filled && cJSON_GetObjectItem(query, "style")->valuedouble == 0); /* the query is in the other style */
    REQUIRE(cJSON_GetObjectItem(filled, "pixels")->valuedouble > 0.05 && cJSON_GetObjectItem(filled, "features")->valuedouble > 0.05);
    json_free(j);
    image im = {0};
    REQUIRE_OK(image_load(in_dir("report/tasks.png"), &im));
    REQUIRE(im.w > 7 * 64 && im.h > 2 * 64 && os_file_exists(in_dir("report/eval.json")));
    image_free(&im);
    REQUIRE_EQ(run_as("eval grid", args), 2);
    REQUIRE(says("report/eval.json is there already") && one_line());
    snprintf(args, sizeof args, "-m %%m -g g.safetensors --data %%d --tasks bad.tsv --judge '%s/../../%s'", golden, judge);
    REQUIRE_EQ(run_as("eval grid", args), 1);
    REQUIRE(says("bad.tsv:2") && one_line());
    REQUIRE_EQ(run_as("eval grid", "-m %m --data %d"), 2);
    REQUIRE(says("no grid adapter") && one_line());
    REQUIRE_EQ(run_as("eval grid", "-m %m -g g.safetensors"), 2);
    REQUIRE(says("no data") && one_line());
}

int main(int argc, char **argv) {
    REQUIRE(argc == 3 && mkdtemp(dir));
    exe = argv[1], golden = argv[2];
    make_pictures();
    test_training();
    test_resume();
    test_files();
    test_wrong();
    test_eval();
    char rm[64];
    snprintf(rm, sizeof rm, "rm -r %s", dir);
    REQUIRE_EQ(system(rm), 0);
    printf("grid cli: ok\n");
    return 0;
}
