/* test_personalize_cli.c: `imago personalize`, `imago eval adapter` and `imago eval personalize` as
 * a user runs them, on a network of random weights: options reach what they are for, a known change
 * of weights is measured as what it is, and an adapter of strength 0 is the model itself. usage:
 * test_personalize_cli PATH_OF_IMAGO GOLDEN_DIR ASSETS_DIR SPDX-License-Identifier: MIT */
#include "cli_run.h"
#include "eval/eval.h"
#include "family/checkpoint.h"
#include "file/file.h"
#include "file/image.h"
#include <cjson/cJSON.h>
#include <math.h>

static const char *g_exe, *g_golden, *g_assets;
static char g_dir[] = "test_personalize_cli.XXXXXX";
#define LAYER "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"

static int run(const char *args) {
    char head[1100];
    snprintf(head, sizeof head, "'%s'", g_exe);
    return cli_run(head, args, "gda", (const char *[]){g_golden, g_dir, g_assets});
}

static const char *in_dir(const char *name) {
    static char path[4][400];
    static int turn;
    turn = (turn + 1) % 4;
    snprintf(path[turn], sizeof path[0], "%s/%s", g_dir, name);
    return path[turn];
}

static void picture(const char *name, int shade, const char *caption) {
    image im;
    char text[400];
    REQUIRE_OK(image_create(40, 40, 3, &im));
    for (int i = 0; i < 40 * 40 * 3; i++) im.px[i] = (uint8_t)(i % 3 == 0 ? shade : i / 120 * 5);
    snprintf(text, sizeof text, "%s.png", in_dir(name));
    REQUIRE_OK(image_save_png(text, &im, NULL, 0));
    image_free(&im);
    snprintf(text, sizeof text, "%s.txt", in_dir(name));
    REQUIRE_OK(file_write_atomic(text, caption, strlen(caption)));
}

static cJSON *said(void) {
    cJSON *j = cJSON_Parse(strchr(out, '{') ? strchr(out, '{') : "");
    if (!j) printf("no JSON: %s\n", out);
    REQUIRE(j);
    return j;
}

static double number_of(const cJSON *o, const char *key) {
    return cJSON_GetNumberValue(cJSON_GetObjectItem(o, key));
}

/* ---- eval adapter ---- */

/* Half of the weight added to it: directions stay, norms grow by half. */
static void known_change(void) {
    static const char key[] = LAYER ".weight";
    char model[1100], file[400], name[200] = "lora_unet_" LAYER;
    checkpoint *c = NULL;
    adapter_measures m;
    snprintf(model, sizeof model, "%s/pipelines/sd1", g_golden);
    snprintf(file, sizeof file, "%s", in_dir("half.safetensors"));
    REQUIRE_OK(checkpoint_open(model, &(checkpoint_options){0}, &c));
    const part_tensor *t = checkpoint_find(c, PART_UNET, key);
    REQUIRE(t && t->n_dims == 2);
    float *w = mem_alloc(sizeof *w * (size_t)t->count);
    REQUIRE_OK(part_tensor_fetch(t, DT_F32, w));
    for (int64_t i = 0; i < t->count; i++) w[i] *= 0.5f;
    for (char *at = name; *at; at++) *at = *at == '.' ? '_' : *at;
    strcat(name, ".diff");
    const safetensor d = {
        .name = name, .dtype = DT_F32, .n_dims = 2, .dim = {t->dim[0], t->dim[1]}, .data = w};
    REQUIRE_OK(safetensors_write(file, &d, 1, NULL, 0));
    REQUIRE_OK(adapter_measure(model, file, &m));
    REQUIRE(m.n == 1 && strcmp(m.layer[0].layer, LAYER) == 0 &&
            strcmp(m.layer[0].part, "unet") == 0);
    REQUIRE(fabs(m.layer[0].change - 0.5) < 1e-6 && fabs(m.layer[0].norm - 0.5) < 1e-6);
    REQUIRE(m.layer[0].cosine < 1e-6 && fabs(m.layer[0].energy_change) < 1e-7);
    REQUIRE(isnan(m.layer[0].orthogonality) && m.layer[0].energy > 0.5 && m.layer[0].energy < 1);
    adapter_measures_fini(&m);
    mem_free(w);
    checkpoint_close(c);
}

/* The largest of a value over all layers of what `eval adapter --json` printed. */
static double largest(const cJSON *j, const char *key) {
    double most = 0;
    const cJSON *l, *list = cJSON_GetObjectItem(j, "layers");
    REQUIRE(cJSON_GetArraySize(list) > 10);
    cJSON_ArrayForEach(l, list) most = fmax(most, fabs(number_of(l, key)));
    return most;
}

