/* instance.c: the Vulkan loader, opened at run time, so that the program starts where there is
 * none; the validation layer when asked; the list of devices.
 * SPDX-License-Identifier: MIT */
#define VOLK_IMPLEMENTATION
#include "gpu/gpu_internal.h"
#include <stdio.h>

#define VALIDATION_LAYER "VK_LAYER_KHRONOS_validation"
#define MAX_DEVICES      64

static const char *result_name(VkResult r) {
    static const struct {
        VkResult r;
        const char *name;
    } names[] = {
        {VK_ERROR_OUT_OF_HOST_MEMORY, "out of host memory"},
        {VK_ERROR_OUT_OF_DEVICE_MEMORY, "out of device memory"},
        {VK_ERROR_DEVICE_LOST, "device lost"},
        {VK_ERROR_INITIALIZATION_FAILED, "initialisation failed"},
        {VK_ERROR_LAYER_NOT_PRESENT, "layer not present"},
        {VK_ERROR_EXTENSION_NOT_PRESENT, "extension not present"},
        {VK_ERROR_FEATURE_NOT_PRESENT, "feature not present"},
        {VK_ERROR_INCOMPATIBLE_DRIVER, "no compatible driver"},
        {VK_ERROR_TOO_MANY_OBJECTS, "too many objects"},
        {VK_ERROR_OUT_OF_POOL_MEMORY, "out of pool memory"},
        {VK_ERROR_FRAGMENTED_POOL, "fragmented pool"},
        {VK_ERROR_FRAGMENTATION, "fragmentation"},
        {VK_TIMEOUT, "timeout"},
        {VK_INCOMPLETE, "incomplete answer"},
    };
    for (size_t i = 0; i < ARRAY_LEN(names); i++)
        if (names[i].r == r) return names[i].name;
    return "unknown error";
}

status gpu_vk_fail(VkResult r, const char *call) {
    int n = (int)strcspn(call, "(");
    switch ((int)r) {
    case VK_ERROR_OUT_OF_HOST_MEMORY:
        return fail(E_HOST_MEMORY, "the Vulkan driver has no host memory left (%.*s)", n, call);
    case VK_ERROR_OUT_OF_DEVICE_MEMORY:
    case VK_ERROR_TOO_MANY_OBJECTS:
    case VK_ERROR_OUT_OF_POOL_MEMORY:
    case VK_ERROR_FRAGMENTED_POOL:
    case VK_ERROR_FRAGMENTATION:
        return fail(E_GPU_MEMORY,
                    "the GPU has no memory left (%.*s: %s): use a smaller size or batch, or "
                    "close other programs that use the GPU",
                    n, call, result_name(r));
    case VK_ERROR_DEVICE_LOST:
        return fail(E_DEVICE_LOST,
                    "the GPU stopped answering and was reset by its driver (%.*s): update the "
                    "driver, use a smaller size, or --device cpu",
                    n, call);
    }
    return fail(E_UNSUPPORTED,
                "the Vulkan driver refused %.*s: %s (%d): update the driver or use --device cpu", n,
                call, result_name(r), (int)r);
}

/* A VkExtensionProperties or layer list may grow between the two calls; VK_INCOMPLETE then only
 * hides what came last, and is accepted. */
static bool has_instance_extension(const char *layer, const char *name) {
    uint32_t n = 0;
    if (vkEnumerateInstanceExtensionProperties(layer, &n, NULL) != VK_SUCCESS || n == 0)
        return false;
    VkExtensionProperties *p = mem_alloc(n * sizeof *p);
    bool found = false;
    if (p && vkEnumerateInstanceExtensionProperties(layer, &n, p) >= 0)
        for (uint32_t i = 0; i < n && !found; i++) found = strcmp(p[i].extensionName, name) == 0;
    mem_free(p);
    return found;
}

static bool has_layer(const char *name) {
    uint32_t n = 0;
    if (vkEnumerateInstanceLayerProperties(&n, NULL) != VK_SUCCESS || n == 0) return false;
    VkLayerProperties *p = mem_alloc(n * sizeof *p);
    bool found = false;
    if (p && vkEnumerateInstanceLayerProperties(&n, p) >= 0)
        for (uint32_t i = 0; i < n && !found; i++) found = strcmp(p[i].layerName, name) == 0;
    mem_free(p);
    return found;
}

