/* test_info.c: `imago info` and `imago convert` as a user runs them: what they print, what they refuse, what is left on disk.
 * usage: test_info PATH_OF_IMAGO GOLDEN_DIR
 * SPDX-License-Identifier: MIT */
#include "adapter/adapter_file.h"
#include "file/file.h"
#include "file/image.h"
#include "cli_run.h"
#include <cjson/cJSON.h>

static const char *exe, *golden;
static char dir[] = "test_info.XXXXXX";

/* Runs "exe args"; %g in args is the golden folder, %d the scratch one. Exit code; out has stdout and stderr. */
static int run(const char *args) {
    char head[1100];
    snprintf(head, sizeof head, "'%s'", exe);
    return cli_run(head, args, "gd", (const char *[]){golden, dir});
}

static const char *text_of(const cJSON *j, const char *name) { return cJSON_GetStringValue(cJSON_GetObjectItem(j, name)); }
static double number_of(const cJSON *j, const char *name) { return cJSON_GetNumberValue(cJSON_GetObjectItem(j, name)); }

static const char *in_dir(const char *name) {
    static char path[256];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    return path;
}

static void test_models(void) {
    REQUIRE_EQ(run("info '%g/checkpoints/sd1'"), 0);
    REQUIRE(says("model: Stable Diffusion 1.x") && says("layout: diffusers folder") && says("prediction: epsilon") && says("  BF16: 244"));
    REQUIRE_EQ(run("info --json '%g/checkpoints/sd2.safetensors'"), 0);
    cJSON *j = cJSON_Parse(out);
    REQUIRE(j && !strcmp(text_of(j, "kind"), "model") && !strcmp(text_of(j, "family"), "sd2") && !strcmp(text_of(j, "prediction"), "v_prediction"));
    const cJSON *unet = cJSON_GetObjectItem(cJSON_GetObjectItem(j, "parts"), "unet");
    REQUIRE(number_of(unet, "tensors") == 684 && number_of(cJSON_GetObjectItem(unet, "config"), "cross_attention_dim") == 8);
    cJSON_Delete(j);
    REQUIRE_EQ(run("info '%g/checkpoints/sd1_q8.gguf' --prediction v"), 0);
    REQUIRE(says("layout: GGUF") && says("Q8_0: 33") && says("prediction_from: --prediction"));
    REQUIRE_EQ(run("info '%g/checkpoints/sd1/vae'"), 1);
    REQUIRE(says("--vae") && one_line());
}

