/* Stands in for NVIDIA's management library in tests: devices come from FAKE_GPUS="name|MiB|minor;…". */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *entry(unsigned wanted, char *name, unsigned long long *mib, unsigned *minor) {
    const char *text = getenv("FAKE_GPUS");
    for (unsigned index = 0; text && *text; index++) {
        char one[200] = {0};
        size_t length = strcspn(text, ";");
        memcpy(one, text, length < 199 ? length : 199);
        if (index == wanted && sscanf(one, "%95[^|]|%llu|%u", name, mib, minor) == 3) return name;
        text += length + (text[length] == ';');
    }
    return NULL;
}

int nvmlInit_v2(void) { return getenv("FAKE_NVML_ERROR") ? 9 : 0; }
int nvmlShutdown(void) { return 0; }
const char *nvmlErrorString(int code) { return code == 9 ? "Driver Not Loaded" : "Unknown Error"; }

int nvmlDeviceGetCount_v2(unsigned *count) {
    char name[96]; unsigned long long mib; unsigned minor;
    for (*count = 0; entry(*count, name, &mib, &minor); ++*count) {}
    return 0;
}
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **handle) { *handle = (void *)(size_t)(index + 1); return 0; }
int nvmlDeviceGetName(void *handle, char *text, unsigned size) {
    char name[96]; unsigned long long mib; unsigned minor;
    entry((size_t)handle - 1, name, &mib, &minor);
    snprintf(text, size, "%s", name);
    return 0;
}
int nvmlDeviceGetUUID(void *handle, char *text, unsigned size) {
    snprintf(text, size, "GPU-fake-%zu", (size_t)handle - 1);
    return 0;
}
int nvmlDeviceGetMemoryInfo(void *handle, unsigned long long *memory) {
    char name[96]; unsigned long long mib; unsigned minor;
    entry((size_t)handle - 1, name, &mib, &minor);
    memory[0] = mib << 20; memory[1] = memory[2] = 0;
    return 0;
}
int nvmlDeviceGetMinorNumber(void *handle, unsigned *minor) {
    char name[96]; unsigned long long mib;
    entry((size_t)handle - 1, name, &mib, minor);
    return 0;
}