static void learn(void) {
    static const char common[] =
        "personalize '%d/refs' -m '%g/pipelines/sd1' --device cpu --precision f32 "
        "--threads 1 --size 32 --class disc --steps 12 --lr 1e-2";
    char args[700];
    snprintf(
        args, sizeof args,
        "%s --adapter lora --rank 4 --class-images 2 --noise-offset 0.05 -o '%%d/lora.safetensors'",
        common);
    REQUIRE_EQ(run(args), 0);
    REQUIRE(says("numbers to train. Memory: weights"));
    snprintf(
        args, sizeof args,
        "%s --adapter boft --block 4 --factors 2 --optimizer adamw8bit --format peft -o '%%d/boft'",
        common);
    REQUIRE_EQ(run(args), 0);
    snprintf(args, sizeof args,
             "%s --adapter none --train-embedding --token '<disc>' -o '%%d/word.safetensors'",
             common);
    REQUIRE_EQ(run(args), 0);
    snprintf(args, sizeof args, "%s --format pickle", common);
    REQUIRE(run(args) != 0 && says("svd-lora") && one_line());
    snprintf(args, sizeof args, "%s --adapter oft --format diffusers -o '%%d/x.safetensors'",
             common);
    REQUIRE(run(args) != 0 && says("LoRA only") && one_line());
}

static void measures(void) {
    REQUIRE_EQ(run("eval adapter '%d/boft' -m '%g/pipelines/sd1' --json"), 0);
    cJSON *j = said();
    REQUIRE(largest(j, "change") > 1e-2 && largest(j, "degrees") > 0.5);
    REQUIRE(largest(j, "orthogonality") < 1e-5 && largest(j, "cosine") < 1e-5 &&
            largest(j, "norm") < 1e-5);
    REQUIRE(largest(j, "energy_change") < 1e-6);
    cJSON_Delete(j);
    REQUIRE_EQ(run("eval adapter '%d/lora.safetensors' -m '%g/pipelines/sd1' --json"), 0);
    j = said();
    REQUIRE(largest(j, "cosine") > 1e-3 && largest(j, "norm") > 1e-3);
    cJSON_Delete(j);
    REQUIRE_EQ(run("eval adapter '%d/lora.safetensors' -m '%g/pipelines/sd1'"), 0);
    REQUIRE(says("largest of all layers"));
    REQUIRE(run("eval adapter '%d/lora.safetensors'") != 0 && says("--model") && one_line());
}

static void compares(void) {
    REQUIRE_EQ(run("eval personalize '%d/lora.safetensors:0' '%d/lora.safetensors' -m "
                   "'%g/pipelines/sd1' --device cpu "
                   "--precision f32 --threads 1 --size 32 --steps 2 --references '%d/refs' "
                   "--targets '%d/targets' "
                   "--among '%d/among' --judge '%a/squeezenet/squeezenet_v1.0.safetensors' -o "
                   "'%d/report' --json"),
               0);
    cJSON *j = said();
    const cJSON *rows = cJSON_GetObjectItem(j, "adapters"), *base = cJSON_GetArrayItem(rows, 0),
                *none = cJSON_GetArrayItem(rows, 2), *lora = cJSON_GetArrayItem(rows, 3);
    REQUIRE_EQ(cJSON_GetArraySize(rows), 4);
    REQUIRE(number_of(base, "drift") == 0 && number_of(none, "drift") == 0 &&
            number_of(lora, "drift") > 1e-4);
    REQUIRE(number_of(none, "references") ==
            number_of(base, "references")); /* captions without the token */
    REQUIRE(number_of(lora, "references") != number_of(base, "references"));
    REQUIRE(number_of(lora, "targets") > 0 && number_of(lora, "targets") < 1 &&
            number_of(lora, "diversity") > 0);
    const char *nearest = cJSON_GetStringValue(cJSON_GetObjectItem(lora, "nearest"));
    REQUIRE(nearest && (strcmp(nearest, "red") == 0 || strcmp(nearest, "blue") == 0));
    double drift = number_of(lora, "drift"), likeness = number_of(lora, "targets");
    cJSON_Delete(j);
    REQUIRE(remove(in_dir("report/eval.json")) == 0); /* as after a kill: the pictures are there */
    REQUIRE_EQ(run("eval personalize '%d/lora.safetensors' -m '%g/pipelines/sd1' --device cpu "
                   "--precision f32 --threads 1 --size 32 --steps 2 --references '%d/refs' "
                   "--targets '%d/targets' "
                   "--judge '%a/squeezenet/squeezenet_v1.0.safetensors' -o '%d/report' --json"),
               0);
    REQUIRE(!strstr(out, "strength 1")); /* no model was opened with it: nothing was missing */
    j = said();
    lora = cJSON_GetArrayItem(cJSON_GetObjectItem(j, "adapters"), 2);
    REQUIRE(number_of(lora, "drift") == drift && number_of(lora, "targets") == likeness);
    cJSON_Delete(j);
    image sheet;
    REQUIRE_OK(image_load(in_dir("report/sheet.png"), &sheet));
    REQUIRE(sheet.w == 2 * 34 - 2 && sheet.h == 5 * 34 - 2);
    image_free(&sheet);
    REQUIRE(run("eval personalize '%d/lora.safetensors' -m '%g/pipelines/sd1' --references "
                "'%d/refs' --targets '%d/targets' "
                "-o '%d/report'") != 0 &&
            says("--overwrite") && one_line());
}

