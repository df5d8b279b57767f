/* test_cli.c: runs the program as a user does: exit codes and messages.
 * usage: test_cli PATH_OF_IMAGO
 * SPDX-License-Identifier: MIT */
#include "cli_run.h"
#include <cjson/cJSON.h>

static const char *exe;

/* Runs "env exe args", fills out with stdout and stderr, returns the exit code. */
static int run(const char *env, const char *args) {
    char head[1200];
    snprintf(head, sizeof head, "%s '%s'", env, exe);
    return cli_run(head, args, "", NULL);
}

static int lines(void) {
    int n = 0;
    for (const char *p = out; *p; p++) n += *p == '\n';
    return n;
}

static void test_usage(void) {
    REQUIRE_EQ(run("", ""), 2);
    REQUIRE(says("usage: imago COMMAND"));
    REQUIRE_EQ(run("", "--help"), 0);
    REQUIRE(says("devices") && says("IMAGO_CHECK"));
    REQUIRE_EQ(run("", "--version"), 0);
    REQUIRE_EQ(run("", "frobnicate"), 2);
    REQUIRE(says("'frobnicate' is not a command") && lines() == 1);
    REQUIRE_EQ(run("", "devices --yaml"), 2);
    REQUIRE(says("--yaml") && lines() == 1);
    REQUIRE_EQ(run("", "train-tiny --steps"), 2);
    REQUIRE(says("--steps wants a value"));
    REQUIRE_EQ(run("", "train-tiny --steps many"), 2);
    REQUIRE(says("'many'"));
    REQUIRE_EQ(run("", "train-tiny --steps=0"), 2);
    REQUIRE_EQ(run("", "train-tiny --help"), 0);
    REQUIRE(says("--checkpointing"));
}

static void test_devices(void) {
    REQUIRE_EQ(run("", "devices"), 0);
    REQUIRE(says("cpu") && says("<- auto"));
    REQUIRE_EQ(run("", "devices --json"), 0);
    cJSON *j = cJSON_Parse(out);
    REQUIRE(j != NULL);
    int autos = 0, cpus = 0;
    const cJSON *d;
    cJSON_ArrayForEach(d, cJSON_GetObjectItem(j, "devices")) {
        autos += cJSON_IsTrue(cJSON_GetObjectItem(d, "auto"));
        cpus += strcmp(cJSON_GetStringValue(cJSON_GetObjectItem(d, "id")), "cpu") == 0;
        REQUIRE(cJSON_GetNumberValue(cJSON_GetObjectItem(d, "memory_bytes")) > 1e6);
    }
    REQUIRE_EQ(autos, 1);
    REQUIRE_EQ(cpus, 1);
    cJSON_Delete(j);
    REQUIRE_EQ(run("", "train-tiny --device toaster"), 2);
    REQUIRE(says("'toaster'") && says("vulkan:N") && lines() == 1);
    REQUIRE(run("", "train-tiny --device vulkan:99") != 0);
    REQUIRE(lines() == 1);
    REQUIRE_EQ(run("", "train-tiny --precision f8"), 2);
}

/* No Vulkan driver: the program works on the cpu and says why Vulkan is not offered. */
static void test_no_vulkan(void) {
    const char *env = "VK_ICD_FILENAMES=/nonexistent.json VK_DRIVER_FILES=/nonexistent.json";
    REQUIRE_EQ(run(env, "devices"), 0);
    REQUIRE(says("cpu") && says("vulkan    not offered: "));
    REQUIRE(run(env, "train-tiny --device vulkan --steps 1") != 0);
    REQUIRE(lines() == 1);
    REQUIRE_EQ(run(env, "train-tiny --steps 2"), 0);
    REQUIRE(says("cpu"));
}

static void test_train(void) {
    REQUIRE_EQ(run("", "train-tiny --device cpu --steps 5 --precision f32"), 0);
    REQUIRE(says("cpu f32: loss") && says("in 5 steps"));
    REQUIRE_EQ(run("", "train-tiny --device cpu --steps 5 --precision bf16 --checkpointing"), 0);
    REQUIRE_EQ(run("", "train-tiny --device cpu --steps 5 --precision f16"), 0);
    REQUIRE_EQ(run("IMAGO_CHECK=finite,ref,guard", "train-tiny --device cpu --steps 2 --precision f32"), 0);
    REQUIRE(!strstr(out, "IMAGO_CHECK"));
}

int main(int argc, char **argv) {
    if (argc != 2) return printf("usage: test_cli PATH_OF_IMAGO\n"), 2;
    exe = argv[1];
    test_usage();
    test_devices();
    test_no_vulkan();
    test_train();
    printf("test_cli: passed\n");
    return 0;
}