static void test_others(void) {
    float v[8] = {0};
    const safetensor lora[] = {{.name = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k.lora_down.weight", .dtype = DT_F32, .n_dims = 2, .dim = {4, 768}},
                               {.name = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k.lora_up.weight", .dtype = DT_F32, .n_dims = 2, .dim = {320, 4}}};
    safetensor t[2];
    float *zeros = mem_zalloc(4 * 768 * 4);
    for (int i = 0; i < 2; i++) t[i] = lora[i], t[i].data = zeros;
    REQUIRE_OK(safetensors_write(in_dir("lora.safetensors"), t, 2, NULL, 0));
    mem_free(zeros);
    REQUIRE_EQ(run("info '%d/lora.safetensors'"), 0);
    REQUIRE(says("kind: adapter") && says("adapter: LoRA") && says("layout: kohya") && says("layers: 1") && says("rank: 4") && says("base: Stable Diffusion 1.x"));
    REQUIRE_OK(safetensors_write(in_dir("word.safetensors"), &(safetensor){.name = "emb_params", .dtype = DT_F32, .n_dims = 2, .dim = {2, 4}, .data = v}, 1, NULL, 0));
    REQUIRE_EQ(run("info '%d/word.safetensors'"), 0);
    REQUIRE(says("textual inversion") && says("vectors: 2") && says("width: 4"));
    image im = {0};
    REQUIRE_OK(image_create(3, 2, 3, &im));
    REQUIRE_OK(image_save_png(in_dir("a.png"), &im, &(png_text){"parameters", "a cat\x1b[31m\nSteps: 20"}, 1));
    image_free(&im);
    REQUIRE_EQ(run("info '%d/a.png'"), 0);
    REQUIRE(says("kind: picture") && says("width: 3") && says("height: 2") && says("parameters: a cat?[31m\nSteps: 20"));
    REQUIRE_EQ(run("info '%g/make_checkpoints.py'"), 1);
    REQUIRE(says("neither a model") && one_line());
    REQUIRE_EQ(run("info '%d/none'"), 1);
    REQUIRE(says("no such file") && one_line());
    REQUIRE_EQ(run("info"), 2);
    REQUIRE(says("FILE|FOLDER") && one_line());
    REQUIRE_EQ(run("info a b"), 2);
    REQUIRE(says("'b' is one too many"));
    REQUIRE_EQ(run("info --help"), 0);
    REQUIRE(says("usage: imago info FILE|FOLDER [options]"));
}

static void test_convert(void) {
    REQUIRE_EQ(run("convert '%g/checkpoints/sd1' -o '%d/one.safetensors' --precision f16"), 0);
    REQUIRE_EQ(run("info --json '%d/one.safetensors'"), 0);
    cJSON *j = cJSON_Parse(out);
    const cJSON *types = cJSON_GetObjectItem(cJSON_GetObjectItem(cJSON_GetObjectItem(j, "parts"), "text_encoder"), "types");
    REQUIRE(types && number_of(types, "F16") == 36 && cJSON_GetArraySize(types) == 1 && !strcmp(text_of(j, "layout"), "single file"));
    cJSON_Delete(j);
    REQUIRE_EQ(run("convert '%g/checkpoints/sd1' -o '%d/one.safetensors'"), 2);
    REQUIRE(says("exists already") && says("--overwrite") && one_line());
    REQUIRE_EQ(run("convert --output='%d/one.safetensors' --overwrite -- '%g/checkpoints/sd1_q8.gguf'"), 0);
    REQUIRE(says("single file, f16")); /* the largest tensor is a convolution in f16 */
    REQUIRE_EQ(run("convert '%d/one.safetensors' -o '%d/folder'"), 0);
    REQUIRE_EQ(run("convert '%d/one.safetensors' -o '%d' --overwrite"), 1);
    REQUIRE(says("no model_index.json")); /* not a model: left alone */
    REQUIRE(os_file_exists(in_dir("one.safetensors")));
    REQUIRE_EQ(run("info '%d/folder'"), 0);
    REQUIRE_EQ(run("convert '%d/one.safetensors'"), 2);
    REQUIRE(says("-o") && one_line());
    REQUIRE_EQ(run("convert '%d/one.safetensors' -o x.gguf"), 1);
    REQUIRE_EQ(run("convert '%d/one.safetensors' -o '%d/x' --precision f8"), 2);
    REQUIRE(says("f8"));
    REQUIRE_EQ(run("convert '%d/lora.safetensors' -o '%d/x'"), 1);
    REQUIRE(says("--adapter") && one_line() && !os_file_exists(in_dir("x")));
}

static void adapter_names(void) {
    static const struct { const char *name, *kind, *layout; int rank; } all[] = {
        {"lora_unet_mid_block_attentions_0_proj_in.lora_down.weight", "LoRA", "kohya", 0},
        {"base_model.model.mid_block.x.to_q.lora_A.weight", "LoRA", "PEFT", 0},
        {"unet.mid_block.x.to_q.lora_A.weight", "LoRA", "diffusers", 0},
        {"unet:3:down", "LoRA", "cloneofsimo", 0},
        {"lora_te_text_model_encoder_layers_0_self_attn_q_proj.dora_scale", "DoRA", "kohya", -1},
        {"base_model.model.mid_block.x.to_q.oft_R.weight", "OFT", "PEFT", -1},
        {"lycoris_mid_block_x.oft_blocks", "OFT", "LyCORIS", -1},
        {"base_model.model.mid_block.x.to_q.boft_R", "BOFT", "PEFT", -1},
        {"lora_unet_x.hada_w1_a", "LoHa", "kohya", 1},
        {"lora_unet_x.lokr_w1", "LoKr", "kohya", -1}};
    static const char *const none[] = {"unet:3:up", "lora_unet_x.lora_up.weight", "lora_unet_x.alpha",
                                       "lora_unet_x.hada_w2_a", "emb_params", ""};
    adapter_name n;
    for (size_t i = 0; i < ARRAY_LEN(all); i++) {
        REQUIRE(adapter_name_read(all[i].name, &n));
        REQUIRE(strcmp(n.kind, all[i].kind) == 0 && strcmp(n.layout, all[i].layout) == 0 && n.rank == all[i].rank);
    }
    for (size_t i = 0; i < ARRAY_LEN(none); i++) REQUIRE(!adapter_name_read(none[i], &n));
}

int main(int argc, char **argv) {
    REQUIRE(argc == 3);
    exe = argv[1], golden = argv[2];
    REQUIRE(mkdtemp(dir));
    adapter_names();
    test_models();
    test_others();
    test_convert();
    char cmd[64];
    snprintf(cmd, sizeof cmd, "rm -rf '%s'", dir);
    REQUIRE(system(cmd) == 0);
    printf("info: ok\n");
    return 0;
}