/* With a corpus: shares of its things and styles; stations of a run are one curve. */
static void asks_for_words(void) {
    REQUIRE_OK(os_mkdir_p(in_dir("lora.run")));
    REQUIRE(os_file_exists(in_dir("lora.run/adapter.safetensors")));
    uint8_t *data;
    size_t bytes;
    REQUIRE_OK(file_read(in_dir("lora.safetensors"), (size_t)1 << 24, &data, &bytes));
    REQUIRE_OK(file_write_atomic(in_dir("lora.run/adapter-0000006.safetensors"), data, bytes));
    REQUIRE_OK(file_write_atomic(in_dir("lora.run/adapter-0000012.safetensors"), data, bytes));
    mem_free(data);
    static const char call[] =
        "eval personalize '%d/lora.run/adapter-0000006.safetensors' "
        "'%d/lora.run/adapter-0000012.safetensors' '%d/boft' -m '%g/pipelines/sd1' --device cpu "
        "--precision f32 --threads 1 --size 32 --steps 1 --batch 1 --references '%d/refs' "
        "--targets "
        "'%d/targets' --judge '%a/squeezenet/squeezenet_v1.0.safetensors' --data '%g/corpus' "
        "--subject red -o '%d/words' --json";
    REQUIRE(run(call) != 0 && says("--class") && one_line());
    char with_class[900];
    snprintf(with_class, sizeof with_class, "%s --class disc", call);
    REQUIRE_EQ(run(with_class), 0);
    cJSON *j = said();
    const cJSON *rows = cJSON_GetObjectItem(j, "adapters"), *r;
    REQUIRE_EQ(cJSON_GetArraySize(rows), 5);
    cJSON_ArrayForEach(r, rows) {
        REQUIRE(number_of(r, "thing") >= 0 && number_of(r, "thing") < 1);
        REQUIRE(number_of(r, "style") >= 0 && number_of(r, "style") < 1);
        REQUIRE(number_of(r, "distance") > 0 && number_of(r, "distance") < 2);
    }
    static const char *const curve[] = {"lora", "lora", "boft"};
    for (int i = 2; i < 5; i++)
        REQUIRE(
            strcmp(cJSON_GetStringValue(cJSON_GetObjectItem(cJSON_GetArrayItem(rows, i), "curve")),
                   curve[i - 2]) == 0);
    REQUIRE(number_of(cJSON_GetArrayItem(rows, 2), "drift") ==
            number_of(cJSON_GetArrayItem(rows, 3), "drift")); /* the same file twice */
    cJSON_Delete(j);
    image im;
    REQUIRE_OK(image_load(in_dir("words/picks.png"), &im));
    REQUIRE(im.w == 5 * 34 - 2 && im.h == 32);
    image_free(&im);
    REQUIRE(os_file_exists(in_dir("words/curves.png")));
}