static VKAPI_ATTR VkBool32 VKAPI_CALL on_message(VkDebugUtilsMessageSeverityFlagBitsEXT severity,
                                                 VkDebugUtilsMessageTypeFlagsEXT types,
                                                 const VkDebugUtilsMessengerCallbackDataEXT *data,
                                                 void *user) {
    (void)types;
    gpu_instance *i = user;
    atomic_fetch_add(&i->errors, 1);
    bool error = severity & VK_DEBUG_UTILS_MESSAGE_SEVERITY_ERROR_BIT_EXT;
    log_to(error ? LOG_ERROR : LOG_WARN, "Vulkan validation: %s", data->pMessage);
    return VK_FALSE;
}

static VkDebugUtilsMessengerCreateInfoEXT messenger_info(gpu_instance *i) {
    return (VkDebugUtilsMessengerCreateInfoEXT){
        .sType = VK_STRUCTURE_TYPE_DEBUG_UTILS_MESSENGER_CREATE_INFO_EXT,
        .messageSeverity = VK_DEBUG_UTILS_MESSAGE_SEVERITY_ERROR_BIT_EXT |
                           VK_DEBUG_UTILS_MESSAGE_SEVERITY_WARNING_BIT_EXT,
        .messageType = VK_DEBUG_UTILS_MESSAGE_TYPE_VALIDATION_BIT_EXT,
        .pfnUserCallback = on_message,
        .pUserData = i,
    };
}

static status create_instance(gpu_instance *i) {
    status st = OK;
    const char *layers[1] = {VALIDATION_LAYER}, *ext[2];
    uint32_t n_ext = 0;
    VkInstanceCreateFlags flags = 0;
    if (has_instance_extension(NULL, VK_KHR_PORTABILITY_ENUMERATION_EXTENSION_NAME)) {
        ext[n_ext++] = VK_KHR_PORTABILITY_ENUMERATION_EXTENSION_NAME;
        flags |= VK_INSTANCE_CREATE_ENUMERATE_PORTABILITY_BIT_KHR;
    }
    if (i->validation) ext[n_ext++] = VK_EXT_DEBUG_UTILS_EXTENSION_NAME;
    VkDebugUtilsMessengerCreateInfoEXT messenger = messenger_info(i);
    /* Synchronisation validation checks the barriers of cmd.c against what the shaders touch. */
    VkValidationFeatureEnableEXT enable[] = {
        VK_VALIDATION_FEATURE_ENABLE_SYNCHRONIZATION_VALIDATION_EXT};
    VkValidationFeaturesEXT features = {
        .sType = VK_STRUCTURE_TYPE_VALIDATION_FEATURES_EXT,
        .pNext = &messenger,
        .enabledValidationFeatureCount = ARRAY_LEN(enable),
        .pEnabledValidationFeatures = enable,
    };
    VkApplicationInfo app = {
        .sType = VK_STRUCTURE_TYPE_APPLICATION_INFO,
        .pApplicationName = "imago",
        .pEngineName = "imago",
        .apiVersion = VK_API_VERSION_1_2,
    };
    VkInstanceCreateInfo info = {
        .sType = VK_STRUCTURE_TYPE_INSTANCE_CREATE_INFO,
        .pNext = i->validation ? &features : NULL,
        .flags = flags,
        .pApplicationInfo = &app,
        .enabledLayerCount = i->validation ? 1 : 0,
        .ppEnabledLayerNames = layers,
        .enabledExtensionCount = n_ext,
        .ppEnabledExtensionNames = ext,
    };
    VkResult r = vkCreateInstance(&info, NULL, &i->handle);
    if (r == VK_ERROR_INCOMPATIBLE_DRIVER)
        return fail(E_UNSUPPORTED,
                    "no Vulkan driver is installed: install the GPU vendor's driver or Mesa's "
                    "(mesa-vulkan-drivers)");
    if (r != VK_SUCCESS) TRY(gpu_vk_fail(r, "vkCreateInstance"));
    volkLoadInstanceOnly(i->handle);
    if (i->validation) {
        PFN_vkCreateDebugUtilsMessengerEXT create =
            (PFN_vkCreateDebugUtilsMessengerEXT)vkGetInstanceProcAddr(
                i->handle, "vkCreateDebugUtilsMessengerEXT");
        i->destroy_messenger = (PFN_vkDestroyDebugUtilsMessengerEXT)vkGetInstanceProcAddr(
            i->handle, "vkDestroyDebugUtilsMessengerEXT");
        i->insert_label = (PFN_vkCmdInsertDebugUtilsLabelEXT)vkGetInstanceProcAddr(
            i->handle, "vkCmdInsertDebugUtilsLabelEXT");
        if (!create || !i->destroy_messenger)
            TRY(gpu_vk_fail(VK_ERROR_EXTENSION_NOT_PRESENT, "vkCreateDebugUtilsMessengerEXT"));
        VK(create(i->handle, &messenger, NULL, &i->messenger));
    }
out:
    return st;
}