static void report(const char *folder, const char *subject, double base, const char *nearest) {
    char text[1200];
    image im;
    REQUIRE_OK(os_mkdir_p(in_dir(folder)));
    /* lora gains 0.1 then 0.2 at drifts 0.3 and 0.7; boft 0.05 then 0.15 at 0.1 and 0.3 */
    snprintf(
        text, sizeof text,
        "{\"subject\":\"%s\",\"adapters\":["
        "{\"adapter\":\"-\",\"targets\":0.1,\"drift\":0,\"nearest\":\"%s\"},"
        "{\"adapter\":\"with the token\",\"targets\":%g,\"drift\":0,\"nearest\":\"x\"},"
        "{\"adapter\":\"a\",\"curve\":\"lora\",\"targets\":%g,\"drift\":0.3,\"nearest\":\"x\"},"
        "{\"adapter\":\"b\",\"curve\":\"lora\",\"targets\":%g,\"drift\":0.7,\"nearest\":\"%s\"},"
        "{\"adapter\":\"c\",\"curve\":\"boft\",\"targets\":%g,\"drift\":0.1,\"nearest\":\"x\"},"
        "{\"adapter\":\"d\",\"curve\":\"boft\",\"targets\":%g,\"drift\":0.3,\"nearest\":\"x\"}]}",
        subject, nearest, base, base + 0.1, base + 0.2, subject, base + 0.05, base + 0.15);
    char name[200];
    snprintf(name, sizeof name, "%s/eval.json", folder);
    REQUIRE_OK(file_write_atomic(in_dir(name), text, strlen(text)));
    REQUIRE_OK(image_create(32, 32, 3, &im));
    snprintf(name, sizeof name, "%s/picks.png", folder);
    REQUIRE_OK(image_save_png(in_dir(name), &im, NULL, 0));
    image_free(&im);
}

/* All gain 0.15: lora crosses it half way from 0.3 to 0.7, boft at its end. */
static void sums_up(void) {
    report("one", "fox", 0.4, "fox"), report("two", "owl", 0.6, "fox");
    REQUIRE_EQ(run("eval personalize --summary '%d/one' '%d/two' -o '%d/all' --json"), 0);
    cJSON *j = said();
    const cJSON *curves = cJSON_GetObjectItem(j, "curves"), *lora = cJSON_GetArrayItem(curves, 0),
                *boft = cJSON_GetArrayItem(curves, 1);
    static const double want[2][3] = {{0.225, 0.35, 0.5}, {0.15, 0.225, 0.3}};
    for (int c = 0; c < 2; c++)
        for (int l = 0; l < 3; l++)
            REQUIRE(fabs(cJSON_GetArrayItem(
                             cJSON_GetObjectItem(c ? boft : lora, "drift_at_equal_likeness"), l)
                             ->valuedouble -
                         want[c][l]) < 1e-9);
    REQUIRE(number_of(j, "base_nearest") == 1 && number_of(j, "asked_nearest") == 2);
    REQUIRE(number_of(lora, "nearest") == 2 && number_of(boft, "nearest") == 0);
    REQUIRE(number_of(boft, "less_drift_than_first") == 2);
    const cJSON *last = cJSON_GetArrayItem(cJSON_GetObjectItem(lora, "points"), 2);
    REQUIRE(fabs(number_of(last, "targets") - 0.7) < 1e-9);
    cJSON_Delete(j);
    image im;
    REQUIRE_OK(image_load(in_dir("all/sheet.png"), &im));
    REQUIRE(im.w == 32 && im.h == 66);
    image_free(&im);
    REQUIRE_EQ(run("eval personalize --summary '%d/one' '%d/two'"), 0);
    REQUIRE(says("2 subjects") && says("2 of 2"));
    REQUIRE(run("eval personalize --summary '%d/one' '%d/words'") != 0 && says("other curves") &&
            one_line());
}

int main(int argc, char **argv) {
    if (argc != 4)
        return printf("usage: test_personalize_cli PATH_OF_IMAGO GOLDEN_DIR ASSETS_DIR\n"), 2;
    g_exe = argv[1], g_golden = argv[2], g_assets = argv[3];
    REQUIRE(mkdtemp(g_dir));
    static const char *const folders[] = {"refs", "targets", "among", "among/red", "among/blue"};
    for (size_t i = 0; i < ARRAY_LEN(folders); i++) REQUIRE_OK(os_mkdir_p(in_dir(folders[i])));
    picture("refs/a", 250, "a photo of sks disc"), picture("refs/b", 220, "a sks disc in red");
    picture("targets/a", 240, "a disc in blue"), picture("targets/b", 200, "a disc on a table");
    picture("among/red/a", 250, "x"), picture("among/blue/a", 10, "x");
    known_change();
    learn();
    measures();
    compares();
    asks_for_words();
    sums_up();
    char cmd[64];
    snprintf(cmd, sizeof cmd, "rm -rf '%s'", g_dir);
    REQUIRE(system(cmd) == 0);
    printf("passed\n");
    return 0;
}