static status list_devices(gpu_instance *i) {
    status st = OK;
    VkPhysicalDevice handles[MAX_DEVICES];
    uint32_t n = MAX_DEVICES;
    VkResult r = vkEnumeratePhysicalDevices(i->handle, &n, handles);
    if (r == VK_INCOMPLETE) r = VK_SUCCESS;
    if (r == VK_ERROR_INITIALIZATION_FAILED) n = 0, r = VK_SUCCESS;
    if (r != VK_SUCCESS) TRY(gpu_vk_fail(r, "vkEnumeratePhysicalDevices"));
    if (n == 0) return fail(E_UNSUPPORTED, "Vulkan is installed, but its drivers found no device");
    i->dev = mem_zalloc(n * sizeof *i->dev);
    if (!i->dev) return fail(E_HOST_MEMORY, "no host memory to list %u Vulkan devices", n);
    for (uint32_t k = 0; k < n; k++) {
        st = gpu_physical_fill(i, handles[k], &i->dev[k]);
        if (st == E_HOST_MEMORY) TRY(st);
        if (st != OK) { /* one device with a broken driver does not hide the others */
            gpu_caps *c = &i->dev[k].caps;
            c->usable = false;
            snprintf(c->why_not, sizeof c->why_not, "%.150s", error_message());
            error_clear();
            st = OK;
        }
        i->n++;
    }
out:
    return st;
}

status gpu_instance_open(gpu_instance **out, bool validation) {
    status st = OK;
    *out = NULL;
    gpu_instance *i = mem_zalloc(sizeof *i);
    if (!i) return fail(E_HOST_MEMORY, "no host memory to open Vulkan");
    i->validation = validation;
    if (volkInitialize() != VK_SUCCESS)
        TRY(fail(
            E_UNSUPPORTED,
            "no Vulkan loader on this machine (libvulkan.so.1): install libvulkan1 and a driver"));
    uint32_t version = volkGetInstanceVersion();
    if (version < VK_API_VERSION_1_2)
        TRY(fail(E_UNSUPPORTED,
                 "the Vulkan loader is version %u.%u, 1.2 is needed: update libvulkan1",
                 VK_API_VERSION_MAJOR(version), VK_API_VERSION_MINOR(version)));
    if (validation && !has_layer(VALIDATION_LAYER))
        TRY(fail(E_UNSUPPORTED,
                 VALIDATION_LAYER " is not installed: install vulkan-validationlayers"));
    TRY(create_instance(i));
    TRY(list_devices(i));
    *out = i;
out:
    if (st != OK) gpu_instance_close(i);
    return st;
}

void gpu_instance_close(gpu_instance *i) {
    if (!i) return;
    if (i->messenger) i->destroy_messenger(i->handle, i->messenger, NULL);
    if (i->handle) vkDestroyInstance(i->handle, NULL);
    mem_free(i->dev);
    mem_free(i);
}

int gpu_instance_count(const gpu_instance *i) { return i->n; }
const gpu_caps *gpu_instance_caps(const gpu_instance *i, int index) {
    return index >= 0 && index < i->n ? &i->dev[index].caps : NULL;
}
int gpu_validation_errors(const gpu_instance *i) {
    return atomic_load(&((gpu_instance *)(uintptr_t)i)->errors);
}
